"""Measure a trained SAE on held-out text.

config     the settings of the measures
positions  which tokens are replaced and measured
clean      the pass of the unchanged LM that everything is compared with
baselines  the cross-entropies of the LM alone: unchanged, zero-ablated, mean-ablated
measures   what the SAE preserves: reconstruction, cross-entropy recovered, KL
contexts   the text around each latent's strongest activations

Records and conf/eval/ name `EvalConfig` as a member of this package, so it stays importable from it.
"""

from sweep.measures.config import EvalConfig

__all__ = ["EvalConfig"]
