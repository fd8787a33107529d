"""Say before a sweep starts which runs it makes, and what they would store and take.

`plan` builds every distinct cell's run and leaves impossible cells out; `rows` adds each run's state and the runs that
it needs first; `totals` adds up time, memory and disk; `report` prints them (`plan=true`). `footprint` predicts storage
and memory from sizes; `estimate` time, from `past` (finished runs), `steps` (probes of training steps) and `workload`
(predicted work). `outliers` says which layers have tokens that are not ordinary.
"""
