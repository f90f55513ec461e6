"""Fitted ensembles: one variant fitted to one contrast, ready to be applied to other texts, and saved as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA as PrincipalComponents

from neurosae.decoding.ensembles import LinearFit, described, fit_on, standardisation
from neurosae.decoding.selection import PROFILE_SELECTORS, scores, top_k
from neurosae.decoding.variants import ALL, PCA, Variant, selector_seed
from neurosae.errors import UserError
from neurosae.files import digest, write_json
from neurosae.inference.design import derived_seed
from neurosae.models import LanguageModel
from neurosae.representations import REPRESENTATIONS, Bench
from neurosae.responses import Responses
from neurosae.sae import loading
from neurosae.sites import Site
from neurosae.stimuli import LabelledContrast

Array = NDArray[np.float64]
FORMAT = 1  # of the files
_LAST = ("last", "prompt_end")
_SPEED_ONLY = ("batch_size", "fingerprint")  # what may differ between two sources of the same language model


@dataclass(frozen=True, eq=False)
class FittedEnsemble:
    """A small linear decision on a few features of one site of one language model.

    Attributes
    ----------
    concept, contrast : str
        Stimulus set, and which of its contrasts.
    target : str
        Level for which the decision is positive; the contrast's expression where it is not one level against others.
    variant : Variant
        How features were selected, pooled and combined.
    site : Site
        Where the language model is heard.
    model : dict
        `neurosae.representations.Source.identity` of the language model, with its `fingerprint`.
    sae : str or None
        Name of the SAE whose latents are the features; None for neurons.
    sae_identity : str or None
        Hash of its weights.
    features_K : int64 array [K]
        Neurons or latents, best first.
    mean_K, scale_K : float64 arrays [K]
        Standardisation of the pooled features on the training stimuli.
    weights_K : float64 array [K]
        Of the *standardised* features; divide by `scale_K` for weights of activations.
    intercept : float
    direction_K : int8 array [K]
        +1 where the pooled feature is larger for the target, -1 where smaller, 0 where equal.
    train_ids : tuple of str
        Ids of the stimuli it was fitted on.
    chat : bool or dict
        Whether texts go into the chat template, as in `neurosae.capture.make_prompts`.

    Examples
    --------
    >>> from neurosae import stimuli
    >>> from neurosae.representations import Source
    >>> bench = Bench(stimuli.load("success"), Source())
    >>> ensemble = fit_ensemble(bench, "success", Variant("raw", "t", 4, "logistic_l2", 15, "mean"))
    >>> ensemble.target, ensemble.features_K.shape
    ('success', (4,))
    >>> values_SF = bench.pooled("raw", 15, "mean").dense()
    >>> bool(ensemble.decision(values_SF[:, ensemble.features_K]).std() > 0)
    True
    """

    concept: str
    contrast: str
    target: str
    variant: Variant
    site: Site
    model: dict[str, Any]
    sae: str | None
    sae_identity: str | None
    features_K: NDArray[np.int64]
    mean_K: Array
    scale_K: Array
    weights_K: Array
    intercept: float
    direction_K: NDArray[np.int8]
    train_ids: tuple[str, ...]
    chat: bool | dict[str, Any] = False

    @property
    def name(self) -> str:
        """Concept, contrast and variant, as in file names."""
        return f"{self.concept}-{self.contrast}-{self.variant.name}"

    def columns(self, responses: Responses) -> Array:
        """Exactly these features of token rows, dense [T, K]; `responses` hold all features of the site."""
        if responses.site != str(self.site):
            raise UserError(f"This ensemble was fitted at {self.site}, the responses are of {responses.site}")
        values: Any = responses.values[:, self.features_K]
        return np.asarray(values.toarray() if sp.issparse(values) else values, dtype=np.float64)

    def decision(self, values_SK: ArrayLike) -> Array:
        """Decision values [S], positive for the target.

        Parameters
        ----------
        values_SK : array [S, K]
            Pooled values of exactly these features, in their order.

        Raises
        ------
        UserError
            Another number of features, or values that are not finite.
        """
        return self._standardised(values_SK) @ self.weights_K + self.intercept

    def token_contributions(self, values_TK: ArrayLike, n_tokens: int) -> Array:
        """What every token adds to the decision of its text [T]; with the intercept they sum to the decision.

        Under mean pooling a token at the training mean of every feature adds nothing. Under maximum pooling a feature
        counts at its first maximum only, under `last` and `prompt_end` the last token counts alone.

        Parameters
        ----------
        values_TK : array [T, K]
            Values of these features at the tokens that the pooling uses (the clean ones), in reading order.
        n_tokens : int
            How many tokens the mean is taken over: T, unless only some of a text's tokens are given.

        Raises
        ------
        UserError
            As `decision`; fewer than one token.
        """
        standardised_TK = self._standardised(values_TK)
        if n_tokens < 1:
            raise UserError(f"n_tokens is {n_tokens}", where="token_contributions", allowed="integers from 1")
        added_TK = standardised_TK * self.weights_K
        if self.variant.pooling not in ("max", *_LAST):
            return added_TK.sum(axis=1) / n_tokens
        counted_TK = np.zeros(added_TK.shape, dtype=bool)
        if len(added_TK):
            counted = standardised_TK.argmax(axis=0) if self.variant.pooling == "max" else len(added_TK) - 1
            counted_TK[counted, np.arange(added_TK.shape[1])] = True
        return np.where(counted_TK, added_TK, 0.0).sum(axis=1)

    def save(self, path: Path) -> None:
        """Write as JSON with exact floats, atomically."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays = {name: value.tolist() for name, value in values.items() if isinstance(value, np.ndarray)}
        plain = {"variant": asdict(self.variant), "site": str(self.site), "format": FORMAT}
        write_json(path, values | arrays | plain)

    @classmethod
    def load(cls, path: Path) -> FittedEnsemble:
        """Read what `save` wrote.

        Raises
        ------
        UserError
            No such file, or one that holds something else.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("format") != FORMAT:
                raise ValueError("another format")
            values["variant"], values["site"] = Variant(**values["variant"]), Site.parse(values["site"])
            values["train_ids"] = tuple(values["train_ids"])
            for name, kind in _ARRAYS.items():
                values[name] = np.array(values[name], dtype=kind)
                if not np.isfinite([*values[name], values["intercept"]]).all():
                    raise ValueError(f"{name} or the intercept is not finite")
            ensemble = cls(**values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
            raise UserError(f"{path} holds no fitted ensemble ({error})", suggestion="Fit and save it again") from error
        if len({getattr(ensemble, name).shape for name in _ARRAYS}) > 1:
            raise UserError(f"{path} holds no fitted ensemble (its arrays differ in length)")
        return ensemble

    def _standardised(self, values_SK: ArrayLike) -> Array:
        values_SK = np.asarray(values_SK, dtype=np.float64)
        if values_SK.ndim != 2 or values_SK.shape[1] != len(self.features_K):
            raise UserError(f"Values of shape {values_SK.shape} for an ensemble of {len(self.features_K)} features")
        if not np.isfinite(values_SK).all():
            row, column = np.argwhere(~np.isfinite(values_SK))[0]
            raise UserError(f"Row {row} of feature {self.features_K[column]} is {values_SK[row, column]}")
        return (values_SK - self.mean_K) / self.scale_K


_ARRAYS = {
    "features_K": np.int64,
    "mean_K": np.float64,
    "scale_K": np.float64,
    "weights_K": np.float64,
    "direction_K": np.int8,
}


def fit_ensemble(
    bench: Bench, contrast: str, variant: Variant, rows: ArrayLike | None = None, *, seed: int = 0
) -> FittedEnsemble:
    """Select features and fit the ensemble of a variant, as `neurosae.decoding.decode` does in a training set.

    Parameters
    ----------
    bench : Bench
        Stimuli, language model and SAE.
    contrast : str
        Name of a contrast of the stimulus set.
    variant : Variant
        `block` is ignored for embeddings. The first principal components become weights of all neurons.
    rows : array of int or bool, optional
        Training stimuli, as rows of the stimulus table; those without a side of the contrast are left out. Default:
        all stimuli. Whatever is found later with the ensemble is held out only as far as these rows are.
    seed : int, default 0
        Of the selector `random`; as the seed of a run.

    Returns
    -------
    FittedEnsemble

    Raises
    ------
    UserError
        Unknown names, a bag of words (it has no site), latents anywhere but at the site of their SAE, k out of range,
        training stimuli of one side only or without a value under the pooling.
    """
    about = REPRESENTATIONS[variant.representation]
    source, sides = bench.source, LabelledContrast.of(bench.stimuli, contrast)
    sides = sides if rows is None else sides.among(rows)
    site = about.site(variant.block)
    if about.has_latents and (own := loading.declared_site(source.sae, source.model)) != site:
        raise UserError(f"Latents of {source.sae} exist at {own}, not at {site}", where="block")
    responses = bench.responses(variant.representation, site.block)
    X_SF = bench.matrix(sides, variant.representation, site.block, variant.pooling)
    features_K = _select(bench, variant, X_SF, sides, seed)
    combine = _through_components if variant.selector == PCA else _directly
    fitted = combine(X_SF[:, features_K], sides.labels_S, variant)
    sae, sae_identity = _sae_of(bench, variant)
    return FittedEnsemble(
        concept=bench.stimuli.name,
        contrast=sides.contrast.name,
        target=sides.target,
        variant=variant,
        site=site,
        model=bench.source.identity() | {"fingerprint": responses.source["fingerprint"]},
        sae=sae,
        sae_identity=sae_identity,
        features_K=features_K.astype(np.int64),
        mean_K=fitted.mean_K,
        scale_K=fitted.scale_K,
        weights_K=fitted.weights_K,
        intercept=fitted.intercept,
        direction_K=fitted.direction_K,
        train_ids=tuple(map(str, sides.ids_S)),
        chat=bench.stimuli.chat,
    )


def check_fits(ensemble: FittedEnsemble, bench_or_model: Bench | LanguageModel, site: Site | None = None) -> None:
    """Refuse to use an ensemble where it was not fitted.

    Parameters
    ----------
    ensemble : FittedEnsemble
    bench_or_model : Bench or LanguageModel
        A bench tells language model and SAE without loading them; a language model is known by its fingerprint.
    site : Site, optional
        Where it is about to be used; not compared by default.

    Raises
    ------
    UserError
        Another language model (or precision), SAE or site.
    """
    if site is not None and site != ensemble.site:
        raise UserError(f"This ensemble was fitted at {ensemble.site}, not at {site}", where="site")
    if isinstance(bench_or_model, LanguageModel):
        same = bench_or_model.fingerprint == ensemble.model["fingerprint"]
        other = f"{bench_or_model.name} ({bench_or_model.plain.dtype})"
    else:
        identity = bench_or_model.source.identity()
        same = _weights(identity) == _weights(ensemble.model)
        other = f"{identity['model']} ({identity['dtype']})"
    if not same:
        raise UserError(
            f"This ensemble was fitted on {ensemble.model['model']} ({ensemble.model['dtype']}), not on {other}",
            where="model",
            suggestion="Use that language model, or fit the ensemble again",
        )
    if isinstance(bench_or_model, Bench) and ensemble.sae is not None:
        sae, identity_here = _sae_of(bench_or_model, ensemble.variant)
        if identity_here != ensemble.sae_identity:
            raise UserError(
                f"This ensemble reads latents of {ensemble.sae}, not of {sae} with these weights",
                where="sae",
                suggestion="Use that SAE, or fit the ensemble again",
            )


def encoder_of(bench: Bench, ensemble: FittedEnsemble) -> Any:
    """The SAE whose latents an ensemble reads: the trained one or its untrained control; None for neurons."""
    encoder = REPRESENTATIONS[ensemble.variant.representation].encoder
    return encoder and encoder(bench, ensemble.site)


def _select(bench: Bench, variant: Variant, X_SF: Array, sides: LabelledContrast, seed: int) -> np.ndarray:
    """Selected features, best first; all of them where nothing is selected."""
    if variant.selector in (ALL, PCA):
        return np.arange(X_SF.shape[1])
    profiles = None
    if variant.selector in PROFILE_SELECTORS:
        profiles = bench.profiles_of(sides, variant.representation, variant.block)
    found_F = scores(
        variant.selector,
        X_SF,
        sides.labels_S,
        blocks_S=sides.paired_S,
        profiles=profiles,
        rng_seed=derived_seed(selector_seed(seed, variant)),
    )
    return top_k(found_F, variant.k)


def _directly(X_SK: Array, labels_S: NDArray[np.int8], variant: Variant) -> LinearFit:
    return fit_on(X_SK, labels_S, variant.ensemble)


def _through_components(X_SF: Array, labels_S: NDArray[np.int8], variant: Variant) -> LinearFit:
    """The first principal components, fitted as features and written as weights of the neurons they are made of."""
    available = min(X_SF.shape[1], len(X_SF) - 1)
    if not 1 <= variant.k <= available:
        raise UserError(f"k is {variant.k}", where="k", allowed=f"1 to {available} principal components")
    # Components of the activations as they are, as in decoding; a constant cannot change them.
    mean_F, scale_F = standardisation(X_SF)
    Z_SF = (X_SF - mean_F) / scale_F
    components = PrincipalComponents(variant.k, svd_solver="full").fit(Z_SF * scale_F)
    fitted = fit_on(components.transform(Z_SF * scale_F), labels_S, variant.ensemble)
    slope_P = fitted.weights_K / fitted.scale_K
    offset_P = components.mean_ @ components.components_.T + fitted.mean_K
    weights_F = (slope_P @ components.components_) * scale_F
    return described(Z_SF, labels_S, mean_F, scale_F, weights_F, float(fitted.intercept - offset_P @ slope_P))


def _sae_of(bench: Bench, variant: Variant) -> tuple[str | None, str | None]:
    """Name and identity of the SAE; the threshold of the untrained one depends on the stimuli."""
    if not REPRESENTATIONS[variant.representation].has_latents:
        return None, None
    name, identity = bench.source.sae, bench.source.sae_identity()
    if variant.representation == "untrained_sae":
        name = f"untrained{bench.source.seed} {name}"
        identity = digest({"trained": identity, "seed": bench.source.seed, "stimuli": bench.folder.name}, 16)
    return name, identity


def _weights(identity: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name not in _SPEED_ONLY}
