"""Train an SAE on batches of activations.

config   the recipe
state    the optimizer, counters and reports that a checkpoint holds
streams  batches in the order that a seed gives, shared by several trainings
loop     the training itself

Records and conf/train/ name `TrainConfig` as a member of this package, so it stays importable from it.
"""

from sweep.train.config import TrainConfig

__all__ = ["TrainConfig"]
