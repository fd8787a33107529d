"""Every private name of another library that the sweep uses, each behind one small function that says why.

A private name may move with any release. `tests/sweep/test_private_names.py` looks for each one and says which library,
version and name it is, so that an upgrade that moves one is noticed there first.

One name is used where no function can stand for it: `sweep.workers.squeue.SqueueWatcher` overrides submitit's
`InfoWatcher._make_command`, and a method has to stand in its class. The test looks for it too.

Optuna and submitit are not loaded from here: whoever has their objects has loaded them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import create_functions
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from omegaconf import DictConfig

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from hydra._internal.grammar.functions import Functions
    from optuna import Study, Trial
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial


def apply_overrides(overrides: Sequence[Override], cfg: DictConfig) -> None:
    """Apply parsed overrides to `cfg`, in place, as Hydra does after composing.

    Hydra offers this only as a part of composing, and a grid composes each combination of groups but once.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), cfg)


def grammar_functions(**replaced: Callable[..., Any]) -> Functions:
    """Return the functions of Hydra's override grammar, with those of the names given replaced.

    `create_functions` is public, but what it returns is of a private class that refuses a name registered twice.
    """
    functions = create_functions()
    unknown = replaced.keys() - functions.functions.keys()
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: Hydra's grammar has no function of that name")
    functions.functions.update(replaced)
    return functions


def result_or_error(ended: JobReturn) -> Any:
    """Return what a Hydra job returned, or the exception that ended it.

    `JobReturn.return_value` would raise the exception, and print a line of its own first.
    """
    return ended._return_value


def fake_tensor_mode() -> AbstractContextManager[Any]:
    """Return a context in which PyTorch's tensors have shapes but no values, so that a large model takes no memory.

    The public meta device does less: what asks such a tensor for a value fails, and most models of transformers do.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def set_trial_attribute(study: Study, trial: Trial | FrozenTrial, key: str, value: Any) -> None:
    """Set a user attribute of a trial.

    Optuna's own `Trial.set_user_attr` needs a `Trial`, which only the process that asked for the trial has.
    """
    storage_of(study).set_trial_user_attr(trial._trial_id, key, value)


def storage_of(study: Study) -> BaseStorage:
    """Return the storage of a study, which Optuna's `Study` does not show."""
    return study._storage
