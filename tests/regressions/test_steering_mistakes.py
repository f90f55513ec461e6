"""Mistakes 8 to 10 of the original, in steering: a no-op, a crash on tuples, the wrong block and units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from neurosae.capture import capture
from neurosae.errors import UserError
from neurosae.forward import run_batch
from neurosae.models import LanguageModel
from neurosae.sae.encoding import encode
from neurosae.sae.loading import load
from neurosae.sites import Site
from neurosae.steering.doses import observe
from neurosae.steering.generation import generate
from neurosae.steering.interventions import clamp, random_direction, steer_ensemble, steering

SITE = Site(15)
TEXT = "The bridge held while the trucks crossed."


@pytest.fixture(scope="module")
def sae() -> Any:
    return load()


def test_mistake_8_clamped_latents_change_what_is_generated_and_sampling_alone_changes_nothing(
    language_model: LanguageModel, sae: Any
) -> None:
    """Generation never calls the SAE: the change has to arrive in the stream, at every new token."""
    ids = language_model.token_ids([TEXT])
    strong = clamp(SITE, np.arange(20), 60.0, sae=sae)
    plain = generate(language_model, ids, n_tokens=4, temperature=1.0, seed=3)
    assert plain == generate(language_model, ids, n_tokens=4, temperature=1.0, seed=3)
    assert plain != generate(language_model, ids, n_tokens=4, temperature=1.0, seed=3, intervention=strong)


def test_mistake_8_an_intervention_that_does_nothing_is_refused(language_model: LanguageModel) -> None:
    with (
        pytest.raises(UserError, match="never reached"),
        steering(language_model, random_direction(SITE, 576, 1.0, 0)),
    ):
        pass
    with pytest.raises(UserError, match="changed nothing"):
        generate(
            language_model, language_model.token_ids([TEXT]), n_tokens=1, positions="generated",
            intervention=random_direction(SITE, 576, 1.0, 0),
        )  # fmt: skip


@pytest.mark.parametrize("stream", ["attn_out", "mlp_out"])
def test_mistake_9_raw_neurons_are_clamped_in_tuples_and_tensors(language_model: LanguageModel, stream: str) -> None:
    """Attention returns a tuple, the MLP a tensor; both carry the clamped value."""
    site, ids = Site(9, stream), language_model.token_ids([TEXT])
    with steering(language_model, clamp(site, [7, 300], [1.25, -2.0])) as steered:
        steered.mask_BT = torch.arange(len(ids[0]))[None] > 0
        (heard,) = run_batch(language_model, ids, [site])
    np.testing.assert_allclose(heard[0, 1:, [7, 300]].numpy(), [[1.25, -2.0]] * (len(ids[0]) - 1), rtol=1e-5)


def test_mistake_9_an_error_is_never_a_model_output(language_model: LanguageModel) -> None:
    with pytest.raises(UserError, match="There is no neuron 5000"):
        generate(language_model, language_model.token_ids([TEXT]), n_tokens=2, intervention=clamp(SITE, [5000], 1.0))


def test_mistake_10_doses_are_activations_of_the_captured_site(language_model: LanguageModel, sae: Any) -> None:
    """A clamped latent reads, at the site it was captured at, the quantile of its own activation and not a weight."""
    responses = encode(sae, capture(language_model, [TEXT, "She won the race in the end."], [SITE])[SITE], "sae")
    counts = np.asarray((responses.values != 0).sum(axis=0)).ravel()
    feature = np.argsort(-counts, kind="stable")[:1]
    seen = observe(responses, feature)
    active = responses.values[:, feature].toarray()[responses.tokens["clean"].to_numpy(dtype=bool)]
    dose = np.quantile(active[active > 0], 0.9)
    change = steer_ensemble(SITE, seen, [1], 0.9, sae=sae)
    assert change.values_K[0] == pytest.approx(dose)
    ids = language_model.token_ids([TEXT])
    (before,) = run_batch(language_model, ids, [SITE])
    with steering(language_model, change) as steered:
        steered.mask_BT = torch.arange(len(ids[0]))[None] > 0
        (after,) = run_batch(language_model, ids, [SITE])
    direction = sae.W_dec[feature[0]].detach()
    with torch.inference_mode():
        old = sae.encode(before[0, 1:])[:, feature[0]]
    moved = (after - before)[0, 1:] @ direction / direction.square().sum()
    torch.testing.assert_close(moved, dose - old, rtol=1e-3, atol=1e-2)


def test_mistake_10_another_block_than_the_captured_one_is_refused(sae: Any) -> None:
    with pytest.raises(UserError, match=r"belongs to blocks.15.hook_resid_post, the intervention to blocks.16"):
        clamp(Site(16), [0], 1.0, sae=sae)
