"""Tables of a run beside its scores: the stimuli and how they were decided, and what else tells the sides apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from neurosae.capture import TEXT
from neurosae.models import LanguageModel
from neurosae.responses import Responses
from neurosae.sites import Site
from neurosae.steering.endings import Endings
from neurosae.stimuli import LabelledContrast
from neurosae.stimuli import checks as stimulus_checks
from neurosae.stimuli.checks import LEXICAL, Surprisal

LEVEL = 0.05
BATCH, LONG = 16, 64
"""Texts at once where the logits of all their tokens are held; those of more tokens than that are read one by one."""


def stimulus_table(sides: LabelledContrast, responses: Responses, decision_S: ArrayLike | None) -> pd.DataFrame:
    """The stimuli of a contrast, in the order of the file.

    Parameters
    ----------
    sides : LabelledContrast
    responses : Responses
        Of the whole stimulus set, at any site: for the number of tokens.
    decision_S : array [S] or None
        Held-out decision of a variant for every stimulus of the contrast.

    Returns
    -------
    DataFrame
        `id`, `text`, `side`, `sign`, `domain` (empty where there is none), `item` (number of what was written
        together), `n_tokens` (of the text), `decision` (NaN without one).
    """
    table, tokens = sides.table, responses.tokens
    of_text = tokens["stimulus"][(tokens["role"] == TEXT).to_numpy()]
    n_tokens = np.bincount(of_text, minlength=len(sides.stimuli.table))[sides.rows]
    return pd.DataFrame(
        {
            "id": table["id"],
            "text": table["text"],
            "side": sides.side_S,
            "sign": sides.labels_S,
            "domain": table["domain"].fillna("").astype(str),
            "item": sides.groups_S,
            "n_tokens": n_tokens,
            "decision": np.full(len(table), np.nan) if decision_S is None else np.asarray(decision_S, dtype=np.float64),
        }
    )


def surprisal(language_model: LanguageModel) -> Surprisal:
    """Mean surprisal of texts, in nats per token, in batches: on two cores a tenth of the time of one by one.

    A batch holds as many logits as its longest text times its size, so that long texts are kept out of batches.

    Parameters
    ----------
    language_model : LanguageModel

    Returns
    -------
    callable
        As `neurosae.stimuli.checks.check` takes it.
    """
    last = Site(language_model.n_blocks - 1)

    def nats(texts: Sequence[str]) -> NDArray[np.float64]:
        ids = language_model.token_ids(texts)
        is_long_S = np.array([len(row) > LONG for row in ids])
        nats_S = np.empty(len(ids))
        for rows, at_once in ((np.flatnonzero(~is_long_S), BATCH), (np.flatnonzero(is_long_S), 1)):
            if len(rows):
                endings = Endings(language_model, [ids[i] for i in rows], [1] * len(rows), last, batch_size=at_once)
                nats_S[rows] = -endings.log_p()[0]
        return nats_S

    return nats


def confound_table(sides: LabelledContrast, tokenizer: Any = None, surprisal: Surprisal | None = None) -> pd.DataFrame:
    """What ought not to differ between the sides of a contrast, with a verdict in words.

    Parameters
    ----------
    sides : LabelledContrast
    tokenizer, surprisal
        As in `neurosae.stimuli.checks.check`.

    Returns
    -------
    DataFrame
        One row per `measure` (tokens, surprisal, zipf, ratings; last the bag of words): `target`, `foil` (means),
        `difference`, `test`, `n`, `p` (NaN for the bag of words), `value` (its balanced accuracy, else NaN), `verdict`.

    Examples
    --------
    >>> from neurosae.stimuli import load
    >>> confound_table(LabelledContrast.of(load("continuation")))["measure"].tolist()
    ['words', 'surprisal', 'zipf', 'bag of words']
    """
    this_one = replace(sides.stimuli, contrasts={sides.contrast.name: sides.contrast})
    report = stimulus_checks.check(this_one, tokenizer, surprisal)
    table, words = report.confounds.drop(columns="contrast"), report.contrasts.iloc[0]
    baseline = {"measure": "bag of words", "test": "cross-validated balanced accuracy", "n": len(sides.rows)}
    table = table.assign(value=np.nan, verdict=[_verdict(row) for row in table.to_dict("records")])
    baseline |= {"value": words["bag_of_words"], "verdict": _lexical(float(words["bag_of_words"]), str(words["note"]))}
    return pd.concat([table.drop(columns="note"), pd.DataFrame([baseline])], ignore_index=True)


def _verdict(row: dict[Any, Any]) -> str:
    if not np.isfinite(row["p"]):
        return f"not tested: {row['note']}"
    differs = f"differs between the sides (p = {row['p']:.3g}): a confound to keep in mind"
    return differs if row["p"] <= LEVEL else "no difference found"


def _lexical(accuracy: float, note: str) -> str:
    if not np.isfinite(accuracy):
        return f"not computed: {note}"
    return "lexical: words alone tell the sides apart" if accuracy > LEXICAL else "words alone do not tell them apart"
