"""Mistakes 8 to 10 of the original: interventions that were none, that crashed on tuples, or sat at another block."""

from __future__ import annotations

import pytest
import torch

from neurosae.forward import at_site, run_batch
from neurosae.models import LanguageModel
from neurosae.sites import Site

SITE = Site(7)


@pytest.fixture
def ids(language_model: LanguageModel) -> list[list[int]]:
    return language_model.token_ids(["The bridge held while the trucks crossed."])


def test_mistake_8_a_change_reaches_generation(language_model: LanguageModel, ids: list[list[int]]) -> None:
    """The change is called at every generated token, and other tokens come out."""
    seen: list[int] = []

    def change(activation: torch.Tensor) -> torch.Tensor:
        seen.append(activation.shape[1])
        return activation.flip(-1)

    def generated() -> list[int]:
        tokens = torch.tensor(ids, device=language_model.device)
        out = language_model.plain.generate(tokens, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        return [int(token) for token in out[0]]

    before = generated()
    with at_site(language_model, SITE, change):
        during = generated()
    assert seen == [len(ids[0]), 1, 1, 1]
    assert during != before
    assert generated() == before  # and nothing stays behind


@pytest.mark.parametrize("stream", ["attn_out", "mlp_out"])
def test_mistake_9_components_that_return_tuples_are_changed_like_tensors(
    language_model: LanguageModel, ids: list[list[int]], stream: str
) -> None:
    """A block that adds nothing leaves the stream as it was; attention returns a tuple, the MLP a tensor."""
    other = {"attn_out": "mlp_out", "mlp_out": "attn_out"}[stream]
    before, added = run_batch(language_model, ids, [Site(7, "resid_pre"), Site(7, other)])
    with at_site(language_model, Site(7, stream), torch.zeros_like):
        (after,) = run_batch(language_model, ids, [SITE])
        (added_now,) = run_batch(language_model, ids, [Site(7, other)])
    torch.testing.assert_close(after, before + added_now, rtol=1e-5, atol=1e-4)
    if stream == "mlp_out":  # the attention comes first and knows nothing of it
        torch.testing.assert_close(added_now, added, rtol=0, atol=0)


@pytest.mark.parametrize("stream", ["resid_post", "resid_pre", "mlp_out", "attn_out"])
def test_mistake_10_a_change_sits_where_the_capture_listens(
    language_model: LanguageModel, ids: list[list[int]], stream: str
) -> None:
    site = Site(7, stream)
    (before,) = run_batch(language_model, ids, [site])
    (earlier,) = run_batch(language_model, ids, [Site(5)])
    with at_site(language_model, site, lambda activation: activation + 3):
        (during,) = run_batch(language_model, ids, [site])
        (earlier_now,) = run_batch(language_model, ids, [Site(5)])
    torch.testing.assert_close(during, before + 3, rtol=0, atol=0)
    torch.testing.assert_close(earlier_now, earlier, rtol=0, atol=0)
