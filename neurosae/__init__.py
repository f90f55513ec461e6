"""A functional localizer for language models: where is a concept, in which features, and which method deserves trust?

>>> import neurosae
>>> checked = neurosae.check_sae()  # doctest: +SKIP
>>> found = neurosae.top_features("The choir sang on.")  # doctest: +SKIP

Every verb below is also a command (``python -m experiments.check_sae --help``). Importing this package imports none
of them: a verb is fetched when it is first named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurosae.dictionary.describe_sae import describe_sae
    from neurosae.sae.check_sae import check_sae
    from neurosae.sae.evaluate_sae import evaluate_sae
    from neurosae.sae.top_features import top_features
    from neurosae.sae.train_sae import train_sae
    from neurosae.stimuli import StimulusSet

_HOMES = {
    "StimulusSet": "stimuli",
    "check_sae": "sae.check_sae",
    "describe_sae": "dictionary.describe_sae",
    "evaluate_sae": "sae.evaluate_sae",
    "top_features": "sae.top_features",
    "train_sae": "sae.train_sae",
}
__all__ = [
    "StimulusSet",
    "check_sae",
    "describe_sae",
    "evaluate_sae",
    "top_features",
    "train_sae",
]


def __getattr__(name: str) -> Any:
    """Fetch a verb from the room it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module 'neurosae' has no attribute '{name}'")
    return getattr(importlib.import_module(f"neurosae.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The verbs, for TAB."""
    return sorted({*globals(), *__all__})
