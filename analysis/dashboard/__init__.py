"""The Weights & Biases dashboard as code: `python -m analysis.dashboard` makes a workspace and a report of a launch.

Panels name what the tracker logs by `sweep.store.metric_names` alone. `shown` finds the runs that are meant, `panels`
says how they are drawn, and `workspace` and `report` give each panel its place. `dominance` computes the dominance
table with `analysis.tables` and takes the arms' colours from `analysis.arms`; `markdown` writes that table. `saving`
writes workspace and report to files and sends them to a server. `private_names` has every private name of the library
wandb_workspaces that the others need.
"""
