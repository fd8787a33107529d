"""The search of `hydra/sweeper=optuna_frontier`: an Optuna study whose trials are runs of the run store.

`config` what is asked; `space` what is searched; `samplers` who draws; `storage` where the study is kept; `controller`
who owns a trial; `trials` asking for one and freeing those of the dead; `outcome` what a run's record says of a trial;
`pruning` stopping a bad run early; `search` the loop; `report` the CSVs and the table; `cells`, `opening` and
`launch` join these to the config.
"""
