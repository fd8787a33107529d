"""Activations made of known features, so that it can be measured which of them an SAE finds.

The data are those of SynthSAEBench (arXiv 2602.14687), as `sae_lens.synthetic` defines them. A synthetic model takes
the place of the LM: its "tokens" are numbers of samples, its one "layer" gives their activations, and everything that
trains and stores SAEs of an LM serves here too.

config      the settings, and which samples are trained on or held out
features    what a model is made of
model       makes samples by number
measure     what an SAE preserves and finds of held-out samples
"""

from sweep.synthetic.config import SyntheticConfig, SyntheticCorpus

__all__ = ["SyntheticConfig", "SyntheticCorpus"]
