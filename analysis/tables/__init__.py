"""Compute what figures and tables show, from tidy tables of records. Nothing here draws.

frontier, pareto, dominance, wins    which arm preserves how much, at which size
floor                                what a random dictionary scores, beside every score
meaning, probing, three_axes         what latents mean, alone and beside bytes and fidelity
measures                             the measures that dominance compares
controls, curves, pursuits, latents  the control experiments, training, ways to read codes, latents
deployment, paper, published         stored bytes, the paper's tables, the paper's own cells
pairs, stats                         differences paired by seed, and intervals over seeds
"""
