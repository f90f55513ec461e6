"""A functional localizer for language models: where is a concept, in which features, and which method deserves trust?

Five lines do the main job:

>>> import neurosae
>>> run = neurosae.compare("success", out="results")  # doctest: +SKIP
>>> run.claims, run.variants, run.scorecard  # doctest: +SKIP
>>> run.figure("method_comparison"); run.report()  # doctest: +SKIP
>>> neurosae.Run.load(run.folder)  # doctest: +SKIP

Every verb below is also a command (``python -m experiments.contrast_map --help``). Importing this package imports none
of them: a verb is fetched when it is first named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurosae.autointerp.explain import explain
    from neurosae.decoding.generalise import generalise
    from neurosae.dictionary.describe_sae import describe_sae
    from neurosae.discovery.discover import discover
    from neurosae.sae.check_sae import check_sae
    from neurosae.sae.evaluate_sae import evaluate_sae
    from neurosae.sae.top_features import top_features
    from neurosae.sae.train_sae import train_sae
    from neurosae.steering.influence import influence
    from neurosae.stimuli import StimulusSet
    from neurosae.study.run import Run, compare
    from neurosae.styles.prompt_styles import prompt_styles
    from neurosae.sweep.layer_sweep import layer_sweep
    from neurosae.univariate.contrast_map import contrast_map

_HOMES = {
    "Run": "study.run",
    "StimulusSet": "stimuli",
    "check_sae": "sae.check_sae",
    "compare": "study.run",
    "contrast_map": "univariate.contrast_map",
    "describe_sae": "dictionary.describe_sae",
    "discover": "discovery.discover",
    "evaluate_sae": "sae.evaluate_sae",
    "explain": "autointerp.explain",
    "generalise": "decoding.generalise",
    "influence": "steering.influence",
    "layer_sweep": "sweep.layer_sweep",
    "prompt_styles": "styles.prompt_styles",
    "top_features": "sae.top_features",
    "train_sae": "sae.train_sae",
}
__all__ = [
    "Run",
    "StimulusSet",
    "check_sae",
    "compare",
    "contrast_map",
    "describe_sae",
    "discover",
    "evaluate_sae",
    "explain",
    "generalise",
    "influence",
    "layer_sweep",
    "prompt_styles",
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
