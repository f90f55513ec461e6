"""Steering: features set, raised or silenced at the very site where they were captured, and nothing else touched.

Latents are changed error-preservingly: x + (new - old) @ W_dec, in the SAE's own scaling. What the SAE does not
reconstruct stays in the stream, so that an intervention that changes no latent changes nothing at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from neurosae.errors import UserError, unknown_name
from neurosae.forward import at_site
from neurosae.models import LanguageModel
from neurosae.norms import LIMIT, median_norms
from neurosae.sae.encoding import encode_rows
from neurosae.sae.loading import site_of
from neurosae.sites import Site
from neurosae.steering.doses import Observed, as_features

How = Literal["clamp", "add"]
HOWS: tuple[How, ...] = get_args(How)
Positions = Literal["prompt", "generated", "both"]
POSITIONS: tuple[Positions, ...] = get_args(Positions)
_OWN_DECODERS = ("temporal", "matching_pursuit")


class NothingChanged(UserError):
    """An intervention left the stream of every token as it was."""


class Intervention(Protocol):
    """Something that is added to the clean tokens of a site."""

    @property
    def site(self) -> Site:
        """Where."""
        ...

    def delta(self, x_TD: torch.Tensor) -> torch.Tensor:
        """What is added to these activations, float32 (T, D), in the model's own units."""
        ...


@dataclass(frozen=True, eq=False)
class FeatureChange:
    """Clamp features to values, or add values to them.

    Attributes
    ----------
    site : Site
    features_K : int64 ndarray of shape (K,)
    values_K : float64 ndarray of shape (K,)
        In units of the activation.
    how : {"clamp", "add"}
    sae : sae_lens.SAE, optional
        Features are its latents; without it they are neurons.
    """

    site: Site
    features_K: NDArray[np.int64]
    values_K: NDArray[np.float64]
    how: How
    sae: Any = None

    def delta(self, x_TD: torch.Tensor) -> torch.Tensor:
        """What is added to these activations, float32 (T, D)."""
        x_TD = x_TD.float()
        if self.sae is None and self.features_K.max() >= x_TD.shape[1]:
            raise UserError(
                f"There is no neuron {self.features_K.max()}", where="features", allowed=f"0 to {x_TD.shape[1] - 1}"
            )
        change_TK = self._change(x_TD)
        if self.sae is None:
            delta_TD = torch.zeros_like(x_TD)
            delta_TD[:, torch.from_numpy(self.features_K).to(x_TD.device)] = change_TK
            return delta_TD
        return _decoded(self.sae, x_TD, change_TK, self.features_K)

    def _change(self, x_TD: torch.Tensor) -> torch.Tensor:
        values_TK = torch.from_numpy(self.values_K).to(x_TD).expand(len(x_TD), -1)
        if self.how == "add":
            return values_TK
        if self.sae is None:
            return values_TK - x_TD[:, torch.from_numpy(self.features_K).to(x_TD.device)]
        codes_TK = encode_rows(self.sae, x_TD.cpu().numpy(), latents=self.features_K)
        return values_TK - torch.from_numpy(codes_TK.toarray()).to(x_TD)


@dataclass(frozen=True, eq=False)
class Direction:
    """The same vector (D,) added to every token, in the model's own units: steering vectors, and random controls."""

    site: Site
    vector_D: torch.Tensor

    def delta(self, x_TD: torch.Tensor) -> torch.Tensor:
        """The vector, once per token."""
        return self.vector_D.to(x_TD.device, torch.float32).expand(len(x_TD), -1)


def clamp(site: Site, features: ArrayLike, values: ArrayLike, *, sae: Any = None) -> FeatureChange:
    """Set features to values, one per feature or one for all.

    Values are activations; `Observed.quantile` turns doses into them and `Observed.check` refuses values that were
    never observed.

    Raises
    ------
    UserError
        Features that do not exist or occur twice, values that are not finite, an SAE of another site, or one whose
        latents are not written to where they are read (a transcoder).

    Examples
    --------
    >>> clamp(Site(3), [1], 5.0).delta(torch.tensor([[2.0, 3.0]])).tolist()
    [[0.0, 2.0]]
    """
    return _feature_change(site, features, values, "clamp", sae)


def add(site: Site, features: ArrayLike, values: ArrayLike, *, sae: Any = None) -> FeatureChange:
    """Add values to features whatever they are; arguments and errors as in `clamp`.

    Examples
    --------
    >>> add(Site(3), [1], 5.0).delta(torch.tensor([[2.0, 3.0]])).tolist()
    [[0.0, 5.0]]
    """
    return _feature_change(site, features, values, "add", sae)


def ablate(site: Site, observed: Observed, *, sae: Any = None) -> FeatureChange:
    """Bring features to rest: latents to zero, neurons to their mean over the stimuli that were observed."""
    rest_K = np.zeros(len(observed.features_K)) if observed.latents else observed.mean_K
    return _feature_change(site, observed.features_K, rest_K, "clamp", _matching(sae, observed))


def steer_ensemble(
    site: Site, observed: Observed, direction_K: ArrayLike, dose: float, *, how: How = "clamp", sae: Any = None
) -> FeatureChange:
    """Steer a whole ensemble towards its target condition or, with a negative dose, towards the foil.

    Parameters
    ----------
    site : Site
    observed : Observed
        The features of the ensemble on the training stimuli.
    direction_K : array [K]
        +1 where a feature is larger for the target condition, -1 where smaller, 0 where neither (left at rest).
    dose : float
        Quantile q of the non-zero activation, 0 to 1; a negative dose reverses all directions.
    how : {"clamp", "add"}
        "clamp" sets features that shall rise to quantile q; of those that shall fall it sets latents to zero and
        neurons to quantile 1 - q. "add" adds these values less the mean to neurons, and plus or minus quantile q to
        latents.
    sae : sae_lens.SAE, optional
        Needed where the features are latents.

    Raises
    ------
    UserError
        A dose outside the observed range (the message has it), directions that do not fit, and as in `clamp`.
    """
    if how not in HOWS:
        raise unknown_name("way to steer", how, HOWS, where="how")
    if not 0 < abs(dose) <= 1:
        raise UserError(
            f"The dose {dose:g} lies outside the observed activations",
            where="dose",
            allowed=f"quantiles above 0 up to 1 of {observed.spans()}, negative towards the foil",
        )
    rises_K = np.sign(dose) * np.asarray(direction_K, dtype=np.float64)
    if rises_K.shape != observed.features_K.shape:
        raise UserError(f"{len(observed.features_K)} features, but directions of shape {rises_K.shape}")
    high_K = observed.quantile(abs(dose))
    if observed.latents:
        values_K = np.where(rises_K > 0, high_K, 0.0) if how == "clamp" else rises_K * high_K
    else:
        low_K, rest_K = observed.quantile(1 - abs(dose)), observed.mean_K
        values_K = np.select([rises_K > 0, rises_K < 0], [high_K, low_K], rest_K)
        values_K = values_K if how == "clamp" else values_K - rest_K
    return _feature_change(site, observed.features_K, values_K, how, _matching(sae, observed))


def random_direction(site: Site, d_model: int, norm: float, draw: int, seed: int = 0) -> Direction:
    """A control: a direction drawn uniformly, of a given norm; draw `b` depends on the seed and `b` only.

    Examples
    --------
    >>> round(float(random_direction(Site(3), 16, 2.5, draw=0).vector_D.norm()), 5)
    2.5
    """
    vector_D = np.random.default_rng([seed, draw]).normal(size=d_model)
    return Direction(site, torch.from_numpy(norm * vector_D / np.linalg.norm(vector_D)).float())


@dataclass
class Steered:
    """An intervention at work, and what it did.

    Attributes
    ----------
    intervention : Intervention
    limit : float
        Norm above which a token is an outlier and left alone.
    mask_BT : torch.Tensor of bool
        Which tokens of the next pass may be changed; whoever runs the model sets it before every pass, because with a
        cache of keys and values a pass sees the new token only.
    n_passes, n_tokens, n_changed : int
        Passes through the site, tokens the intervention was asked about, tokens whose stream became another one.
    """

    intervention: Intervention
    limit: float
    mask_BT: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))
    n_passes: int = 0
    n_tokens: int = 0
    n_changed: int = 0
    _squares: float = 0.0

    @property
    def norm(self) -> float:
        """Root of the mean squared norm of what was added, over the tokens asked about; 0 where there were none."""
        return float(np.sqrt(self._squares / max(1, self.n_tokens)))

    def change(self, x_BTD: torch.Tensor) -> torch.Tensor | None:
        """The hook: a copy of the activations with the masked tokens changed."""
        self.n_passes += 1
        if self.mask_BT.shape != x_BTD.shape[:2]:
            raise ValueError(f"a mask of shape {tuple(self.mask_BT.shape)} for activations {tuple(x_BTD.shape)}")
        mask_BT = self.mask_BT.to(x_BTD.device) & (x_BTD.float().norm(dim=-1) <= self.limit)
        if not mask_BT.any():
            return None
        old_TD = x_BTD[mask_BT]
        delta_TD = self.intervention.delta(old_TD.float())
        if not torch.isfinite(delta_TD).all():
            raise UserError("The intervention gives values that are not finite", where="dose")
        new_TD = (old_TD.float() + delta_TD).to(old_TD.dtype)
        self.n_tokens += len(new_TD)
        self.n_changed += int((new_TD != old_TD).any(dim=-1).sum())
        self._squares += float(delta_TD.double().square().sum())
        changed = x_BTD.clone()
        changed[mask_BT] = new_TD
        return changed


@contextmanager
def steering(language_model: LanguageModel, intervention: Intervention) -> Iterator[Steered]:
    """Run a block with the intervention in place; set `Steered.mask_BT` before every pass.

    Raises
    ------
    UserError
        At the end of the block: the site was never passed.
    NothingChanged
        At the end of the block: nothing in the stream changed (latents that were silent and ablated, features that had
        the value already). An intervention that does nothing is never reported as one.

    Examples
    --------
    >>> from neurosae import models
    >>> language_model = models.load()
    >>> tokens = torch.tensor(language_model.token_ids(["The bridge held."]))
    >>> with steering(language_model, random_direction(Site(15), 576, 10.0, draw=0)) as steered:
    ...     steered.mask_BT = torch.arange(tokens.shape[1])[None] > 0  # all but the sink token
    ...     logits = language_model.plain(tokens).logits
    >>> steered.n_changed == tokens.shape[1] - 1, round(steered.norm, 3)
    (True, 10.0)
    """
    site = intervention.site.check(language_model.n_blocks)
    steered = Steered(intervention, LIMIT * median_norms(language_model, [site])[site])
    with at_site(language_model, site, steered.change):
        yield steered
    if not steered.n_passes:
        raise UserError(f"The intervention at {site} was never reached: the language model did not run")
    if not steered.n_changed:
        raise NothingChanged(
            f"The intervention at {site} changed nothing in the stream of {steered.n_tokens} tokens",
            suggestion="Is the feature silent there, or at this value already?",
        )


def _feature_change(site: Site, features: ArrayLike, values: ArrayLike, how: How, sae: Any) -> FeatureChange:
    features_K = as_features(features, None if sae is None else sae.cfg.d_sae)
    values_K = np.broadcast_to(np.asarray(values, dtype=np.float64), features_K.shape).copy()
    if not np.isfinite(values_K).all():
        raise UserError(f"A dose of feature {features_K[~np.isfinite(values_K)][0]} is not finite", where="dose")
    if sae is not None:
        _check_sae(sae, site)
    return FeatureChange(site, features_K, values_K, how, sae)


def _matching(sae: Any, observed: Observed) -> Any:
    if observed.latents != (sae is not None):
        kind = "latents, but there is no SAE" if observed.latents else "neurons, but there is an SAE"
        raise UserError(f"The observed features are {kind}", where="sae")
    return sae


def _check_sae(sae: Any, site: Site) -> None:
    architecture = sae.cfg.architecture()
    if "transcoder" in architecture or architecture in _OWN_DECODERS:
        raise UserError(
            f"A latent of '{architecture}' is no direction of the stream it is read from",
            where="sae",
            suggestion="Steer with an SAE that reads and writes at one site",
        )
    if site_of(sae) != site:
        raise UserError(f"The SAE belongs to {site_of(sae)}, the intervention to {site}", where="site")


def _decoded(sae: Any, x_TD: torch.Tensor, change_TK: torch.Tensor, features_K: NDArray[np.int64]) -> torch.Tensor:
    """Change of the stream that a change of latents makes: decoder rows, times what the SAE scales each input by."""
    device = sae.W_dec.device
    rows_KD = sae.W_dec[torch.from_numpy(features_K).to(device)].float()
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        rows_KD = rows_KD / rows_KD.norm(dim=-1, keepdim=True)
    with torch.inference_mode():
        delta_TD = change_TK.to(device) @ rows_KD
        return (_unscaled(sae, x_TD, delta_TD) - _unscaled(sae, x_TD, torch.zeros_like(delta_TD))).to(x_TD.device)


def _unscaled(sae: Any, x_TD: torch.Tensor, out_TD: torch.Tensor) -> torch.Tensor:
    """An output of the decoder in the model's units; SAELens forgets the scale of an input once it has been used."""
    sae.run_time_activation_norm_fn_in(x_TD.to(out_TD.device))
    result: torch.Tensor = sae.run_time_activation_norm_fn_out(out_TD)
    return result
