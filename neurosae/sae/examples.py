"""The texts on which a latent is strongest, each with the token that drives it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import torch

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~$&])")
_LINE_END = re.compile("[ \t]*[\r\n\v\f\x85\u2028\u2029]+[ \t]*")


class StrongestTexts:
    """Running list of the n texts on which each latent is strongest: memory is n values per latent.

    A text counts once, by its strongest clean token; of texts that are equally strong the first seen stays.

    Parameters
    ----------
    n_latents : int
    n_texts : int, default 20
        0: nothing is remembered, and nothing is done.
    device : torch.device or str, default "cpu"
        Where the codes come from.

    Attributes
    ----------
    activation_NF : torch.Tensor of shape (n_texts, F)
        Largest first; 0 where fewer texts make the latent fire.
    text_NF, token_NF : torch.Tensor of int64
        Number of the text and position of its strongest token (the sink token is at 0); -1 where there is none.
    """

    def __init__(self, n_latents: int, n_texts: int = 20, device: torch.device | str = "cpu") -> None:
        self.activation_NF = torch.zeros(n_texts, n_latents, device=device)
        self.text_NF = torch.full((n_texts, n_latents), -1, device=device)
        self.token_NF = self.text_NF.clone()

    def add(self, codes_TF: torch.Tensor, text_T: torch.Tensor, token_T: torch.Tensor) -> None:
        """Take in more texts.

        Parameters
        ----------
        codes_TF : torch.Tensor
            Codes of clean tokens; those of one text are next to each other.
        text_T, token_T : torch.Tensor of int64
            Number of the text and position of each token.
        """
        if not len(self.activation_NF):
            return
        numbers, lengths = torch.unique_consecutive(text_T.to(codes_TF.device), return_counts=True)
        activations, texts, tokens = [self.activation_NF], [self.text_NF], [self.token_NF]
        parts = zip(numbers, codes_TF.split(lengths.tolist()), token_T.split(lengths.tolist()), strict=True)
        for number, codes, positions in parts:
            best = codes.max(dim=0)
            activations.append(best.values[None])
            texts.append(number.expand_as(best.indices)[None])
            tokens.append(positions.to(codes.device)[best.indices][None])
        strongest, order = torch.cat(activations).sort(dim=0, descending=True, stable=True)
        order = order[: len(self.activation_NF)]
        self.activation_NF = strongest[: len(order)]
        self.text_NF, self.token_NF = torch.cat(texts).gather(0, order), torch.cat(tokens).gather(0, order)


def excerpts(
    strongest: StrongestTexts,
    latents: Iterable[int],
    texts: Sequence[str],
    tokenizer: Any,
    *,
    n_texts: int = 5,
    width: int = 60,
) -> pd.DataFrame:
    """The strongest texts of some latents, cut around the token that drives them.

    Of texts that are equal up to that token, as minimal pairs often are, only the first is shown: what comes behind
    cannot have moved the latent.

    Parameters
    ----------
    strongest : StrongestTexts
    latents : iterable of int
    texts : sequence of str
        Those that were measured, in the same order.
    tokenizer : PreTrainedTokenizerFast
    n_texts : int, default 5
        At most so many per latent.
    width : int, default 60
        Characters shown on either side of the token.

    Returns
    -------
    DataFrame
        `latent`, `rank` (from 1), `activation`, `text` (its number), `before`, `token`, `after`; fewer rows for latents
        that fire on fewer texts.
    """
    rows = []
    for latent in latents:
        shown: set[str] = set()
        columns = (strongest.activation_NF[:, latent], strongest.text_NF[:, latent], strongest.token_NF[:, latent])
        for activation, number, position in zip(*(column.tolist() for column in columns), strict=True):
            if activation == 0 or len(shown) == n_texts:
                break
            text = texts[number]
            start, stop = _span(text, position, tokenizer)
            if text[:stop] in shown:
                continue
            shown.add(text[:stop])
            before = "…" * (start > width) + text[max(0, start - width) : start]
            after = text[stop : stop + width] + "…" * (stop + width < len(text))
            rows.append((latent, len(shown), activation, number, before, text[start:stop], after))
    return pd.DataFrame(rows, columns=["latent", "rank", "activation", "text", "before", "token", "after"])


def _span(text: str, position: int, tokenizer: Any) -> tuple[int, int]:
    """Characters of a token, without the space in front of a word; the sink token at 0 is not part of the text."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    start, stop = offsets[position - 1]
    if text[start:stop].strip():
        start = stop - len(text[start:stop].lstrip())
    return start, stop


def markdown(text: str) -> str:
    r"""Text as it is, on one line of Markdown, in a table or out of it.

    Examples
    --------
    >>> print(markdown("a|b\n<i>*c*"))
    a\|b ⏎ \<i\>\*c\*
    """
    return _LINE_END.sub(" ⏎ ", _MARKDOWN.sub(r"\\\1", text))
