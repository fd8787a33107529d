"""Compose the config of every cell of a sweep, as Hydra would one by one, but each combination of groups only once.

A cell is one combination of the values that a sweep lists.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from sweep.private_names import apply_overrides


class Composer:
    """Returns the config of a cell, without its `hydra` node, when it is called with the cell's overrides.

    Hydra composes the overrides that choose a config group, once for each combination of choices. Overrides
    `key=value` are then applied to a copy, by the function with which Hydra itself applies them after composing.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig):
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create(config_loader=loader)
        self._groups: dict[str, bool] = {}
        self._parsed: dict[str, Override] = {}
        self._composed: dict[tuple[str, ...], bytes] = {}  # pickled: a copy takes a sixth of deepcopy's time

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        chosen = tuple(text for text in overrides if self._chooses_a_group(text))
        if chosen not in self._composed:
            self._composed[chosen] = pickle.dumps(self._compose(list(chosen)))
        cfg: DictConfig = pickle.loads(self._composed[chosen])
        values = [self._parse(text) for text in overrides if not self._chooses_a_group(text)]
        apply_overrides(values, cfg)
        OmegaConf.set_struct(cfg, False)
        return cfg

    def _parse(self, text: str) -> Override:
        if text not in self._parsed:
            (self._parsed[text],) = self._parser.parse_overrides([text])
        return self._parsed[text]

    def _chooses_a_group(self, text: str) -> bool:
        key = text.split("=", 1)[0]
        if key not in self._groups:
            plain = key.lstrip("+~").split("@")[0]
            self._groups[key] = "@" in key or plain.startswith("hydra") or self._loader.get_group_options(plain) != []
        return self._groups[key]

    def _compose(self, overrides: list[str]) -> DictConfig:
        cfg = self._loader.load_sweep_config(self._master, overrides)
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        OmegaConf.set_struct(cfg, True)  # so that an unknown key is refused, as Hydra does
        return cfg
