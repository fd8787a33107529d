"""Carry out a sweep's runs in the workers that a Hydra launcher starts.

`start` starts them and goes on after lost ones; `worker` takes runs from the sweep's list; `squeue` tells submitit what
became of Slurm's jobs; `display` shows runs while they are under way; `table` prints how they ended.
"""
