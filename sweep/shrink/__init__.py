"""Making an SAE smaller, for `python -m sweep.compress`.

original   the SAE as a run of its own: its CE recovered, its latents that are of use
cells      the sizes, bits and readings that fit a number of bytes
chosen     the best one of a search, written with the table of its latents and the figure of all that was tried
"""
