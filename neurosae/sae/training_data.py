"""Where a training gets its batches: shards on disk, or a corpus streamed through the language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np
import torch

from neurosae.errors import UserError
from neurosae.models import LanguageModel
from neurosae.sae.activations import ContextPlan, _chunks, clean_activations
from neurosae.sae.shards import ShardReader
from neurosae.sites import Site


class TrainingData(Protocol):
    """Shuffled batches of clean activations that can be taken up again at a position.

    Attributes
    ----------
    n : int
        Tokens of one epoch.
    batch_size : int
        Tokens per batch.
    position : int
        How far the source has been read, in its own unit.
    """

    n: int
    batch_size: int
    position: int

    def __next__(self) -> torch.Tensor:
        """The next batch, shape (batch_size, D), float32."""

    def sample(self, n: int) -> torch.Tensor:
        """Up to n random rows, shape (n, D), float32; no batch is used up."""

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps of it."""

    def go_on(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up a new object, before its first batch, where another one stood."""


class ShardData(ShardReader):
    """Batches from shards; the position is the number of batches given, and taking up again is exact."""

    @property
    def position(self) -> int:
        """Batches given so far."""
        return self.step

    @position.setter
    def position(self, value: int) -> None:
        self.step = value

    def sample(self, n: int) -> torch.Tensor:
        """Up to n random rows, the same for every position."""
        return self.rows(np.random.default_rng(self.seed).choice(self.n, min(n, self.n), replace=False))

    def state(self) -> dict[str, torch.Tensor]:
        """The position."""
        return {"position": torch.tensor(self.position)}

    def go_on(self, state: Mapping[str, torch.Tensor]) -> None:
        """Set the position."""
        self.position = int(state["position"])


class StreamData:
    """Batches out of a shuffle buffer over clean activations straight from a corpus; nothing is kept on disk.

    A batch is drawn at random from the full buffer, and the gaps are filled with what comes next in the corpus. Every
    token is given once.

    Parameters
    ----------
    language_model : LanguageModel
    texts : callable
        Gives an iterator over the corpus from its beginning.
    site : Site
    plan : ContextPlan
    n_tokens : int
        Clean tokens to give altogether; the corpus must hold so many.
    batch_size : int
    buffer_tokens : int, default 500_000
        Size of the buffer, ``2 * buffer_tokens * D`` bytes (bfloat16, as in shards).
    seed : int, default 0

    Notes
    -----
    The position is the number of texts that were read. Taken up again there, no token is given twice, but those that
    waited in the buffer (and in the texts read together, up to 512 contexts) are left out, and the order is another
    one. A checkpoint also keeps how many tokens were given, and the sample: a training that has read all that it needs
    ends without reading more.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        texts: Callable[[], Iterator[str]],
        site: Site,
        plan: ContextPlan = ContextPlan(),
        *,
        n_tokens: int,
        batch_size: int,
        buffer_tokens: int = 500_000,
        seed: int = 0,
    ) -> None:
        if n_tokens < 1:
            raise UserError(f"{n_tokens} tokens", where="tokens", allowed="integers from 1")
        plan.check(language_model)
        self.n, self.batch_size, self.position = n_tokens, min(batch_size, n_tokens), 0
        if buffer_tokens < self.batch_size:
            raise UserError(
                f"The buffer holds {buffer_tokens:,} tokens",
                where="buffer",
                allowed=f"at least one batch of {self.batch_size:,}",
            )
        self._language_model, self._texts, self._plan = language_model, texts, plan
        self._site = site.check(language_model.n_blocks)
        self._buffer = torch.empty(min(buffer_tokens, n_tokens), language_model.d_model, dtype=torch.bfloat16)
        self._held, self._given, self._seed = 0, 0, seed
        self._sample_TD: torch.Tensor | None = None
        self._goes_on = False
        self._fresh = self._read()
        self._left = self._buffer[:0]

    def __iter__(self) -> StreamData:
        return self

    def __next__(self) -> torch.Tensor:
        self._fill()
        if self._held < self.batch_size:
            raise UserError(
                f"The corpus gave {self._given + self._held:,} clean tokens, {self.n:,} were asked for",
                where="tokens",
                suggestion="Start over in another folder: what waited in the buffer when the run before ended is lost"
                if self._goes_on
                else "Ask for fewer in another folder, or give a longer corpus",
            )
        random = np.random.default_rng([self._seed, self.position, self._given])
        rows = random.choice(self._held, self.batch_size, replace=False)
        batch = self._buffer[torch.from_numpy(rows)].float()
        self._close_gaps(rows)
        self._given += len(batch)
        return batch

    def sample(self, n: int) -> torch.Tensor:
        """Up to n random rows of the first buffer; drawn once, so that it is the same for every position."""
        if self._sample_TD is None:
            self._fill()
            if not self._held:
                raise UserError("The corpus gave no clean token", where="CORPUS")
            rows = np.random.default_rng(self._seed).choice(self._held, min(n, self._held), replace=False)
            self._sample_TD = self._buffer[torch.from_numpy(rows)]
        return self._sample_TD[:n].float()

    def state(self) -> dict[str, torch.Tensor]:
        """The position, how many tokens were given, and the sample if one was drawn."""
        numbers = {"position": torch.tensor(self.position), "given": torch.tensor(self._given)}
        return numbers if self._sample_TD is None else {**numbers, "sample": self._sample_TD}

    def go_on(self, state: Mapping[str, torch.Tensor]) -> None:
        """Read on behind the position; without a sample (older checkpoints have none), one is drawn there."""
        self.position, self._given = int(state["position"]), int(state.get("given", 0))
        self._sample_TD, self._goes_on = state.get("sample"), True

    def _read(self) -> Iterator[torch.Tensor]:
        contexts = self._plan.contexts(self._texts(), skip=self.position)
        for chunk in _chunks(contexts, len(self._buffer) // self._plan.context):
            self.position = chunk[-1][0] + 1
            texts = [text for _, text in chunk]
            for activations, _ in clean_activations(self._language_model, texts, self._site, self._plan.context):
                yield activations.bfloat16()

    def _fill(self) -> None:
        wanted = min(len(self._buffer), self.n - self._given)
        while self._held < wanted:
            if not len(self._left):
                if (fresh := next(self._fresh, None)) is None:
                    return
                self._left = fresh
            fitting = self._left[: wanted - self._held]
            self._buffer[self._held : self._held + len(fitting)] = fitting
            self._held, self._left = self._held + len(fitting), self._left[len(fitting) :]

    def _close_gaps(self, rows: np.ndarray) -> None:
        """Move what is left at the end of the buffer into the rows that were drawn."""
        end = self._held - len(rows)
        gaps = rows[rows < end]
        rest = np.setdiff1d(np.arange(end, self._held), rows, assume_unique=True)
        self._buffer[torch.from_numpy(gaps)] = self._buffer[torch.from_numpy(rest)]
        self._held = end
