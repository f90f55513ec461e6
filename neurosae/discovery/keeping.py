"""What a search through a corpus remembers: the strongest sentences of every ensemble and a uniform sample; bounded.

Whether a sentence belongs to the sample depends on the seed and its number only, so that neither the size of a chunk
nor an interruption changes anything.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurosae.errors import UserError
from neurosae.files import atomic_path
from neurosae.sae.overlap import sentence_hash

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sentence:
    """A sentence that was read, and what its tokens add to each decision.

    Attributes
    ----------
    text : str
    scores_E : array [E]
        Decision of every ensemble.
    tokens : tuple of T str
        Those of the text, as the language model has them.
    contributions_TE : array [T, E]
    """

    text: str
    scores_E: Array
    tokens: tuple[str, ...]
    contributions_TE: Array


@dataclass
class Keeper:
    """The `top` strongest sentences of each of E ensembles, and `sample` sentences drawn uniformly.

    Memory is at most E * `top` + `sample` sentences. Sentences of the same words count once among the strongest, by the
    strongest of them; of equally strong ones the first seen comes first.

    Parameters
    ----------
    n_ensembles, top, sample : int
    seed : int, default 0

    Attributes
    ----------
    sentences : dict of int to Sentence
        All that is kept, by number.
    strongest : list of E lists of int
        Their numbers, strongest first.
    sampled : list of int
        Numbers of the uniform sample in random order: any part of it is a uniform sample too.

    Examples
    --------
    >>> keeper = Keeper(1, top=2, sample=2)
    >>> make = lambda i: Sentence(f"w{i}", np.array([float(i)]), (), np.zeros((0, 1)))
    >>> keeper.add(range(4), ["w0", "w1", "w2", "w3"], np.arange(4.0)[:, None], make)
    >>> keeper.strongest, len(keeper.sampled)
    ([[3, 2]], 2)
    """

    n_ensembles: int
    top: int
    sample: int
    seed: int = 0
    sentences: dict[int, Sentence] = field(default_factory=dict, init=False)
    strongest: list[list[int]] = field(init=False)
    sampled: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.strongest = [[] for _ in range(self.n_ensembles)]

    def add(
        self, numbers: Sequence[int], texts: Sequence[str], scores_SE: Array, make: Callable[[int], Sentence]
    ) -> None:
        """Take in sentences.

        Parameters
        ----------
        numbers : sequence of int
            Ascending and larger than any before.
        texts : sequence of S str
        scores_SE : array [S, E]
        make : callable
            Gives the whole sentence of a row; asked only for what is kept.
        """
        row_of = {number: row for row, number in enumerate(numbers)}
        words = {number: sentence_hash(text) for number, text in zip(numbers, texts, strict=True)}
        words |= {number: sentence_hash(self.sentences[number].text) for kept in self.strongest for number in kept}
        for e, kept in enumerate(self.strongest):
            known = [(float(self.sentences[number].scores_E[e]), number) for number in kept]
            weakest = known[-1][0] if len(known) == self.top else -np.inf
            news = np.flatnonzero(scores_SE[:, e] > weakest).tolist()
            candidates = known + [(float(scores_SE[row, e]), numbers[row]) for row in news]
            self.strongest[e] = self._first_of_each(sorted(candidates, key=lambda c: (-c[0], c[1])), words)
        self.sampled = sorted([*self.sampled, *numbers], key=self._key)[: self.sample]
        wanted = {*self.sampled, *(number for kept in self.strongest for number in kept)}
        self.sentences = {
            number: self.sentences[number] if number in self.sentences else make(row_of[number])
            for number in sorted(wanted)
        }

    def _first_of_each(self, candidates: list[tuple[float, int]], words: dict[int, int]) -> list[int]:
        """Numbers of the first candidates, no two of the same words."""
        first: dict[int, int] = {}
        for _, number in candidates:
            if len(first) == self.top:
                break
            first.setdefault(words[number], number)
        return list(first.values())

    def _key(self, number: int) -> bytes:
        return hashlib.blake2b(f"{self.seed} {number}".encode(), digest_size=8).digest()

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Write everything and `about` (JSON-able) to one file, atomically."""
        numbers = list(self.sentences)
        kept = list(self.sentences.values())
        lists = {
            "about": about,
            "strongest": self.strongest,
            "sampled": self.sampled,
            "texts": [sentence.text for sentence in kept],
            "tokens": [sentence.tokens for sentence in kept],
        }
        none = np.empty((0, self.n_ensembles))
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                lists=np.frombuffer(json.dumps(lists).encode(), np.uint8),
                numbers=np.array(numbers, dtype=np.int64),
                scores_NE=np.array([sentence.scores_E for sentence in kept]).reshape(-1, self.n_ensembles),
                contributions_TE=np.concatenate([none, *(sentence.contributions_TE for sentence in kept)]),
            )

    def restore(self, path: Path) -> dict[str, Any]:
        """Read what `save` wrote into this keeper; returns what it was about.

        Raises
        ------
        UserError
            The file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                lists = json.loads(arrays["lists"].tobytes())
                ends = np.cumsum([len(tokens) for tokens in lists["tokens"]])[:-1]
                parts = np.split(arrays["contributions_TE"], ends)
                rows = zip(lists["texts"], arrays["scores_NE"], lists["tokens"], parts, strict=True)
                kept = [Sentence(text, scores, tuple(tokens), part) for text, scores, tokens, part in rows]
                self.sentences = dict(zip(arrays["numbers"].tolist(), kept, strict=True))
            self.strongest, self.sampled = lists["strongest"], lists["sampled"]
            return dict(lists["about"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} cannot be continued ({error})", suggestion="Delete it and start over") from error
