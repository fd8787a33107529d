"""What this machine has, and how processes share it.

gpus     the devices that runs compute on, and the lock that gives a GPU to one run
process  settings of this process: memory that is kept, the garbage collector
workers  how many workers a launcher starts, and the CPU threads of each
"""
