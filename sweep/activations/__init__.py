"""Activations of the language model, captured once and kept on disk.

cache       the entries that one LM pass writes, and reading them
local_copy  a copy of an entry on a disk of the machine's own
"""
