"""Search instead of running a grid (`hydra/sweeper=optuna_frontier`): an Optuna study whose trials are runs.

`config` checks the settings of a search; `space` reads what is searched; `samplers` makes the samplers that draw trials
and the pruners that end trials early; `storage` opens the place where the study is kept, and `opening` the study in it;
`controller` tells which process owns a trial; `trials` asks for trials and frees those of dead controllers; `cells`
builds the run that has a trial's values; `objectives` is what can be looked for, and `outcome` reads it from the run's
record; `front` has the runs that no other betters; `pruning` stops bad runs early, by their `curves` and the
`front_rule`; `search` is the loop over all of these; `report` writes the CSVs and prints the table. The sweeper calls
`run_search`, which uses all of them; `preview` prints what `plan=true` shows instead.
"""
