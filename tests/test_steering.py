"""Interventions are what their formulas say, on the tokens they should touch, and never pretend to have done more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from neurosae.capture import capture
from neurosae.errors import UserError
from neurosae.forward import run_batch
from neurosae.models import LanguageModel
from neurosae.norms import LIMIT, median_norms
from neurosae.responses import Responses
from neurosae.sae.encoding import encode
from neurosae.sae.loading import load, site_of
from neurosae.sites import Site
from neurosae.steering.doses import Observed, alike, observe
from neurosae.steering.generation import generate
from neurosae.steering.interventions import (
    Direction,
    FeatureChange,
    How,
    ablate,
    add,
    clamp,
    random_direction,
    steer_ensemble,
    steering,
)

SITE = Site(15)
TEXTS = [
    "The bridge held while the trucks crossed.",
    "It failed.",
    "Nobody had expected the orchestra to fill the hall.",
]
PROMPTS = ["The capital of France is", "Once upon a time there was a village where", "I"]


@pytest.fixture(scope="module")
def sae() -> Any:
    return load()


@pytest.fixture(scope="module")
def neurons(language_model: LanguageModel) -> Responses:
    return capture(language_model, TEXTS, [SITE])[SITE]


@pytest.fixture(scope="module")
def latents(sae: Any, neurons: Responses) -> Responses:
    return encode(sae, neurons, "sae")


@pytest.fixture(scope="module")
def clean(neurons: Responses) -> torch.Tensor:
    return torch.from_numpy(neurons.values[neurons.tokens["clean"].to_numpy(dtype=bool)])


def fires(latents: Responses, n: int) -> np.ndarray:
    """The latents that are active at most tokens."""
    counts = np.asarray((latents.values != 0).sum(axis=0)).ravel()
    return np.argsort(-counts, kind="stable")[:n]


def table(values: Any, **source: str) -> Responses:
    tokens = pd.DataFrame({"stimulus": np.arange(values.shape[0]), "clean": True})
    return Responses(values, tokens, pd.DataFrame(index=range(values.shape[0])), str(SITE), source)


# --- formulas ---------------------------------------------------------------------------------------------------------


def test_clamping_latents_is_the_change_of_the_reconstruction(sae: Any, clean: torch.Tensor) -> None:
    """decode(changed codes) - decode(codes): the naive way, which needs every latent."""
    features, values = [4, 7000, 123], [3.0, 0.5, 20.0]
    with torch.inference_mode():
        codes = sae.encode(clean)
        changed = codes.clone()
        changed[:, features] = torch.tensor(values)
        expected = sae.decode(changed) - sae.decode(codes)
    found = clamp(SITE, features, values, sae=sae).delta(clean)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("normalisation", ["constant_norm_rescale", "layer_norm"])
def test_an_sae_that_scales_its_inputs_writes_in_the_units_of_the_stream(
    clean: torch.Tensor, normalisation: str
) -> None:
    from sae_lens import StandardSAE, StandardSAEConfig

    config = StandardSAEConfig(d_in=576, d_sae=40, normalize_activations=normalisation)
    config.metadata.hook_name = str(SITE)
    scaled = StandardSAE(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in scaled.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    with torch.inference_mode():
        before, codes = scaled.decode(scaled.encode(clean)), scaled.encode(clean)
        codes[:, [3, 5]] = torch.tensor([2.0, 0.0])
        after = scaled.decode(codes)
    torch.testing.assert_close(
        clamp(SITE, [3, 5], [2.0, 0.0], sae=scaled).delta(clean), after - before, rtol=1e-3, atol=1e-2
    )


def test_clamping_all_latents_to_their_own_values_changes_nothing(sae: Any, clean: torch.Tensor) -> None:
    """The error of the SAE stays where it is: the stream is not replaced by its reconstruction."""
    with torch.inference_mode():
        codes_F = sae.encode(clean[:1])[0].double().numpy()
    everything = clamp(SITE, np.arange(sae.cfg.d_sae), codes_F, sae=sae)
    error = sae.decode(sae.encode(clean[:1])) - clean[:1]
    assert everything.delta(clean[:1]).norm() < 1e-4 * error.norm()


def test_neurons_are_set_and_raised(clean: torch.Tensor) -> None:
    expected = torch.zeros_like(clean)
    expected[:, [2, 5]] = torch.tensor([1.5, -3.0]) - clean[:, [2, 5]]
    torch.testing.assert_close(clamp(SITE, [2, 5], [1.5, -3.0]).delta(clean), expected)
    torch.testing.assert_close(add(SITE, [2, 5], 4.0).delta(clean)[:, [2, 5]], torch.full((len(clean), 2), 4.0))


@pytest.mark.parametrize("how", ["clamp", "add"])
def test_a_feature_more_is_the_sum_of_its_parts(sae: Any, clean: torch.Tensor, how: How) -> None:
    make = {"clamp": clamp, "add": add}[how]
    together = make(SITE, [8, 90], [4.0, 7.0], sae=sae).delta(clean)
    apart = make(SITE, [8], 4.0, sae=sae).delta(clean) + make(SITE, [90], 7.0, sae=sae).delta(clean)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-3)


# --- doses ------------------------------------------------------------------------------------------------------------


def test_doses_are_quantiles_of_what_is_not_zero() -> None:
    values = np.array([[0, 1, 0, -4], [0, 3, 0, -2], [0, 0, 6, 0], [0, 2, 8, 2]], dtype=np.float64)
    seen = observe(table(sp.csr_array(values), features="latents"), [1, 2])
    assert seen.quantile(0.5).tolist() == [2.0, 7.0]
    assert seen.share_K.tolist() == [0.75, 0.5]
    assert observe(table(values), [3], [1, 3]).mean_K.tolist() == [0.0]
    fewer = observe(table(np.concatenate([values, np.zeros((50, 4))]), features="latents"), [1, 2])
    assert fewer.quantile(0.9).tolist() == seen.quantile(0.9).tolist()  # silent stimuli do not lower a dose


def test_a_dose_outside_the_observed_range_names_the_range() -> None:
    seen = observe(table(np.array([[1.0], [4.0], [0.0]]), features="latents"), [0])
    with pytest.raises(UserError, match=r"1.5 lies outside.*0 to 4"):
        seen.quantile(1.5)
    with pytest.raises(UserError, match="0 to 4"):
        steer_ensemble(SITE, seen, [1], -1.2)
    with pytest.raises(UserError, match=r"of feature 0 lies outside.*0 to 4"):
        seen.check([4.1])
    assert seen.check([0.0]).tolist() == [0.0]
    with pytest.raises(UserError, match="Feature 1 is silent"):
        observe(table(np.array([[1.0, 0.0]])), [0, 1]).quantile(0.5)


def test_an_ensemble_is_steered_along_its_directions(sae: Any) -> None:
    observed = Observed(np.array([3, 9]), (np.array([1.0, 3.0]), np.array([2.0, 6.0])), np.zeros(2), np.ones(2), True)
    assert steer_ensemble(SITE, observed, [1, -1], 0.5, sae=sae).values_K.tolist() == [2.0, 0.0]
    assert steer_ensemble(SITE, observed, [1, -1], -0.5, sae=sae).values_K.tolist() == [0.0, 4.0]
    assert steer_ensemble(SITE, observed, [1, -1], 0.5, how="add", sae=sae).values_K.tolist() == [2.0, -4.0]
    raw = replace(observed, latents=False, mean_K=np.array([2.0, 4.0]))
    assert steer_ensemble(SITE, raw, [1, -1], 0.75).values_K.tolist() == [2.5, 3.0]
    assert steer_ensemble(SITE, raw, [1, -1], 0.75, how="add").values_K.tolist() == [0.5, -1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda sae: clamp(SITE, [1, 1], 2.0), "occurs twice"),
        (lambda sae: clamp(SITE, [9216000], 2.0, sae=sae), "There is no feature 9216000"),
        (lambda sae: clamp(SITE, [1.5], 2.0), "whole numbers"),
        (lambda sae: clamp(SITE, [1], np.nan), "feature 1 is not finite"),
        (lambda sae: clamp(Site(14), [1], 2.0, sae=sae), "belongs to blocks.15"),
        (lambda sae: clamp(SITE, [576], 2.0).delta(torch.zeros(1, 576)), "There is no neuron 576"),
        (lambda sae: observe(table(np.array([[1.0, np.inf]])), [0, 1]), "Feature 1 has activations that are not"),
    ],
)
def test_bad_input(sae: Any, make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(sae)


# --- controls ---------------------------------------------------------------------------------------------------------


def test_random_latents_fire_as_often_and_are_others(rng: np.random.Generator) -> None:
    share_F = rng.random(2000) ** 3
    share_F[::7] = 0
    features = [101, 302, 1501]
    draws = np.array([alike(share_F, features, draw) for draw in range(200)])
    assert not np.isin(draws, features).any() and (share_F[draws] > 0).all()
    assert np.abs(share_F[draws] - share_F[features]).max() < 0.06
    assert all(len(set(row)) == 3 for row in draws) and len(np.unique(draws[:, 0])) > 20
    np.testing.assert_array_equal(alike(share_F, features, 5), draws[5])
    with pytest.raises(UserError, match="Only 1 other"):
        alike([0.2, 0.2, 0.2, 0.0], [0, 1], 0)


def test_random_directions_have_their_norm_and_no_preferred_axis() -> None:
    vectors = torch.stack([random_direction(SITE, 64, 3.0, draw).vector_D for draw in range(400)])
    torch.testing.assert_close(vectors.norm(dim=1), torch.full((400,), 3.0))
    assert vectors.mean(0).norm() < 3 * 3.0 / np.sqrt(400)  # 3 standard errors
    assert torch.equal(random_direction(SITE, 64, 6.0, 7).vector_D, 2 * vectors[7])


# --- at work ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", [Site(15, "resid_pre"), Site(4, "mlp_out")])
def test_only_clean_masked_tokens_change(language_model: LanguageModel, site: Site) -> None:
    ids = language_model.token_ids(TEXTS)
    (before,) = run_batch(language_model, ids, [site])
    change = random_direction(site, language_model.d_model, 5.0, 0)
    mask = torch.zeros(before.shape[:2], dtype=torch.bool)
    mask[0, 2:5], mask[2, :] = True, True  # the sink token of text 2 is asked for too, and is an outlier
    with steering(language_model, change) as steered:
        steered.mask_BT = mask
        language_model.base(input_ids=_padded(language_model, ids), use_cache=False)
        (after,) = run_batch(language_model, ids, [site])
    normal = before.norm(dim=-1) <= LIMIT * median_norms(language_model, [site])[site]
    expected = before + (mask & normal)[..., None] * change.vector_D
    torch.testing.assert_close(after, expected)
    assert steered.n_passes == 2 and steered.n_changed == steered.n_tokens == 2 * int((mask & normal).sum())
    assert steered.norm == pytest.approx(5.0)


def _padded(language_model: LanguageModel, ids: list[list[int]]) -> torch.Tensor:
    width = max(map(len, ids))
    return torch.tensor([[*row, *[language_model.sink_token] * (width - len(row))] for row in ids])


def test_ablating_a_silent_latent_says_that_nothing_happened(
    language_model: LanguageModel, sae: Any, latents: Responses
) -> None:
    silent = np.flatnonzero(np.asarray((latents.values != 0).sum(axis=0)).ravel() == 0)[:3]
    nothing = ablate(SITE, observe(latents, silent), sae=sae)
    with pytest.raises(UserError, match="changed nothing"):
        generate(language_model, language_model.token_ids([TEXTS[0]]), n_tokens=1, intervention=nothing)


def test_ablation_takes_out_what_a_latent_wrote(
    language_model: LanguageModel, sae: Any, latents: Responses, clean: torch.Tensor
) -> None:
    """Along its decoder row, the stream loses exactly what the latent had written."""
    feature = fires(latents, 1)
    gone = ablate(SITE, observe(latents, feature), sae=sae)
    with torch.inference_mode():
        before = sae.encode(clean)[:, feature[0]]
        row = sae.W_dec[feature[0]]
        moved = gone.delta(clean) @ row / row.square().sum()
    torch.testing.assert_close(moved, -before, rtol=1e-3, atol=1e-3)
    raw = observe(table(np.array([[1.0, 5.0], [3.0, 5.0]])), [0])
    assert ablate(SITE, raw).values_K.tolist() == [2.0]


@pytest.mark.parametrize(("positions", "temperature"), [("both", 0.0), ("generated", 1.0)])
def test_generation_is_the_same_with_and_without_cache_and_in_any_batch(
    language_model: LanguageModel, positions: Any, temperature: float
) -> None:
    ids = language_model.token_ids(PROMPTS)
    options: dict[str, Any] = {"n_tokens": 3, "positions": positions, "temperature": temperature}
    options["intervention"] = random_direction(SITE, 576, 60.0, 1)
    together = generate(language_model, ids, **options)
    assert together == generate(language_model, ids, cache=False, **options)
    assert together == generate(language_model, ids, batch_size=2, **options)
    if temperature == 0:
        assert together[2:] == generate(language_model, ids[2:], **options)
        assert together != generate(language_model, ids, n_tokens=3)


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"temperature": np.nan}, {"temperature": -1.0}, {"n_tokens": 0}])
def test_numbers_out_of_range_are_told(language_model: LanguageModel, bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(bad))} = {next(iter(bad.values()))}"):
        generate(language_model, [[0, 1]], **bad)


def test_greedy_generation_is_that_of_transformers(language_model: LanguageModel) -> None:
    ids = language_model.token_ids([PROMPTS[0]])
    tokens = torch.tensor(ids)
    theirs = language_model.plain.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=5, do_sample=False, pad_token_id=0
    )
    assert generate(language_model, ids, n_tokens=5)[0] == theirs[0, len(ids[0]) :].tolist()


def test_sampling_depends_on_the_seed_and_follows_the_model(language_model: LanguageModel) -> None:
    """How often the likeliest token comes first, against its probability (a binomial bound of four deviations)."""
    ids = language_model.token_ids(["The capital of France is"])
    with torch.inference_mode():
        p, likeliest = language_model.plain(torch.tensor(ids)).logits[0, -1].softmax(-1).max(-1)
    drawn = generate(language_model, ids * 60, n_tokens=1, temperature=1.0, batch_size=60)
    hits = sum(row == [int(likeliest)] for row in drawn)
    assert abs(hits - 60 * float(p)) < 4 * np.sqrt(60 * float(p * (1 - p)))
    assert drawn[:8] != generate(language_model, ids * 8, n_tokens=1, temperature=1.0, seed=1)


def test_a_planted_direction_brings_its_token_out_and_a_random_one_does_not(language_model: LanguageModel) -> None:
    head = language_model.plain.get_output_embeddings().weight.detach()
    gain = language_model.base.norm.weight.detach()
    (token,) = language_model.tokenizer(" banana", add_special_tokens=False).input_ids[:1]
    planted = (head[token] - head.mean(0)) * gain
    site, ids = Site(29), language_model.token_ids(PROMPTS)
    norm = 3 * median_norms(language_model, [site])[site]
    toward = Direction(site, norm * planted / planted.norm())
    away = Direction(site, -toward.vector_D)
    noise = random_direction(site, 576, norm, 0)
    first = {
        name: [row[0] for row in generate(language_model, ids, n_tokens=1, intervention=change, positions="prompt")]
        for name, change in {"toward": toward, "away": away, "noise": noise}.items()
    }
    assert first["toward"] == [token] * 3
    assert token not in first["away"] + first["noise"]


def test_feature_change_is_what_the_verbs_return(sae: Any) -> None:
    made = clamp(SITE, [5], 2.0, sae=sae)
    assert isinstance(made, FeatureChange) and made.site == site_of(sae)
