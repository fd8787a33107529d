"""Keep Hydra from checking conf/hydra/launcher/*.yaml against the entries that launcher plugins register.

A launcher plugin registers an entry of the same name. Hydra 1.3 would check our file against it, with a warning at each
start, and refuse every key that the entry lacks, such as srun_args.
"""

from __future__ import annotations

from importlib import resources

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin

_OURS = "pkg://conf"


class OwnPresets(SearchPathPlugin):
    """Drops the plugins' entries that our own presets replace."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Drop the entries; Hydra calls this when all plugins have registered theirs and before it reads any config."""
        if all(element.path != _OURS for element in search_path.get_path()):
            return  # another program in the same environment, which has no presets of ours
        registered = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
        for preset in resources.files("conf").joinpath("hydra", "launcher").iterdir():
            registered.pop(preset.name, None)
