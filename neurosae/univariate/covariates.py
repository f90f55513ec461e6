"""Covariates of stimuli: what may differ between conditions besides the concept, one column of numbers each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from wordfreq import zipf_frequency

from neurosae.errors import UserError, unknown_name
from neurosae.responses import Responses
from neurosae.stimuli import StimulusSet
from neurosae.stimuli.checks import WORD

MEASURES = {
    "tokens": "length in tokens",
    "words": "length in words",
    "zipf": "mean Zipf frequency of the words in English (log10 per billion words)",
    "surprisal": "mean surprisal in nats per token, which takes a language model",
}


def covariate_table(
    stimuli: StimulusSet,
    names: Sequence[str],
    *,
    responses: Responses | None = None,
    surprisal: Callable[[Sequence[str]], np.ndarray] | None = None,
) -> pd.DataFrame:
    """Compute covariates by name.

    Parameters
    ----------
    stimuli : StimulusSet
    names : sequence of str
        Of `MEASURES` or ratings of the stimulus file.
    responses : Responses, optional
        Of these stimuli; needed for ``'tokens'``, which counts their text tokens.
    surprisal : callable, optional
        Texts -> mean surprisal of each; needed for ``'surprisal'``, such as `neurosae.models.surprisal` of a model.

    Returns
    -------
    DataFrame
        One row per stimulus, one float64 column per name; NaN where a stimulus has no such rating.

    Raises
    ------
    UserError
        Unknown name, or one that needs what was not given.

    Examples
    --------
    >>> from neurosae.stimuli import load
    >>> covariate_table(load("continuation"), ["words", "zipf"]).shape
    (120, 2)
    """
    texts = stimuli.table["text"].tolist()
    words = [re.findall(WORD, text.lower()) for text in texts]

    def values(name: str) -> object:
        if name in stimuli.ratings:
            return stimuli.table[name].to_numpy()
        if name == "words":
            return [len(each) for each in words]
        if name == "zipf":
            return [np.mean([zipf_frequency(word, "en") for word in each]) if each else np.nan for each in words]
        if name == "tokens" and responses is not None:
            owners = responses.tokens.loc[responses.tokens["role"] == "text", "stimulus"]
            return np.bincount(owners, minlength=len(texts))
        if name == "surprisal" and surprisal is not None:
            return surprisal(texts)
        if name in MEASURES:
            raise UserError(f"'{name}' needs {'responses' if name == 'tokens' else 'a language model'}", where=name)
        raise unknown_name("covariate", name, [*MEASURES, *stimuli.ratings])

    return pd.DataFrame({name: np.asarray(values(name), dtype=np.float64) for name in names}, index=range(len(texts)))
