"""Sparse dictionaries and the sparse autoencoders built on them."""
