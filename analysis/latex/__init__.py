"""Write tables in LaTeX.

write       a table with text escaped and intervals, for booktabs
paper       the paper's tables 1, 7 and 10
deployment  tables 2 and 3
verdicts    who wins: dominance, and arm against arm
latents     each arm's latents
"""
