"""Activations of the language model, captured once and kept on disk.

cache       what an entry is, and reading it
parts       the LM pass, in parts that several processes share and a killed one goes on from
capture     makes the missing entries of a pass's parts
feed        activations straight from the LM, through a buffer in memory
held_out    the activations of held-out windows, for measuring from the hook point up
logits      the unchanged LM's logits on held-out windows
writer      one entry while it is written
norms       what is known of the tokens' norms at a layer
local_copy  a copy of an entry on a disk of the machine's own
"""
