"""Read run records.

sources     the places that records can be read from
load        records from a folder, a packed file, the shipped file or Weights & Biases
remote      records from Weights & Biases
packing     many records as one small file
records     records as tidy tables
comparable  the choice of runs that may stand in one figure
"""
