"""Everything that is on disk about runs. Standard library only, so that `analysis` may import it.

records       a run's record: its schema, reading and writing it
launches      the launches of a run store, and how the runs that each asked for stand
once_said     what is said on the terminal once per launch
progress      the small file in which a run under way says what it is doing
lock_holders  who holds a run's lock
files         files that appear whole or not at all
hashes        hashes of files, remembered, and short hashes of values
versions      the packages and the code that made a result
metric_names  the names of everything logged to Weights & Biases
human_size    numbers of bytes as people read them
"""
