"""Measure a trained SAE on held-out text.

config     the settings of the measures
positions  which tokens are replaced and measured
clean      what the unchanged LM makes of the held-out windows, from the hook point up
baselines  the cross-entropies of the LM alone: unchanged, zero-ablated, mean-ablated
rounding   what a dtype of fewer bits changes of the LM's cross-entropy
measures   what the SAE preserves: reconstruction, cross-entropy recovered, KL
stopwatch  how long the SAE's encoder takes
contexts   the text around each latent's strongest activations

Records and conf/eval/ name `EvalConfig` as a member of this package, so it stays importable from it.
"""

from sweep.measures.config import EvalConfig

__all__ = ["EvalConfig"]
