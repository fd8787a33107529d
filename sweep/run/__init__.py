"""Carry a job out.

once       carries out each run once, whoever asks, alone or with others that want the same batches
stages     the stages of one run: activations, training, saving, measuring
pools      the activations that a run trains on, made where the cache has none
examine    measures a trained SAE for its record
finished   reads back the SAEs of finished runs that others need
pairs      compares the SAEs of finished runs that differ in a seed, and rounded ones with their originals
recovery   carries out a synthetic experiment
recording  the record, the log and the tracker that every run leaves behind
loaded     what the runs of one process share: LM, tokenizer, windows
"""
