"""Codes by pursuit: what a dictionary can do when its one-shot encoder is out of the way.

`reference` states each algorithm for one target on dense atoms in float64; `batched` are the fast ones on any
dictionary, and `solvers` finds them by name. Speed is in tests/benchmarks/results/pursuits.md.
"""
