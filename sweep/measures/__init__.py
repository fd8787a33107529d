"""The measurements of a trained SAE on held-out text.

Records and conf/eval/ name `EvalConfig` as a member of this package, so it stays importable from it.
"""

from sweep.measures.config import EvalConfig

__all__ = ["EvalConfig"]
