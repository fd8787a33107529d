"""Encode + TopK and decode, for sparse and dense atoms alike, and their gradients.

`reference` states each operation in a few dense lines; every other backend has the same signatures and is held to
it by `tests/contracts/test_kernels.py`.
"""
