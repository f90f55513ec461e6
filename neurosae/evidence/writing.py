"""What the language model writes with a variant pushed towards its target, towards its foil, and not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from neurosae.models import LanguageModel
from neurosae.steering.causal import EndingPairs
from neurosae.steering.generation import generate
from neurosae.steering.interventions import Intervention, NothingChanged

UNSTEERED, TARGET, FOIL = "unsteered", "towards target", "towards foil"


def prompts(pairs: EndingPairs, most: int = 4) -> list[dict[str, Any]]:
    """Shared beginnings of held-out pairs, evenly spaced over the file.

    Parameters
    ----------
    pairs : EndingPairs
    most : int, default 4

    Returns
    -------
    list of dict
        `text`, `ids` (tokens, the sink token in front), `target` and `foil` (ids of the two stimuli).
    """
    usable = pairs.usable
    spread = np.linspace(0, len(usable) - 1, min(most, len(usable)))
    return [
        {
            "text": str(usable["shared"].iloc[i]),
            "ids": [int(token) for token in pairs.target_ids[i][: pairs.starts[i]]],
            "target": str(usable["target"].iloc[i]),
            "foil": str(usable["foil"].iloc[i]),
        }
        for i in spread.round().astype(int).tolist()
    ]


def written(
    language_model: LanguageModel,
    started: Sequence[dict[str, Any]],
    changes: Mapping[str, Intervention],
    *,
    n_tokens: int = 24,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Continue every prompt under every condition, the likeliest token each time, so that only the change differs.

    Parameters
    ----------
    language_model : LanguageModel
    started : list of dict
        As of `prompts`.
    changes : mapping of str to Intervention
        By condition; `UNSTEERED` is added in front.
    n_tokens : int, default 24
    seed : int, default 0

    Returns
    -------
    list of dict
        One per prompt and condition: `prompt` (its number), `condition`, `text` (the continuation), `reason` (why it is
        empty, if it is).
    """
    ids, found = [prompt["ids"] for prompt in started], []
    conditions: dict[str, Intervention | None] = {UNSTEERED: None, **changes}
    for condition, change in conditions.items():
        try:
            new = generate(language_model, ids, n_tokens=n_tokens, intervention=change, seed=seed)
            reasons = ["" if row else "the model ends the text at once" for row in new]
        except NothingChanged as error:
            new, reasons = [[] for _ in ids], [error.what for _ in ids]
        for number, (row, reason) in enumerate(zip(new, reasons, strict=True)):
            text = language_model.tokenizer.decode(row)
            found.append({"prompt": number, "condition": condition, "text": text, "reason": reason})
    return found


def scored(
    texts: Sequence[dict[str, Any]], started: Sequence[dict[str, Any]], judge: Callable[[Sequence[str]], Any]
) -> list[dict[str, Any]]:
    """The same with `score`: the judge's value of prompt and continuation, read unsteered; None without text."""
    whole = [started[row["prompt"]]["text"] + row["text"] for row in texts]
    scores = np.asarray(judge(whole), dtype=np.float64)
    return [row | {"score": float(s) if row["text"] else None} for row, s in zip(texts, scores, strict=True)]
