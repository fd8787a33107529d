"""Weights & Biases. README.md in this folder lists every name that is logged.

wandb_tracker  the session that logs a run
outage         whether the server can be reached, and the failures that the runs of a launch share
"""
