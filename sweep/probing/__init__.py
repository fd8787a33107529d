"""Sparse probing: can a few latents tell a concept that people have a name for?

sets    labelled texts, and labelled tokens of program code
probe   the score: a logistic regression on the few latents whose means differ most
scores  the scores of an SAE's codes, and of the activations that they are codes of
"""
