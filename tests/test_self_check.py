"""A wrong hook, scale, bias or decoder is found and named; the right SAE is left alone."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.saes.sae import SAEMetadata

from experiments import check_sae as command
from neurosae.errors import UserError
from neurosae.forward import at_site
from neurosae.models import LanguageModel
from neurosae.norms import calibration_texts, median_norms
from neurosae.sae.check_sae import check_sae
from neurosae.sae.decoder_check import check_decoder, paired_cosine
from neurosae.sae.loading import DEFAULT, load, site_of, untrained_like
from neurosae.sae.readings import Reading, measure
from neurosae.sae.self_check import SelfCheck, candidate_sites, capture_clean, compare_readings, self_check
from neurosae.sites import Site

Activations = dict[Site, torch.Tensor]
NAMES = {"W_enc": "encoder", "W_dec": "decoder"}


@pytest.fixture(scope="module")
def sae() -> Any:
    return load()


@pytest.fixture(scope="module")
def activations(sae: Any, language_model: LanguageModel) -> Activations:
    """The SAE's own site first, then both neighbours and the MLP: enough to be wrong about."""
    own = site_of(sae)
    sites = [Site(own.block + step, own.stream) for step in (0, -1, 1)] + [Site(own.block, "mlp_out")]
    return capture_clean(language_model, calibration_texts(), sites, context=64, n_tokens=150)


def changed(sae: Any, site: Site | None = None, **tensors: torch.Tensor) -> Any:
    """A copy with other weights, or another declared site."""
    other = copy.deepcopy(sae)
    for name, tensor in tensors.items():
        getattr(other, name).data = tensor
    other.cfg.metadata.hook_name = str(site or site_of(sae))
    return other


def check(sae: Any, activations: Activations, n_sites: int = 2) -> SelfCheck:
    """The verdict on a few sites and few tokens."""
    some = {site: activations[site] for site in list(activations)[:n_sites]}
    return compare_readings(sae, some, scan_tokens=16)


def small_sae(d_model: int, n_latents: int, site: Site = Site(3)) -> Any:
    """Tied random directions, subtracting its decoder's bias."""
    config = StandardSAEConfig(
        d_in=d_model, d_sae=n_latents, apply_b_dec_to_input=True, metadata=SAEMetadata(hook_name=str(site))
    )
    sae = StandardSAE(config)
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.nn.functional.normalize(torch.randn(n_latents, d_model, generator=generator), dim=1)
    sae.W_dec.data, sae.W_enc.data = W_dec, W_dec.T.contiguous()
    sae.b_dec.data = torch.randn(d_model, generator=generator)
    return sae


def planted(k: float, shrinkage: float, *, n_tokens: int = 300, seed: int = 0) -> tuple[Any, torch.Tensor]:
    """The true dictionary of sparse activations, with codes that are too small by `shrinkage`."""
    d_model, n_latents = 256, 512
    sae = small_sae(d_model, n_latents)
    sae.cfg.apply_b_dec_to_input = False
    sae.b_dec.data.zero_()
    sae.b_enc.data.fill_(-shrinkage)
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(n_tokens, n_latents, generator=generator) < k / n_latents
    codes = active * (torch.rand(n_tokens, n_latents, generator=generator) * 2 + 0.5)
    return sae, codes @ sae.W_dec.data + 0.02 * torch.randn(n_tokens, d_model, generator=generator)


def test_the_right_one_fits_by_a_margin(sae: Any, activations: Activations) -> None:
    found = check(sae, activations, 4)
    assert found.fits
    assert found.margin > 1.2
    assert found.best.reading.site == site_of(sae)
    assert str(site_of(sae)) in found.sentence
    assert not found.decoder.repairs
    assert set(found.table["site"]) == {str(site) for site in activations}
    assert np.isfinite(found.table.select_dtypes(float).to_numpy()).all()


@pytest.mark.parametrize("step", [-1, 1])
def test_a_wrong_block_is_found(sae: Any, activations: Activations, step: int) -> None:
    own = site_of(sae)
    found = check(changed(sae, Site(own.block + step, own.stream)), activations, 3)
    assert not found.fits
    assert (found.best.reading.site, found.best.reading.scale) == (own, 1.0)
    assert found.margin < 0.9
    assert f"the hook is {own}, not" in found.sentence


@pytest.mark.parametrize("factor", ["root", 3.0])
def test_a_scaling_that_was_not_folded_is_found(sae: Any, activations: Activations, factor: str | float) -> None:
    """An SAE of c x has its biases and thresholds in units of c x."""
    x_TD = activations[site_of(sae)]
    c = float(x_TD.shape[1] ** 0.5 / x_TD.norm(dim=1).mean()) if factor == "root" else float(factor)
    in_units = {name: getattr(sae, name).data * c for name in ("b_enc", "b_dec", "threshold")}
    found = check(changed(sae, **in_units), activations)
    assert not found.fits
    assert found.best.reading.site == site_of(sae)
    assert found.best.reading.scale == pytest.approx(c, rel=0.2)
    assert found.best.fvu_clean < 0.3 < found.declared.fvu_clean
    assert "multiplied by about" in found.sentence
    assert ("square root of d_model" in found.sentence) == (factor == "root")


@pytest.mark.parametrize(("k", "shrinkage"), [(8, 0.4), (8, 0.6), (8, 0.8), (4, 1.1), (20, 0.8)])
def test_shrinkage_is_no_scaling(k: int, shrinkage: float) -> None:
    """Other scales than 1 leave less, up to a factor of 2.8, but only because they undo the shrinkage."""
    sae, x_TD = planted(k, shrinkage)
    own = site_of(sae)
    some = {own: x_TD, Site(2): x_TD.flip(1)}
    found = compare_readings(sae, some)
    assert found.fits, found.sentence
    assert found.best.reading == found.declared.reading
    other = compare_readings(changed(sae, Site(2)), some)
    assert not other.fits
    assert (other.best.reading.site, other.best.reading.scale) == (own, 1.0)
    assert "scaling" not in other.sentence


@pytest.mark.parametrize(("k", "shrinkage", "length"), [(20, 0.8, 0.75), (8, 0.4, 1.2), (20, 0.5, 1.3)])
def test_shrinkage_is_no_normalisation_of_tokens_either(k: int, shrinkage: float, length: float) -> None:
    """Tokens of nearly one length, somewhat below or above the square root of d_model."""
    sae, x_TD = planted(k, shrinkage)
    factor = length * 16 / float(x_TD.norm(dim=1).mean())
    x_TD *= factor
    sae.b_enc.data *= factor
    found = compare_readings(sae, {site_of(sae): x_TD, Site(2): x_TD.flip(1)})
    assert found.fits, found.sentence


def test_a_normalisation_of_tokens_is_found() -> None:
    sae, x_TD = planted(20, 0.6)
    sae.b_enc.data *= 16 / float(x_TD.norm(dim=1).mean())
    x_TD *= torch.randn(len(x_TD), 1, generator=torch.Generator().manual_seed(3)).exp() / x_TD.norm(dim=1, keepdim=True)
    found = compare_readings(sae, {site_of(sae): x_TD, Site(2): x_TD.flip(1)})
    assert not found.fits
    assert found.best.reading.per_token
    assert "every token has to be brought to norm" in found.sentence


def test_a_usual_scaling_is_found_below_a_factor_of_two(sae: Any, activations: Activations) -> None:
    """Activations of such a size that 1.5 brings their mean norm to the square root of d_model."""
    some = {site: activations[site] for site in list(activations)[:2]}
    own = site_of(sae)
    size = float(some[own].shape[1] ** 0.5 / some[own].norm(dim=1).mean()) / 1.5
    in_units = {name: getattr(sae, name).data * size * 1.5 for name in ("b_enc", "b_dec", "threshold")}
    found = check(changed(sae, **in_units), {site: x_TD * size for site, x_TD in some.items()})
    assert found.declared.fvu_clean < 0.6
    assert not found.fits
    assert found.best.reading.scale == pytest.approx(1.5, rel=0.2)
    assert "square root of d_model" in found.sentence


def test_an_unusual_scaling_below_a_factor_of_two_is_no_other_site(sae: Any, activations: Activations) -> None:
    in_units = {name: getattr(sae, name).data * 1.5 for name in ("b_enc", "b_dec", "threshold")}
    found = check(changed(sae, **in_units), activations)
    assert found.declared.fvu_clean < 0.6
    assert found.best.reading == found.declared.reading
    assert (found.table["scale"] == 1).all()


def test_a_dense_reading_does_not_hide_the_sparse_one_of_its_site() -> None:
    """The inputs are too small by a factor of four or more; with even larger factors noise passes every threshold."""
    generator = torch.Generator().manual_seed(5)
    sae = small_sae(16, 32)
    basis = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    sae.W_dec.data = torch.cat([basis, -basis])
    sae.W_enc.data = sae.W_dec.data.T.contiguous()
    sae.b_dec.data.zero_()
    sae.b_enc.data.fill_(-4 * 0.5)
    active = torch.rand(300, 16, generator=generator) < 0.15
    codes = 0.1 * torch.randn(300, 16, generator=generator) + active * (1 + torch.rand(300, 16, generator=generator))
    x_TD = codes.clamp(max=1.9) @ basis
    found = compare_readings(sae, {Site(3): x_TD, Site(2): x_TD[:, torch.randperm(16, generator=generator)]})
    assert not found.fits
    assert found.best.reading.site == Site(3)
    assert found.best.fvu_clean < 0.2
    assert 2 < found.best.l0 <= 8
    assert "multiplied by about" in found.sentence


@pytest.mark.parametrize(("repair", "shift"), [("reshaped", 0), ("another order", 1)])
def test_a_decoder_of_another_encoder_is_found(sae: Any, activations: Activations, repair: str, shift: int) -> None:
    W_dec = sae.W_dec.data
    wrong = W_dec.roll(shift, 0) if shift else W_dec.T.contiguous().reshape(W_dec.shape)
    found = check(changed(sae, W_dec=wrong), activations)
    assert not found.fits
    assert found.declared.fvu_clean > 1
    assert found.best.fvu_clean < 0.3
    assert "the decoder does not belong to the encoder" in found.sentence
    assert repair in found.sentence
    assert abs(found.decoder.cosine) < 0.1 < 0.4 < found.decoder.repairs[found.best.reading.weights]


def test_a_decoder_of_another_size_is_found(sae: Any, activations: Activations) -> None:
    found = check(changed(sae, W_dec=sae.W_dec.data * 3, b_dec=sae.b_dec.data * 3), activations)
    assert not found.fits
    assert found.declared.output_scale == pytest.approx(1 / 3, rel=0.05)
    assert "wrong size" in found.sentence


def test_a_forgotten_subtraction_is_found(sae: Any, activations: Activations) -> None:
    """The bias that a subtraction would add is left out of the encoder."""
    other = changed(sae, b_enc=sae.b_enc.data + sae.b_dec.data @ sae.W_enc.data)
    found = check(other, activations)
    assert not found.fits
    assert found.best.reading.subtract_b_dec != bool(sae.cfg.apply_b_dec_to_input)
    assert "b_dec" in found.sentence


def test_an_sae_of_nothing_fits_nowhere(sae: Any, activations: Activations) -> None:
    found = check(untrained_like(sae, activations[site_of(sae)]), activations)
    assert not found.fits
    assert "No reading explains" in found.sentence


def test_a_dense_code_is_no_explanation() -> None:
    """Enough directions of both signs copy anything; that is no sign of the right place."""
    generator = torch.Generator().manual_seed(4)
    sae = small_sae(12, 24)
    basis = torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q
    sae.W_dec.data = torch.cat([basis, -basis])
    sae.W_enc.data = sae.W_dec.data.T.contiguous()
    x_TD = torch.randn(200, 12, generator=generator)
    found = compare_readings(sae, {Site(3): x_TD, Site(2): x_TD.flip(0)})
    assert found.declared.fvu_clean < 1e-6
    assert not found.fits
    assert "No reading explains" in found.sentence


def test_a_decoder_from_elsewhere_fits_nowhere_and_is_suspected(sae: Any, activations: Activations) -> None:
    generator = torch.Generator().manual_seed(0)
    other = torch.nn.functional.normalize(torch.randn(sae.W_dec.shape, generator=generator), dim=1)
    found = check(changed(sae, W_dec=other), activations)
    assert not found.fits
    assert not found.decoder.repairs
    assert "may not belong" in found.sentence


@pytest.mark.parametrize(
    ("turned", "n_latents"),
    [(("W_dec",), 48), (("W_enc",), 48), (("W_dec",), 96), (("W_enc",), 96), (("W_enc", "W_dec"), 96)],
)
def test_turned_matrices_are_turned_back(turned: tuple[str, ...], n_latents: int) -> None:
    """With as many latents as dimensions, this is the transposed decoder; else one reshaped over the wrong axes."""
    right = small_sae(48, n_latents)
    wrong = copy.deepcopy(right)
    for name in turned:
        matrix = getattr(right, name).data
        getattr(wrong, name).data = matrix.T.contiguous().reshape(matrix.shape)
    repaired, found = check_decoder(wrong)
    assert abs(found.cosine) < 0.2
    assert repaired.keys() == found.repairs.keys()
    name = f"{' and '.join(NAMES[matrix] for matrix in turned)} reshaped instead of transposed"
    assert torch.equal(repaired[name].W_enc, right.W_enc)
    assert torch.equal(repaired[name].W_dec, right.W_dec)
    assert not torch.equal(wrong.state_dict()[turned[0]], right.state_dict()[turned[0]])  # the input stays as it was


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(40)).filter(lambda order: sum(i == j for i, j in enumerate(order)) < 10))
def test_any_order_of_latents_is_undone(order: list[int]) -> None:
    right = small_sae(64, 40)
    wrong = copy.deepcopy(right)
    wrong.W_dec.data = right.W_dec.data[order]
    repaired, _ = check_decoder(wrong)
    assert torch.equal(repaired["decoder latents in another order"].W_dec, right.W_dec)


def test_the_cosine_is_that_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    W_enc, W_dec = torch.randn(6, 9, generator=generator), torch.randn(9, 6, generator=generator)
    W_dec[4] = 0
    naive = [float(torch.cosine_similarity(W_enc[:, f], W_dec[f], dim=0)) for f in range(9)]
    assert paired_cosine(W_enc, W_dec) == pytest.approx(np.median(naive), abs=1e-6)


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("per_token", [False, True])
def test_a_reading_is_what_a_loop_computes(subtract: bool, per_token: bool) -> None:
    sae = small_sae(12, 30)
    x_TD = torch.randn(70, 12, generator=torch.Generator().manual_seed(2)) * 5 + 1
    reading = Reading(Site(3), 0.7, per_token, subtract)
    out, active = [], 0
    with torch.inference_mode():
        for x in x_TD:
            factor = 0.7 / x.norm() if per_token else 0.7
            code = torch.relu((factor * x - subtract * sae.b_dec) @ sae.W_enc + sae.b_enc)
            out.append((code @ sae.W_dec + sae.b_dec) / factor)
            active += int((code > 0).sum())
    y, x = torch.stack(out).double().numpy(), x_TD.double().numpy()
    centred = ((x - x.mean(0)) ** 2).sum()
    fit = measure(sae, x_TD, reading, 1000)
    assert fit.fvu_clean == pytest.approx(((x - y) ** 2).sum() / centred, rel=1e-5)
    assert fit.fvu_uncentred == pytest.approx(((x - y) ** 2).sum() / (x**2).sum(), rel=1e-5)
    assert fit.l0 == active / 70
    y_c = (y - y.mean(0)).ravel()
    (scale,), (error,), *_ = np.linalg.lstsq(y_c[:, None], (x - x.mean(0)).ravel(), rcond=None)
    assert fit.output_scale == pytest.approx(scale, rel=1e-5)
    assert fit.fvu_rescaled == pytest.approx(error / centred, rel=1e-5)
    in_blocks = measure(sae, x_TD, reading, 7)
    for name in ("fvu_clean", "fvu_uncentred", "l0", "output_scale", "fvu_rescaled"):
        assert getattr(in_blocks, name) == pytest.approx(getattr(fit, name), rel=1e-5)
    assert sae.cfg.apply_b_dec_to_input  # the SAE stays as it was


def test_a_silent_sae_has_figures_too() -> None:
    sae = small_sae(12, 30)
    sae.b_enc.data = torch.full((30,), -1e6)
    fit = measure(sae, torch.randn(50, 12, generator=torch.Generator().manual_seed(0)), Reading(Site(3)), 16)
    assert (fit.l0, fit.output_scale, fit.fvu_rescaled) == (0, 0, 1)
    assert fit.fvu_clean > 1


def test_a_larger_scale_is_a_larger_scale_of_the_input() -> None:
    sae = small_sae(12, 30)
    x_TD = torch.randn(50, 12, generator=torch.Generator().manual_seed(3))
    scaled, plain = measure(sae, x_TD, Reading(Site(3), 4.0), 50), measure(sae, 4 * x_TD, Reading(Site(3)), 50)
    assert scaled.fvu_clean == pytest.approx(plain.fvu_clean, rel=1e-5)


def test_candidates_are_the_streams_around_each_once(language_model: LanguageModel) -> None:
    sites = candidate_sites(language_model, Site(5))
    assert sites[0] == Site(5)
    expected = {Site(block) for block in (3, 4, 5, 6)}
    expected |= {Site(block, stream) for block in (4, 5, 6) for stream in ("mlp_out", "attn_out")}
    assert set(sites) == expected
    assert len(sites) == len(expected)
    before = candidate_sites(language_model, Site(6, "resid_pre"))  # the same place as 5
    assert before[0] == Site(6, "resid_pre")
    assert Site(5) not in before
    assert Site(0, "resid_pre") in candidate_sites(language_model, Site(0))
    last = language_model.n_blocks - 1
    assert max(site.block for site in candidate_sites(language_model, Site(last))) == last
    with pytest.raises(UserError, match="no block"):
        candidate_sites(language_model, Site(last + 1))


def test_captured_tokens_are_the_same_clean_ones_at_every_site(language_model: LanguageModel) -> None:
    from neurosae.capture import capture

    texts = calibration_texts()[:5]
    sites = [Site(2), Site(3, "mlp_out")]
    found = capture_clean(language_model, texts, sites, context=4096, n_tokens=10_000)
    naive = capture(language_model, texts, sites)
    assert median_norms(language_model, sites).keys() == found.keys()
    for site in sites:
        clean = naive[site].values[naive[site].tokens["clean"].to_numpy(dtype=bool)]
        order_a, order_b = np.lexsort(clean.T.round(2)), np.lexsort(found[site].numpy().T.round(2))
        assert len(clean) == len(found[site])
        np.testing.assert_allclose(clean[order_a], found[site].numpy()[order_b], rtol=1e-2, atol=2e-2)


def test_a_longer_context_than_the_models_is_cut(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites, texts = [Site(2), Site(3)], calibration_texts()[:4]
    expected = capture_clean(language_model, texts, sites, context=6, n_tokens=10_000)
    monkeypatch.setattr(language_model.bridge.cfg, "n_ctx", 6)
    found = capture_clean(language_model, texts, sites, context=4096, n_tokens=10_000)
    for site in sites:
        assert torch.equal(found[site], expected[site])
        assert 0 < len(found[site]) <= 4 * 5


def test_activations_that_are_not_finite_are_no_verdict(sae: Any, language_model: LanguageModel) -> None:
    def overflow(x_BTD: torch.Tensor) -> torch.Tensor:
        x_BTD = x_BTD.clone()
        x_BTD[0, 1, 0] = torch.inf
        return x_BTD

    with at_site(language_model, Site(14), overflow), pytest.raises(UserError, match="not finite"):
        self_check(sae, language_model, calibration_texts(), context=16, n_tokens=200)


def test_too_few_tokens_are_no_verdict(sae: Any, language_model: LanguageModel) -> None:
    with pytest.raises(UserError, match="clean tokens"):
        self_check(sae, language_model, ["Hi there.", ""])
    with pytest.raises(UserError, match="0 clean tokens"):
        self_check(sae, language_model, [""])


def test_a_transcoder_is_not_compared() -> None:
    sae = small_sae(12, 30)
    sae.W_dec.data = torch.zeros(30, 8)
    with pytest.raises(UserError, match="transcoder"):
        compare_readings(sae, {Site(3): torch.ones(200, 12), Site(2): torch.ones(200, 12)})


@pytest.mark.parametrize("wrong", [{"texts": 0}, {"tokens": 0}, {"context": 1}, {"sae": "no-such-sae"}])
def test_the_verb_names_the_argument_that_is_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError) as told:
        check_sae(**wrong)
    assert told.value.where == next(iter(wrong))


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["no-such-sae"], "Unknown SAE"),
        (["--texts", "0"], "--texts"),
        (["--tokens", "0"], "--tokens"),
        (["--context", "1"], "--context"),
        ([f"{DEFAULT}@999", "--texts", "2"], "There is no block 999"),
        ([f"{DEFAULT}@attn.hook_z", "--texts", "2"], "is no site"),
    ):
        assert command.main(arguments) == 2
        assert message in capsys.readouterr().err


def test_the_command_answers_with_its_exit_code(
    language_model: LanguageModel, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A small SAE of random directions: nothing fits."""
    sae = small_sae(language_model.d_model, 64)
    sae.save_model(tmp_path / "random")
    asked = ["--model", language_model.name, "--texts", "6", "--tokens", "150", "--context", "48"]
    assert command.main([str(tmp_path / "random"), *asked]) == 3
    shown = capsys.readouterr().out
    found = check_sae(str(tmp_path / "random"), model=language_model.name, texts=6, tokens=150, context=48)
    assert not found.fits
    assert all(sentence in shown for sentence in found.sentences)
    assert f"{found.figures.fvu_clean:.4g}" in shown
    assert len(found.as_dict()["readings"]) == len(found.check.table)
    for part in ("FVU, clean", "L0", "CE increase", "silent latents", "blocks.2.hook_mlp_out", "No reading explains"):
        assert part in shown


@pytest.mark.slow
def test_the_command_approves_of_the_bundled_pair(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--texts", "40", "--tokens", "800"]) == 0
    assert "The declared hook fits" in capsys.readouterr().out
