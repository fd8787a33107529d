"""Encode + TopK, decode, residual and unit norm, for sparse and dense atoms alike, and their gradients.

`reference` states each operation in a few dense lines. A fast backend (`cpu`, `gpu`, `torch_gather`) is six plain
functions, `autograd` makes them differentiable, and `tests/contracts/test_kernels.py` holds them to the reference.
"""
