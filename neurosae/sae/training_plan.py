"""What to train: the plan, and the untrained SAE that it asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import (
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    TrainingSAE,
)
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAEConfig
from sae_lens.saes.sae import SAEMetadata

from neurosae.errors import UserError, unknown_name
from neurosae.sae.sparse_batch_topk import SparseBatchTopK

# Weight of the sparsity loss if none is given; None where k decides, not a loss.
SPARSITY_COEFFICIENTS: dict[str, float | None] = {
    "batchtopk": None,
    "topk": None,
    "matryoshka": None,
    "jumprelu": 1.0,
    "standard": 2.0,
}
_PRE_ACT_COEFFICIENT = 3e-6


@dataclass(frozen=True)
class TrainingPlan:
    """What to train and how long; defaults follow Gao et al. (2024) and Bussmann et al. (2024) at this size.

    Attributes
    ----------
    architecture : {"batchtopk", "topk", "matryoshka", "jumprelu", "standard"}
        How sparsity comes about; see `initial_sae`.
    n_latents : int
        Width F of the SAE.
    k : int
        Active latents per token: of every token (topk), on average (batchtopk, matryoshka), or as the target of the
        sparsity loss (jumprelu). "standard" does not use it.
    k_start : int
        k at the first step; it falls linearly to `k` over the first tenth of training.
    epochs : float
        Passes over the tokens.
    batch_size : int
        Tokens per step: bounds memory.
    lr : float
        Learning rate of Adam, with a warm-up of 5 % (at most 1,000 steps) and linear decay over the last 20 %.
    dead_after_tokens : int
        A latent that did not fire for so many tokens is dead and gets the auxiliary loss.
    aux_coefficient : float
        Weight of the auxiliary loss of batchtopk, topk and matryoshka.
    sparsity_coefficient : float, optional
        Weight of the sparsity loss of jumprelu (default 1) and standard (default 2), after a warm-up over the first
        tenth of training; the others have none.
    matryoshka_widths : tuple of int
        Sizes of the nested dictionaries, the last of them F. Default: an eighth, a quarter, half and all of F.
    seed : int
        Determines initialisation and order of the data.

    Raises
    ------
    UserError
        A value out of range, an unknown architecture, options that contradict each other.

    Examples
    --------
    >>> TrainingPlan(n_latents=16, k=32)
    Traceback (most recent call last):
    neurosae.errors.UserError: k: k is 32. Allowed: integers from 1 to the 16 latents.
    """

    architecture: str = "batchtopk"
    n_latents: int = 9216
    k: int = 32
    k_start: int = 128
    epochs: float = 4.0
    batch_size: int = 4096
    lr: float = 7e-4
    dead_after_tokens: int = 400_000
    aux_coefficient: float = 1 / 32
    sparsity_coefficient: float | None = None
    matryoshka_widths: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "matryoshka_widths", tuple(self.matryoshka_widths))  # JSON and YAML give lists
        if self.architecture not in SPARSITY_COEFFICIENTS:
            raise unknown_name("architecture", self.architecture, SPARSITY_COEFFICIENTS, where="architecture")
        for name, least in (("n_latents", 1), ("batch_size", 1), ("dead_after_tokens", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise _out_of_range(name, getattr(self, name), f"integers from {least}")
        for name in ("epochs", "lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise _out_of_range(name, getattr(self, name), "numbers above 0")
        if not 1 <= self.k <= self.n_latents:
            raise _out_of_range("k", self.k, f"integers from 1 to the {self.n_latents} latents")
        if self.k_start < self.k:
            raise _out_of_range("k_start", self.k_start, f"integers from k = {self.k}")
        self._check_sparsity()
        self._check_widths()

    def _check_sparsity(self) -> None:
        if self.sparsity_coefficient is None:
            return
        if SPARSITY_COEFFICIENTS[self.architecture] is None:
            raise UserError(
                f"'{self.architecture}' has no sparsity loss", where="sparsity_coefficient", suggestion="Choose k"
            )
        if not 0 < self.sparsity_coefficient < float("inf"):
            raise _out_of_range("sparsity_coefficient", self.sparsity_coefficient, "numbers above 0")

    def _check_widths(self) -> None:
        widths = self.matryoshka_widths
        if widths and self.architecture != "matryoshka":
            raise UserError(f"'{self.architecture}' has no nested dictionaries", where="matryoshka_widths")
        rising = all(a < b for a, b in zip((0, *widths), widths, strict=False))
        if widths and not (rising and widths[-1] == self.n_latents):
            raise _out_of_range("matryoshka_widths", list(widths), f"rising sizes up to the {self.n_latents} latents")

    @property
    def sparsity(self) -> float:
        """Weight of the sparsity loss; 0 for architectures without one."""
        return self.sparsity_coefficient or SPARSITY_COEFFICIENTS[self.architecture] or 0.0

    @property
    def widths(self) -> list[int]:
        """Sizes of the nested dictionaries of a matryoshka SAE."""
        nested = {max(1, self.n_latents // share) for share in (8, 4, 2, 1)}
        return list(self.matryoshka_widths) or sorted(nested)

    def k_at(self, progress: float) -> float:
        """k when the share `progress` of the training is done."""
        start = min(self.k_start, self.n_latents)
        return self.k + max(0.0, 1 - progress / 0.1) * (start - self.k)


def _out_of_range(name: str, value: object, allowed: str) -> UserError:
    return UserError(f"{name} is {value}", where=name, allowed=allowed)


def initial_sae(
    plan: TrainingPlan, sample_TD: torch.Tensor, scale: float, metadata: dict[str, Any], *, warm_up_steps: int = 0
) -> TrainingSAE:
    """Untrained SAE: random unit decoder rows, the encoder their transpose (a copy), biases centring the sample.

    The class is SAELens', except that batchtopk takes its training step sparsely (`SparseBatchTopK`):

    - batchtopk (Bussmann et al. 2024), topk (Gao et al. 2024), matryoshka (Bussmann et al. 2025): dead latents are
      revived by the auxiliary loss.
    - jumprelu (Rajamanoharan et al. 2024), with the quadratic loss of Gemma Scope 2 around k active latents; dead
      latents are pulled towards their threshold by the pre-activation loss of Conerly et al. (2025). All thresholds
      begin where `k_start` latents are active on average.
    - standard (Bricken et al. 2023): an L1 loss; the class has nothing that revives dead latents.

    Parameters
    ----------
    plan : TrainingPlan
    sample_TD : torch.Tensor of shape (T, D)
        Clean activations in raw units.
    scale : float
        What activations are multiplied with during training.
    metadata : dict
        What the SAE's configuration says about its origin.
    warm_up_steps : int, default 0
        Steps over which the sparsity loss reaches its weight.
    """
    torch.manual_seed(plan.seed)
    shared = {
        "d_in": sample_TD.shape[1],
        "d_sae": plan.n_latents,
        "decoder_init_norm": 1.0,
        "apply_b_dec_to_input": False,
        "normalize_activations": "expected_average_only_in",
        "metadata": SAEMetadata(**metadata),
    }
    sae = _BUILDERS[plan.architecture](plan, shared, warm_up_steps)
    centre = sample_TD.mean(0) * scale
    with torch.no_grad():
        sae.b_dec.copy_(centre)
        sae.b_enc.copy_(-(centre @ sae.W_enc))
        if plan.architecture == "jumprelu":
            sae.threshold.fill_(threshold_for(sae, sample_TD * scale, plan.k_at(0)))
    return sae


@torch.no_grad()
def threshold_for(sae: TrainingSAE, x_TD: torch.Tensor, k: float, block_tokens: int = 2000) -> torch.Tensor:
    """The one threshold above which k latents are active on average; decoder rows have norm 1."""
    per_token = min(int(8 * k), sae.cfg.d_sae)  # few tokens have more: the rest need not be kept
    parts = [
        torch.addmm(sae.b_enc, x.to(sae.W_enc), sae.W_enc).topk(per_token, sorted=False).values
        for x in x_TD.split(block_tokens)
    ]
    largest = torch.cat(parts).flatten()
    return largest.topk(min(len(largest), int(k * len(x_TD))), sorted=False).values.min().clamp(min=0)


def _topk_options(plan: TrainingPlan, shared: dict[str, Any]) -> dict[str, Any]:
    return {**shared, "k": plan.k, "aux_loss_coefficient": plan.aux_coefficient}


def _batchtopk(plan: TrainingPlan, shared: dict[str, Any], _warm_up: int) -> TrainingSAE:
    return SparseBatchTopK(BatchTopKTrainingSAEConfig(**_topk_options(plan, shared)))


def _topk(plan: TrainingPlan, shared: dict[str, Any], _warm_up: int) -> TrainingSAE:
    return TopKTrainingSAE(TopKTrainingSAEConfig(**_topk_options(plan, shared)))


def _matryoshka(plan: TrainingPlan, shared: dict[str, Any], _warm_up: int) -> TrainingSAE:
    options = _topk_options(plan, shared)
    return MatryoshkaBatchTopKTrainingSAE(
        MatryoshkaBatchTopKTrainingSAEConfig(**options, matryoshka_widths=plan.widths)
    )


def _jumprelu(plan: TrainingPlan, shared: dict[str, Any], warm_up: int) -> TrainingSAE:
    config = JumpReLUTrainingSAEConfig(
        **shared,
        jumprelu_sparsity_loss_mode="quadratic",
        target_l0=float(plan.k),
        l0_coefficient=plan.sparsity,
        l0_warm_up_steps=warm_up,
        pre_act_loss_coefficient=_PRE_ACT_COEFFICIENT,
    )
    return JumpReLUTrainingSAE(config)


def _standard(plan: TrainingPlan, shared: dict[str, Any], warm_up: int) -> TrainingSAE:
    config = StandardTrainingSAEConfig(**shared, l1_coefficient=plan.sparsity, l1_warm_up_steps=warm_up)
    return StandardTrainingSAE(config)


_BUILDERS: dict[str, Callable[[TrainingPlan, dict[str, Any], int], TrainingSAE]] = {
    "batchtopk": _batchtopk,
    "topk": _topk,
    "matryoshka": _matryoshka,
    "jumprelu": _jumprelu,
    "standard": _standard,
}
