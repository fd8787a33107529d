"""Launch, train, measure and record runs. A file in this folder is a command; a folder is a room:

store        everything on disk about runs: records, launches, locks, progress
machine      GPUs, CPUs and memory of this machine
corpus       text as documents, and token windows of them
lm           find and load a language model, capture and replace its residual stream
activations  the cache of activations that one LM pass fills
train        the training loop, its recipe, state and stream of batches
measures     what a trained SAE preserves, on held-out text
tracking     Weights & Biases
embedded     the small language model that ships with the project
jobs         from a config to a job: the run's spec, its id, what carrying it out needs
run          carry a job out, once, and record it
plan         which runs a sweep makes, and what they would take
workers      processes that take runs from a sweep's list; the terminal's lines and table
study        searches instead of grids, by Optuna
"""
