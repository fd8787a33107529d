"""The arms of the frontier, one file each: an arm says which SAE is trained, and so what it stores.

Config files name these classes, and the classes' fields are the config's keys. Sections 2 and 4 of the paper define
the arms.
"""

from sae_core.arms.banded import Banded
from sae_core.arms.base import TOPK, Arm, Sizes
from sae_core.arms.clustered import Clustered
from sae_core.arms.compressed import Compressed
from sae_core.arms.dense_low_rank import DenseLowRank
from sae_core.arms.dense_matched import DenseMatched, DenseMatchedOwn
from sae_core.arms.dense_own import DenseRandInit, DenseWarmTied
from sae_core.arms.dense_tied import DenseTied
from sae_core.arms.dynamic import Dynamic
from sae_core.arms.expander import Expander
from sae_core.arms.expander_balanced import ExpanderBalanced
from sae_core.arms.few_bits import FewBits
from sae_core.arms.frozen_random import FrozenRandom
from sae_core.arms.imported import Imported
from sae_core.arms.itda import ITDA
from sae_core.arms.kron import Kron
from sae_core.arms.pca import PCA
from sae_core.arms.prefix import Prefix
from sae_core.arms.product_quantised import ProductQuantised
from sae_core.arms.pruned_retuned import PrunedRetuned
from sae_core.arms.quantised import Quantised
from sae_core.arms.soft_frozen import SoftFrozen
from sae_core.arms.trellis_coded import TrellisCoded
from sae_core.sizes import CellError

__all__ = [
    "ITDA",
    "Imported",
    "PCA",
    "TOPK",
    "Arm",
    "Banded",
    "CellError",
    "Clustered",
    "Compressed",
    "DenseLowRank",
    "DenseMatched",
    "DenseMatchedOwn",
    "DenseRandInit",
    "DenseTied",
    "DenseWarmTied",
    "Dynamic",
    "Expander",
    "ExpanderBalanced",
    "FewBits",
    "FrozenRandom",
    "Kron",
    "Prefix",
    "ProductQuantised",
    "PrunedRetuned",
    "Quantised",
    "Sizes",
    "SoftFrozen",
    "TrellisCoded",
]
