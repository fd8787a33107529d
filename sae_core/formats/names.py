"""The formats by their names: those that SAEs are written in for other libraries, and all that can be read."""

from __future__ import annotations

from types import ModuleType

from sae_core.formats import dictionary_learning, own, saelens_files, sparsify

FORMATS: dict[str, ModuleType] = {
    "saelens": saelens_files,
    "sparsify": sparsify,
    "dictionary_learning": dictionary_learning,
}
READERS: dict[str, ModuleType] = {**FORMATS, "sae_core": own}
