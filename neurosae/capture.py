"""Capture: stimuli through a language model once, activations out at every site asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from neurosae.errors import UserError
from neurosae.forward import stream
from neurosae.models import LanguageModel
from neurosae.norms import LIMIT, median_norms
from neurosae.responses import Responses
from neurosae.sites import Site

SINK, TEMPLATE, TEXT = "sink", "template", "text"


@dataclass(frozen=True)
class Prompt:
    """One stimulus as the model sees it: token ids, what each token is, and which lie in the target span."""

    ids: list[int]
    roles: list[str]
    target: list[bool]


def make_prompts(
    language_model: LanguageModel, table: pd.DataFrame, chat: bool | dict[str, Any] | None = None
) -> list[Prompt]:
    """Tokenise stimuli: a sink token, then the text, inside the model's chat template if asked for.

    Parameters
    ----------
    language_model : LanguageModel
    table : DataFrame
        Column `text`; optionally `target_start` and `target_end` (character offsets, missing where there is none).
    chat : bool or dict, optional
        True puts each text into the chat template as the user's message; {"system": "..."} sets the system prompt.

    Raises
    ------
    UserError
        A text longer than the context, or a model without a chat template.
    """
    tokenizer = language_model.tokenizer
    texts = table["text"].tolist()
    rendered = [_render(tokenizer, text, chat) for text in texts]
    starts = [whole.rindex(text) if chat else 0 for whole, text in zip(rendered, texts, strict=True)]
    encoded = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
    spans = _target_spans(table)
    prompts = []
    for row, text in enumerate(texts):
        ids = [language_model.sink_token, *encoded["input_ids"][row]]
        if len(ids) > language_model.context:
            raise UserError(
                f"Stimulus {_label(table, row)} has {len(ids)} tokens, more than the context of {language_model.name}",
                allowed=f"at most {language_model.context} tokens with the sink token",
            )
        offsets = encoded["offset_mapping"][row]
        in_text = _overlap(offsets, starts[row], starts[row] + len(text))
        first, last = spans[row]
        in_target = _overlap(offsets, starts[row] + first, starts[row] + last)
        prompts.append(Prompt(ids, [SINK, *(TEXT if t else TEMPLATE for t in in_text)], [False, *in_target]))
    return prompts


def capture(
    language_model: LanguageModel,
    stimuli: pd.DataFrame | Sequence[str],
    sites: Sequence[Site],
    *,
    chat: bool | dict[str, Any] | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> dict[Site, Responses]:
    """Read every stimulus once and keep the activations of all sites.

    Parameters
    ----------
    language_model : LanguageModel
    stimuli : DataFrame with a `text` column (`StimulusSet.table`), or texts
    sites : sequence of Site
    chat : bool or dict, optional
        See `make_prompts`.
    batch_size : int, default 32
        Texts per forward pass: bounds memory. Across batch sizes float32 activations agree to about 1e-5 relative.
    progress : bool, default False

    Returns
    -------
    dict of Site to Responses
        Token rows of all sites coincide. *Clean* tokens belong to the stimulus text and stay below 10 times the median
        norm at every site (the union of the sites' masks is excluded).

    Examples
    --------
    >>> from neurosae import models
    >>> language_model = models.load()
    >>> responses = capture(language_model, ["The bridge held.", "The bridge fell."], [Site(15)])[Site(15)]
    >>> responses.pool("mean").values_SF.shape
    (2, 576)
    """
    table = stimuli if isinstance(stimuli, pd.DataFrame) else pd.DataFrame({"text": list(stimuli)})
    unique_sites = list(dict.fromkeys(site.check(language_model.n_blocks) for site in sites))
    prompts = make_prompts(language_model, table, chat)
    limits = {site: LIMIT * norm for site, norm in median_norms(language_model, unique_sites).items()}
    ids = [prompt.ids for prompt in prompts]
    ends = np.cumsum([len(row) for row in ids])
    values = {site: np.empty((int(ends[-1]), language_model.d_model), np.float32) for site in unique_sites}
    for rows, activations in stream(language_model, ids, unique_sites, batch_size=batch_size, progress=progress):
        for site, batch in zip(unique_sites, activations, strict=True):
            batch_values = batch.float().cpu().numpy()
            for i, row in enumerate(rows):
                values[site][ends[row] - len(ids[row]) : ends[row]] = batch_values[i, : len(ids[row])]
    tokens = _token_table(language_model, prompts)
    normal = {site: np.linalg.norm(rows, axis=1) <= limits[site] for site, rows in values.items()}
    source = {"model": language_model.name, "fingerprint": language_model.fingerprint, "features": "neurons"}
    shared = table.reset_index(drop=True)
    responses = {
        site: Responses(values[site], tokens.assign(normal=normal[site]), shared, str(site), source)
        for site in unique_sites
    }
    return combine_masks(responses)


def combine_masks(responses: dict[Site, Responses]) -> dict[Site, Responses]:
    """Mark as clean the text tokens whose norm is normal at every one of these sites."""
    normal = np.logical_and.reduce([r.tokens["normal"].to_numpy(dtype=bool) for r in responses.values()])
    return {
        site: replace(r, tokens=r.tokens.assign(clean=normal & (r.tokens["role"] == TEXT).to_numpy()))
        for site, r in responses.items()
    }


def _render(tokenizer: Any, text: str, chat: bool | dict[str, Any] | None) -> str:
    if not chat:
        return text
    if not tokenizer.chat_template:
        raise UserError("This language model has no chat template", suggestion="Remove `chat` from the stimulus file")
    messages = [{"role": "user", "content": text}]
    if isinstance(chat, dict) and "system" in chat:
        messages.insert(0, {"role": "system", "content": chat["system"]})
    whole = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    if text not in whole:
        raise UserError(f"The chat template changes the text {text[:40]!r}", suggestion="Trim spaces at its ends")
    return whole


def _target_spans(table: pd.DataFrame) -> list[tuple[int, int]]:
    """Character offsets of each target span; (0, 0), an empty span, where there is none."""
    if "target_start" not in table:
        return [(0, 0)] * len(table)
    pairs = table[["target_start", "target_end"]].astype("Int64").fillna(0).to_numpy(dtype=int)
    return [(max(int(a), 0), max(int(b), 0)) for a, b in pairs]


def _overlap(offsets: Sequence[tuple[int, int]], first: int, last: int) -> list[bool]:
    return [start < last and end > first and end > start for start, end in offsets]


def _label(table: pd.DataFrame, row: int) -> str:
    return str(table["id"].iloc[row]) if "id" in table else str(row)


def _token_table(language_model: LanguageModel, prompts: list[Prompt]) -> pd.DataFrame:
    lengths = [len(prompt.ids) for prompt in prompts]
    all_ids = [token for prompt in prompts for token in prompt.ids]
    shown = {token: language_model.tokenizer.decode([token]) for token in set(all_ids)}
    role = np.array([name for prompt in prompts for name in prompt.roles], dtype=object)
    return pd.DataFrame(
        {
            "stimulus": np.repeat(np.arange(len(prompts)), lengths),
            "position": np.concatenate([np.arange(n) for n in lengths]),
            "token_id": np.array(all_ids),
            "token": [shown[token] for token in all_ids],
            "role": role,
            "target": [flag for prompt in prompts for flag in prompt.target],
        }
    )
