"""The Weights & Biases dashboard as code: `python -m analysis.dashboard` makes a workspace and a report of a launch.

Panels name what the tracker logs by `sweep.store.metric_names` alone. `shown` says which runs are meant, `panels` how they
are drawn, `workspace` and `report` where each panel stands; `figures` asks `analysis` for the dominance table and the
arms' colours, `markdown` writes that table, `saving` sends both to a server.
"""
