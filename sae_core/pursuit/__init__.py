"""Codes by pursuit: a search for good codes that shows what a dictionary can do without its one-shot encoder.

`reference` states each algorithm for one target on dense atoms in float64; `batched` has the fast ones for any
dictionary, and `solvers` finds them by name. tests/benchmarks/results/pursuits.md has their speed.
"""
