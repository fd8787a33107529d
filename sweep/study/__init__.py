"""Search instead of running a grid (`hydra/sweeper=optuna_frontier`): an Optuna study whose trials are runs.

`config` checks the settings of a search; `space` reads what is searched; `samplers` makes the samplers that draw trials
and the pruners that end trials early; `storage` opens the place where the study is kept, and `opening` the study in it;
`controller` tells which process owns a trial; `trials` asks for trials and frees those of dead controllers; `cells`
builds the run that has a trial's values; `outcome` reads from the run's record how the trial ends; `pruning` stops bad
runs early; `search` is the loop over all of these; `report` writes the CSVs and prints the table. The sweeper calls
`run_search`, which uses all of them; `preview` prints what `plan=true` shows instead.
"""
