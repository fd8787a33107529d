"""Training an SAE on batches of activations.

Records and conf/train/ name `TrainConfig` as a member of this package, so it stays importable from it.
"""

from sweep.train.config import TrainConfig

__all__ = ["TrainConfig"]
