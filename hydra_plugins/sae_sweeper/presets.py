"""Lets conf/hydra/launcher/*.yaml stand for themselves.

A launcher plugin registers an entry of the same name. Hydra 1.3 would check ours against it, with a warning at each
start, and refuse every key that the entry lacks, such as srun_args.
"""

from __future__ import annotations

from importlib import resources

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin

_OURS = "pkg://conf"


class OwnPresets(SearchPathPlugin):
    """Hydra calls it when all plugins have registered their entries and before it reads any config."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if all(element.path != _OURS for element in search_path.get_path()):
            return  # another program of the same environment
        registered = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
        for preset in resources.files("conf").joinpath("hydra", "launcher").iterdir():
            registered.pop(preset.name, None)
