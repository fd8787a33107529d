"""Draw figures. A file here has the name of the file in `analysis/tables` whose table it draws.

shared  styles, axes, legends and saving, for all figures
lines   panels of lines with intervals
panels  the choice and the places of a figure's panels
styles  looks of lines that say more than the arm
floor   what a random dictionary scores, in grey
labels  texts beside points, without overlaps
stairs  the staircase through a Pareto set
"""
