"""The Hydra config tree: data only. `python -m sweep --help` lists it."""
