"""Search instead of running a grid (`hydra/sweeper=optuna_frontier`): an Optuna study whose trials are runs.

`config` checks what is asked; `space` reads what is searched; `samplers` names who draws trials and who ends one early;
`storage` opens the place where the study is kept, `opening` the study in it; `controller` tells who owns a trial;
`trials` asks for trials and frees those of dead controllers; `cells` makes a run of a trial's values; `outcome` reads
from the run's record how the trial ends; `pruning` stops bad runs early; `search` is the loop over all of these;
`report` writes the CSVs and prints the table; `run_search` is the whole, as the sweeper calls it, and `preview` what
`plan=true` prints instead.
"""
