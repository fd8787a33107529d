"""Codes by pursuit: what a dictionary can do when its one-shot encoder is out of the way.

`reference` states each algorithm for one target on dense atoms in float64; every faster one is held to it.
"""
