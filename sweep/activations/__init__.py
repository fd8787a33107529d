"""Activations of the language model, captured once and kept on disk.

cache       what an entry is, and reading it
capture     the LM pass that makes the missing entries
writer      one entry while it is written
norms       what is known of the tokens' norms at a layer
local_copy  a copy of an entry on a disk of the machine's own
"""
