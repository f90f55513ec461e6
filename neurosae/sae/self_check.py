"""Does an SAE fit where it says it belongs? Other sites, scales and decoders are tried on real activations.

A wrong block, a scaling that was never folded into the weights, a decoder read by the wrong axis: each leaves an SAE
that loads, encodes and means nothing. A *reading* is one way to use the SAE: at which site, on activations multiplied
by which factor, with or without ``b_dec`` subtracted first, with which repair of its weights. The reading that leaves
the least variance unexplained is the one it was trained for.

What is not tried: activations behind the gain of a layer norm (``ln1``, ``ln2``) and sites of single attention heads.
A norm without its gain is: tokens brought to one length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from neurosae.errors import UserError
from neurosae.forward import at_site
from neurosae.models import LanguageModel
from neurosae.sae.activations import clean_batches
from neurosae.sae.decoder_check import SUSPICIOUS, DecoderCheck, check_decoder
from neurosae.sae.loading import site_of
from neurosae.sae.readings import TOLERANCE, UNEXPLAINED, Fit, Reading, best_reading, measure, usual_scales
from neurosae.sites import STREAMS, Site

_FEWEST_TOKENS = 100


@dataclass(frozen=True)
class SelfCheck:
    """Verdict on an SAE.

    Attributes
    ----------
    fits : bool
        The declared reading explains the activations, and none explains them clearly better.
    sentence : str
        The verdict in words.
    declared : Fit
        The SAE as it is loaded, at the site it declares.
    best : Fit
        The reading that leaves the least unexplained.
    margin : float
        FVU of the best reading at any other site, divided by the declared one's: above 1 the declared site wins.
    decoder : DecoderCheck
        Whether encoder and decoder belong together.
    table : DataFrame
        The declared reading, then the best one of every site (where that is another): `site`, `scale`, `per_token`,
        `subtract_b_dec`, `weights`, and the figures of `Fit`.
    n_tokens : int
        Clean tokens measured on.
    """

    fits: bool
    sentence: str
    declared: Fit
    best: Fit
    margin: float
    decoder: DecoderCheck
    table: pd.DataFrame
    n_tokens: int


def self_check(
    sae: Any, language_model: LanguageModel, texts: Sequence[str], *, context: int = 256, n_tokens: int = 4000
) -> SelfCheck:
    """Capture every candidate site in one pass and tell which reading of the SAE fits.

    Parameters
    ----------
    sae : sae_lens.SAE
    language_model : LanguageModel
    texts : sequence of str
        Ordinary texts; the first ones with about `n_tokens` tokens are read.
    context : int, default 256
        Longest context in tokens; at most the language model's.
    n_tokens : int, default 4000
        Bounds memory: up to ten sites x `n_tokens` x d_model float32 values are held.

    Raises
    ------
    UserError
        A site the language model does not have, a transcoder, fewer than 100 clean tokens, activations that are not
        finite.
    """
    sites = candidate_sites(language_model, site_of(sae))
    return compare_readings(sae, capture_clean(language_model, texts, sites, context=context, n_tokens=n_tokens))


def candidate_sites(language_model: LanguageModel, declared: Site) -> list[Site]:
    """The declared site first, then every other stream of its block and of the blocks before and after.

    The input of a block is the output of the one before: such pairs appear once.
    """
    found = {_canonical(declared): declared.check(language_model.n_blocks)}
    for block in range(max(0, declared.block - 1), min(language_model.n_blocks, declared.block + 2)):
        for site in (Site(block, name) for name in STREAMS):
            if _canonical(site) not in found and _can_listen(language_model, site):
                found[_canonical(site)] = _canonical(site)
    return list(found.values())


def _canonical(site: Site) -> Site:
    return Site(site.block - 1) if site.stream == "resid_pre" and site.block else site


def _can_listen(language_model: LanguageModel, site: Site) -> bool:
    """Some architectures have no component for a stream."""
    try:
        with at_site(language_model, site, lambda _activation: None):
            return True
    except (UserError, KeyError):
        return False


def capture_clean(
    language_model: LanguageModel, texts: Sequence[str], sites: Sequence[Site], *, context: int, n_tokens: int
) -> dict[Site, torch.Tensor]:
    """Activations of the tokens that are clean at every site, each of shape (T, D); about `n_tokens` of them."""
    context = min(context, language_model.context)
    lengths = [len(ids) - 1 for ids in language_model.token_ids(texts, context)]
    n_texts = int(np.searchsorted(np.cumsum(lengths), n_tokens)) + 1
    parts = [[torch.empty(0, language_model.d_model)] for _ in sites]
    for batch in clean_batches(language_model, texts[:n_texts], sites, context, tokens_per_batch=2048):
        for part, values in zip(parts, batch.activations, strict=True):
            part.append(values.float())
    return {site: torch.cat(part) for site, part in zip(sites, parts, strict=True)}


def compare_readings(
    sae: Any, activations: Mapping[Site, torch.Tensor], *, scan_tokens: int = 64, block_tokens: int = 512
) -> SelfCheck:
    """The same on activations that are there already.

    Every reading is scanned on a few tokens; the best of each site and the declared one are measured on all.

    Parameters
    ----------
    sae : sae_lens.SAE
    activations : mapping of Site to torch.Tensor of shape (T, D)
        The same clean tokens at two or more sites; the SAE's own site among them.
    scan_tokens : int, default 64
        Evenly spaced tokens for the scan.
    block_tokens : int, default 512
        Tokens encoded at once: bounds memory.
    """
    declared_site = site_of(sae)
    n_tokens = len(activations[declared_site])
    if n_tokens < _FEWEST_TOKENS:
        raise UserError(
            f"Only {n_tokens} clean tokens: too few to judge an SAE",
            where="corpus",
            allowed=f"texts with at least {_FEWEST_TOKENS} tokens",
        )
    if sae.W_dec.shape[1] != sae.cfg.d_in:
        raise UserError("A transcoder does not reconstruct what it reads: there is nothing to compare", where="sae")
    repaired, decoder = check_decoder(sae)
    versions = {"as stored": sae, **repaired}
    as_loaded = Reading(declared_site, subtract_b_dec=bool(sae.cfg.apply_b_dec_to_input))
    scanned = torch.linspace(0, n_tokens - 1, min(n_tokens, scan_tokens)).long()
    few = {site: x_TD[scanned] for site, x_TD in activations.items()}
    own = best_reading(as_loaded, versions, few[declared_site], block_tokens)
    # Where the SAE explains its own site without a scale, one found elsewhere would be that of the other site.
    unexplained = measure(versions[own.weights], few[declared_site], own, block_tokens).fvu_clean
    scaled = not own.unscaled or unexplained > UNEXPLAINED
    finalists = [
        best_reading(replace(as_loaded, site=site), versions, x_TD, block_tokens, scaled=scaled)
        for site, x_TD in few.items()
        if site != declared_site
    ]
    readings = dict.fromkeys([as_loaded, own, *finalists])
    fits = [measure(versions[r.weights], activations[r.site], r, block_tokens) for r in readings]
    return _verdict(fits, decoder, activations)


def _verdict(fits: list[Fit], decoder: DecoderCheck, activations: Mapping[Site, torch.Tensor]) -> SelfCheck:
    """Judge the declared reading, which comes first, against the others."""
    declared = fits[0]
    n_tokens, d_model = activations[declared.reading.site].shape
    readable = [fit for fit in fits if fit.readable(d_model)]
    best = min(readable or fits, key=lambda fit: fit.fvu_clean)
    elsewhere = [fit for fit in fits if fit.reading.site != declared.reading.site]
    rival = min([fit for fit in elsewhere if fit in readable] or elsewhere, key=lambda fit: fit.fvu_clean)
    sparse = declared in readable
    agrees = sparse and declared.fvu_clean <= UNEXPLAINED and best.fvu_clean >= TOLERANCE * declared.fvu_clean
    if agrees:
        sentence = _fitting(declared, rival)
    elif sparse and declared.fvu_rescaled <= min(UNEXPLAINED, best.fvu_clean / 2):
        sentence = _output_scaled(declared)
    elif readable and best.fvu_clean <= UNEXPLAINED:
        sentence = _other(declared, best, decoder, activations[best.reading.site])
    else:
        sentence = _nothing_fits(best, decoder)
    table = pd.DataFrame([_row(fit) for fit in fits])
    margin = rival.fvu_clean / declared.fvu_clean
    return SelfCheck(agrees, sentence, declared, best, margin, decoder, table, n_tokens)


def _row(fit: Fit) -> dict[str, Any]:
    figures = {name: value for name, value in vars(fit).items() if name != "reading"}
    return {**vars(fit.reading), "site": str(fit.reading.site), **figures}


def _fitting(declared: Fit, rival: Fit) -> str:
    site, ratio = declared.reading.site, rival.fvu_clean / declared.fvu_clean
    sentence = (
        f"The declared hook fits: {site}, unscaled, leaves {declared.fvu_clean:.3f} of the variance unexplained "
        f"with {declared.l0:.1f} active latents per token. The next best site, {rival.reading.site}, leaves "
        f"{ratio:.2f} times as much"
    )
    close = ratio < 1 / TOLERANCE
    return sentence + ("; that is too close to tell the two apart on these texts." if close else ".")


def _output_scaled(declared: Fit) -> str:
    return (
        f"The hook {declared.reading.site} and the encoder fit, the decoder's output has the wrong size: multiplied by "
        f"{declared.output_scale:.3g} it leaves {declared.fvu_rescaled:.3f} of the variance unexplained, as it is "
        f"{declared.fvu_clean:.3g}. A scaling was folded into the encoder but not into the decoder, or the reverse."
    )


def _other(declared: Fit, best: Fit, decoder: DecoderCheck, x_TD: torch.Tensor) -> str:
    """What the best reading does differently."""
    reading, as_loaded = best.reading, declared.reading
    wrong = []
    if reading.weights != as_loaded.weights:
        wrong.append(
            f"the decoder does not belong to the encoder ({reading.weights}: the median cosine between what a latent "
            f"reads and what it writes is {decoder.cosine:.2f}, once this is undone "
            f"{decoder.repairs[reading.weights]:.2f})"
        )
    if reading.site != as_loaded.site:
        wrong.append(f"the hook is {reading.site}, not {as_loaded.site}: load it as SAE@{reading.site}")
    if reading.per_token:
        wrong.append(f"every token has to be brought to norm {reading.scale:.3g} first")
    elif reading.scale != 1:
        wrong.append(
            f"activations have to be multiplied by about {reading.scale:.3g} first{_why(reading.scale, x_TD)}: "
            "a scaling of the training was not folded into the weights"
        )
    if reading.subtract_b_dec != as_loaded.subtract_b_dec:
        wrong.append(f"b_dec has to be {'' if reading.subtract_b_dec else 'left and not '}subtracted before encoding")
    return (
        f"Another reading fits: {'; '.join(wrong)}. Unexplained are then {best.fvu_clean:.3f} of the variance with "
        f"{best.l0:.1f} active latents per token, as declared {declared.fvu_clean:.3g} with {declared.l0:.1f}."
    )


def _why(scale: float, x_TD: torch.Tensor) -> str:
    """The usual factor that a scale is near to, in words."""
    near = next(iter(usual_scales(scale, x_TD)), None)
    return f" (which {near})" if near else ""


def _nothing_fits(best: Fit, decoder: DecoderCheck) -> str:
    apart = ""
    if decoder.cosine < SUSPICIOUS:
        apart = (
            " What a latent reads and what it writes have little in common (median cosine "
            f"{decoder.cosine:.2f}): the decoder may not belong to the encoder."
        )
    return (
        "No reading explains the activations with few latents: another language model, or a broken file. The best one, "
        f"{best.reading.site}, leaves {best.fvu_clean:.3g} of the variance unexplained with {best.l0:.1f} active "
        f"latents per token.{apart}"
    )
