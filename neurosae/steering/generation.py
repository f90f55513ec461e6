"""Text out of a language model, greedily or by seeded sampling, with or without an intervention."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch

from neurosae.errors import UserError, unknown_name
from neurosae.models import LanguageModel
from neurosae.steering.interventions import POSITIONS, Intervention, Positions, Steered, steering


def generate(
    language_model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    n_tokens: int = 40,
    intervention: Intervention | None = None,
    positions: Positions = "both",
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 16,
    cache: bool = True,
) -> list[list[int]]:
    """Continue prompts.

    Parameters
    ----------
    language_model : LanguageModel
    prompts : sequence of sequences of int
        Token ids, the sink token in front (`LanguageModel.token_ids`).
    n_tokens : int, default 40
        At most so many new tokens; a text may end earlier by itself.
    intervention : Intervention, optional
    positions : {"prompt", "generated", "both"}, default "both"
        Which tokens are steered. The first new token is predicted from the prompt alone, so that "generated" acts from
        the second one on. The sink token, padding and outliers are never steered.
    temperature : float, default 0
        0 takes the likeliest token.
    seed : int, default 0
        The draw of token t of prompt b depends on the seed, b and t only, not on batches or the intervention.
    batch_size : int, default 16
        Prompts at once, padded on the left.
    cache : bool, default True
        Keep keys and values. The intervention then sees only the new token in every pass; what it did to earlier tokens
        lives on in their keys and values, so that the result is the same as without.

    Returns
    -------
    list of list of int
        The new tokens of every prompt, without the one that ends it.

    Raises
    ------
    UserError
        An empty prompt, one that leaves no room in the context, numbers out of range, an intervention that changes
        nothing (`neurosae.steering.interventions.NothingChanged`), a model whose logits are not finite.

    Examples
    --------
    >>> from neurosae import models
    >>> language_model = models.load()
    >>> new = generate(language_model, language_model.token_ids(["The capital of France is"]), n_tokens=1)
    >>> language_model.tokenizer.decode(new[0])
    ' Paris'
    """
    if positions not in POSITIONS:
        raise unknown_name("positions", positions, POSITIONS, where="positions")
    if n_tokens < 1 or batch_size < 1 or not 0 <= temperature < np.inf:
        raise UserError(
            f"n_tokens = {n_tokens}, batch_size = {batch_size}, temperature = {temperature}",
            allowed="integers from 1; a temperature from 0",
        )
    for row, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= language_model.context - n_tokens:
            raise UserError(
                f"Prompt {row} has {len(prompt)} tokens", allowed=f"1 to {language_model.context - n_tokens}"
            )
    new: list[list[int]] = []
    with steering(language_model, intervention) if intervention else nullcontext() as steered:
        for start in range(0, len(prompts), batch_size):
            batch = _Batch(language_model, prompts[start : start + batch_size], temperature, seed, start)
            new += batch.run(n_tokens, steered, positions, cache)
    return new


class _Batch:
    """Left-padded prompts that grow token by token."""

    def __init__(
        self, language_model: LanguageModel, prompts: Sequence[Sequence[int]], temperature: float, seed: int, first: int
    ) -> None:
        self.language_model, self.temperature, self.seed, self.first = language_model, temperature, seed, first
        width, fill = max(map(len, prompts)), language_model.sink_token
        self.n_prompt = width
        self.tokens_BT = torch.tensor([[*[fill] * (width - len(row)), *row] for row in prompts])
        place_1T = torch.arange(width)[None]
        pad_B1 = torch.tensor([[width - len(row)] for row in prompts])
        self.real_BT, self.sink_BT = place_1T >= pad_B1, place_1T == pad_B1
        self.ended_B = torch.zeros(len(prompts), dtype=torch.bool)

    def run(self, n_tokens: int, steered: Steered | None, positions: Positions, cache: bool) -> list[list[int]]:
        ends = torch.tensor(sorted(_ends(self.language_model)))
        kept = None
        alive: list[torch.Tensor] = []
        for step in range(n_tokens):
            n_new = self.tokens_BT.shape[1] if kept is None else 1
            if steered is not None:
                steered.mask_BT = self._steered(positions)[:, -n_new:]
            logits_BV, kept = self._forward(n_new, kept, cache)
            token_B = self._choose(logits_BV, step)
            self.ended_B |= torch.isin(token_B, ends)
            alive.append(~self.ended_B)
            self._append(token_B)
            if self.ended_B.all():
                break
        new_BN, alive_BN = self.tokens_BT[:, self.n_prompt :], torch.stack(alive, 1)
        return [row[use].tolist() for row, use in zip(new_BN, alive_BN, strict=True)]

    def _steered(self, positions: Positions) -> torch.Tensor:
        is_new_1T = torch.arange(self.tokens_BT.shape[1])[None] >= self.n_prompt
        chosen = {"prompt": ~is_new_1T, "generated": is_new_1T, "both": torch.ones_like(is_new_1T)}[positions]
        return self.real_BT & ~self.sink_BT & chosen

    def _forward(self, n_new: int, kept: object, cache: bool) -> tuple[torch.Tensor, object]:
        device = self.language_model.device
        place_BT = (self.real_BT.long().cumsum(1) - 1).clamp(min=0)
        with torch.inference_mode():
            output = self.language_model.plain(
                input_ids=self.tokens_BT[:, -n_new:].to(device),
                attention_mask=self.real_BT.long().to(device),
                position_ids=place_BT[:, -n_new:].to(device),
                past_key_values=kept,
                use_cache=cache,
                logits_to_keep=1,
            )
        logits_BV = output.logits[:, -1].float().cpu()
        if not torch.isfinite(logits_BV.amax(-1)).all():  # single tokens may be ruled out by minus infinity
            raise UserError(
                "The language model gives logits that are not finite",
                where="dtype",
                suggestion="Choose bfloat16 or float32, or a smaller dose",
            )
        return logits_BV, output.past_key_values if cache else None

    def _choose(self, logits_BV: torch.Tensor, step: int) -> torch.Tensor:
        if not self.temperature:
            return logits_BV.argmax(-1)
        share_BV = (logits_BV.double() / self.temperature).softmax(-1).cumsum(-1)
        rows = range(self.first, self.first + len(share_BV))
        draw_B1 = torch.tensor([[np.random.default_rng([self.seed, row, step]).random()] for row in rows])
        chosen = torch.searchsorted(share_BV, draw_B1.double() * share_BV[:, -1:], right=True)[:, 0]
        return chosen.clamp(max=share_BV.shape[1] - 1)

    def _append(self, token_B: torch.Tensor) -> None:
        self.tokens_BT = torch.cat([self.tokens_BT, token_B[:, None]], 1)
        self.real_BT = torch.cat([self.real_BT, ~self.ended_B[:, None]], 1)
        self.sink_BT = torch.cat([self.sink_BT, torch.zeros_like(token_B[:, None], dtype=torch.bool)], 1)


def _ends(language_model: LanguageModel) -> set[int]:
    """Tokens that end a text: what the model's own settings say, the tokenizer's, and the sink token."""
    settings = getattr(language_model.plain, "generation_config", None)
    declared = getattr(settings, "eos_token_id", None)
    several = declared if isinstance(declared, list) else [declared]
    found = [*several, language_model.tokenizer.eos_token_id, language_model.sink_token]
    return {int(token) for token in found if token is not None}
