"""Similarities of time courses: cosine, lagged, warped, energy; identity with naive loops, invariances, validity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neurosae.errors import UserError
from neurosae.rsa import (
    FORMS,
    Reason,
    profile_similarity,
    score_profiles,
    score_similarity,
    score_similarity_model,
)
from neurosae.rsa.models import label_model

few_examples = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 10_000)
NEW_FORMS = ("lagged", "warped", "energy")


def profiles(seed, n_stimuli=9, n_positions=8, n_features=5):
    """Dense, sparse, offset, silent and constant features; gaps in the mask; undefined positions hold NaN."""
    rng = np.random.default_rng(seed)
    P_SWF = rng.normal(size=(n_stimuli, n_positions, n_features))
    P_SWF[..., 1] = np.maximum(P_SWF[..., 1] - 1, 0)
    P_SWF[..., 2] += 50
    P_SWF[..., 3], P_SWF[..., 4] = 0, 0.1
    defined_SW = rng.random((n_stimuli, n_positions)) < 0.85
    defined_SW[0] = False
    P_SWF[~defined_SW] = np.nan
    return P_SWF, defined_SW


def clean(P_SWF, defined_SW, i, f):
    return P_SWF[i, defined_SW[i], f]


def naive_lagged(a_W, b_W, min_positions):
    """Centred over their clean positions and 0 elsewhere; None where one is constant."""
    a_W, b_W = (np.where(np.isnan(v), 0, v - np.nanmean(v)) for v in (a_W, b_W))
    norm = np.linalg.norm(a_W) * np.linalg.norm(b_W)
    if norm < 1e-10:
        return None
    n = len(a_W)
    products = np.correlate(a_W, b_W, "full")  # lags -(n - 1) ... n - 1
    kept = np.abs(np.arange(2 * n - 1) - (n - 1)) <= n - min_positions
    bound = 1 - 1 / n
    return np.arctanh(np.clip(products[kept].max() / norm, -bound, bound))


def naive_warped(a, b):
    cost = np.full((len(a) + 1, len(b) + 1), np.inf)
    cost[0, 0] = 0
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            local = abs(a[i - 1] - b[j - 1])
            cost[i, j] = min(cost[i - 1, j] + local, cost[i, j - 1] + local, cost[i - 1, j - 1] + 2 * local)
    return -cost[-1, -1] / (len(a) + len(b))


@pytest.mark.parametrize("form", NEW_FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_position_free_similarities_are_their_definitions(form, seed):
    P_SWF, defined_SW = profiles(seed)
    similarity_FSS, ok_FSS = profile_similarity(P_SWF, defined_SW, form=form)
    n_S = defined_SW.sum(axis=1)
    for f, i, j in np.ndindex(5, 9, 9):
        expected = None
        if i != j and min(n_S[i], n_S[j]) >= 5:
            a, b = clean(P_SWF, defined_SW, i, f), clean(P_SWF, defined_SW, j, f)
            expected = {
                "lagged": lambda i=i, j=j, f=f: naive_lagged(P_SWF[i, :, f], P_SWF[j, :, f], 5),
                "warped": lambda a=a, b=b: naive_warped(a, b),
                "energy": lambda a=a, b=b: -stats.energy_distance(a, b),
            }[form]()
        assert ok_FSS[f, i, j] == (expected is not None)
        assert similarity_FSS[f, i, j] == pytest.approx(0 if expected is None else expected, abs=1e-7)
    assert ok_FSS[0].any() and not ok_FSS[:, 0].any()


def test_the_cosine_is_taken_over_common_positions():
    P_SWF, defined_SW = profiles(3)
    for form in ("aligned", "sorted"):
        Z_FSS, ok_FSS = profile_similarity(P_SWF, defined_SW, form=form, measure="cosine")
        for f, i, j in np.ndindex(5, 9, 9):
            if form == "sorted":
                a, b = (np.sort(clean(P_SWF, defined_SW, s, f))[::-1] for s in (i, j))
                a, b = a[: len(b)], b[: len(a)]
            else:
                common = defined_SW[i] & defined_SW[j]
                a, b = P_SWF[i, common, f], P_SWF[j, common, f]
            ok = i != j and len(a) >= 5 and a.any() and b.any()
            assert ok_FSS[f, i, j] == ok
            if ok:
                cosine = np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -7 / 8, 7 / 8)
                assert Z_FSS[f, i, j] == pytest.approx(np.arctanh(cosine), abs=1e-9)


@given(seed=seeds, form=st.sampled_from(FORMS), measure=st.sampled_from(["correlation", "cosine"]))
@few_examples
def test_invariances_of_scores(seed, form, measure):
    rng = np.random.default_rng(seed)
    measure = measure if form in ("aligned", "sorted") else "correlation"
    P_SWF, defined_SW = profiles(seed, n_stimuli=14)
    labels = rng.permutation(np.arange(14) < 7)

    def score(P_SWF, defined_SW=defined_SW, labels=labels, **options):
        options |= {"form": form, "measure": measure, "min_stimuli": 2, "min_pairs": 2}
        return score_profiles(P_SWF, defined_SW, labels, **options)

    reference = score(P_SWF)
    order, columns = rng.permutation(14), rng.permutation(5)
    np.testing.assert_allclose(score(P_SWF[order], defined_SW[order], labels[order]).value, reference.value, atol=1e-7)
    np.testing.assert_allclose(score(P_SWF[..., columns]).value, reference.value[columns], atol=1e-7)
    np.testing.assert_allclose(score(16 * P_SWF).value, reference.value, atol=1e-7)
    np.testing.assert_allclose(score(P_SWF, block_size=2).value, reference.value, atol=1e-10)
    with_silent = score(np.concatenate([np.zeros_like(P_SWF[..., :2]), P_SWF], axis=2))
    np.testing.assert_allclose(with_silent.value[2:], reference.value, atol=1e-7)
    assert (with_silent.reason[:2] == Reason.SILENT).all() and np.isfinite(with_silent.value).all()
    Z_FSS, ok_FSS = profile_similarity(P_SWF, defined_SW, form=form, measure=measure)
    again = score_similarity(Z_FSS, ok_FSS, labels, min_stimuli=2, min_pairs=2)
    np.testing.assert_allclose(again.value, reference.value, atol=1e-9)
    np.testing.assert_allclose(again.defined_share, reference.defined_share, atol=1e-12)


@pytest.mark.parametrize("form", ["lagged", "warped", "energy", "sorted"])
def test_a_course_at_a_random_moment_is_found_without_asking_when(form):
    rng = np.random.default_rng(4)
    labels = np.arange(50) < 25
    P_SWF = 0.1 * rng.random((50, 16, 1))
    for s in range(50):
        start = rng.integers(0, 12)
        P_SWF[s, start : start + 4, 0] += [1, 3, 3, 1] if labels[s] else rng.permutation([0, 0, 0, 0.5])
    everywhere = np.ones((50, 16), dtype=bool)
    aligned, free = (score_profiles(P_SWF, everywhere, labels, form=f).value[0] for f in ("aligned", form))
    assert free > 0.4 and free > aligned + 0.3


def test_single_spikes_keep_their_pairs_only_in_position_free_forms():
    P_SWF, everywhere = np.zeros((60, 16, 1)), np.ones((60, 16), dtype=bool)
    P_SWF[np.arange(12), np.arange(12), 0] = 1
    labels = np.arange(60) < 30
    for form in ("warped", "energy"):
        scores = score_profiles(P_SWF, everywhere, labels, form=form)
        assert scores.valid.all() and scores.defined_share[0] == 1
    lagged_FSS, ok_FSS = profile_similarity(P_SWF, everywhere, form="lagged")
    aligned_FSS, _ = profile_similarity(P_SWF, everywhere)
    assert (lagged_FSS[ok_FSS] > 1.5).all() and (aligned_FSS[ok_FSS] < 0).all()


def test_skipping_silent_stimuli_changes_nothing():
    """Features that are active for few stimuli, next to one that is active for all (which rules out skipping)."""
    rng = np.random.default_rng(5)
    P_SWF = rng.normal(size=(30, 8, 12)) * (rng.random((30, 1, 12)) < 0.4) * (rng.random((30, 8, 12)) < 0.8)
    defined_SW = rng.random((30, 8)) < 0.95
    everyone = np.concatenate([rng.normal(size=(30, 8, 1)), P_SWF], axis=2)
    for form, measure in (("aligned", "correlation"), ("aligned", "cosine"), ("sorted", "correlation")):
        Z_FSS, ok_FSS = profile_similarity(P_SWF, defined_SW, form=form, measure=measure)
        all_FSS, all_ok_FSS = profile_similarity(everyone, defined_SW, form=form, measure=measure)
        np.testing.assert_allclose(Z_FSS, all_FSS[1:], atol=1e-12)
        np.testing.assert_array_equal(ok_FSS, all_ok_FSS[1:])


@given(seed=seeds)
@few_examples
def test_graded_models_on_similarities_over_defined_pairs(seed):
    rng = np.random.default_rng(seed)
    P_SWF, defined_SW = profiles(seed, n_stimuli=16)
    Z_FSS, ok_FSS = profile_similarity(P_SWF, defined_SW)
    upper = np.triu(rng.random((2, 16, 16)), 1)
    models_MSS = upper + upper.swapaxes(1, 2)
    models_MSS[1, 3, 9] = models_MSS[1, 9, 3] = np.nan
    scores = score_similarity_model(Z_FSS, ok_FSS, models_MSS, min_stimuli=3, min_pairs=3)
    i, j = np.triu_indices(16, 1)
    for m, f in np.argwhere(scores.valid):
        kept = ok_FSS[f, i, j] & ~np.isnan(models_MSS[m, i, j])
        expected = -np.corrcoef(Z_FSS[f, i, j][kept], models_MSS[m, i, j][kept])[0, 1]
        assert scores.value[m, f] == pytest.approx(expected, abs=1e-7)
        assert scores.defined_share[m, f] == pytest.approx(kept.sum() / (120 - m))
    assert scores.valid[:, 0].all() and not scores.valid[:, 3:].any()
    labels = np.arange(16) < 8
    category = score_similarity(Z_FSS, ok_FSS, labels, "category", min_stimuli=2, min_pairs=2)
    as_model = score_similarity_model(Z_FSS, ok_FSS, label_model(labels, "category"), min_stimuli=2, min_pairs=2)
    np.testing.assert_allclose(as_model.value[:3], category.value[:3], atol=1e-7)


def test_a_graded_profile_score_needs_stimuli_and_pairs():
    rng = np.random.default_rng(6)
    Z_FSS, ok_FSS = profile_similarity(rng.normal(size=(12, 8, 2)), np.ones((12, 8), dtype=bool))
    rating_S = rng.random(12)
    model_SS = np.abs(rating_S[:, None] - rating_S)
    ok_FSS[1] = False
    assert score_similarity_model(Z_FSS, ok_FSS, model_SS, min_pairs=60).reason.tolist() == [0, Reason.TOO_FEW_STIMULI]
    assert score_similarity_model(Z_FSS, ok_FSS, model_SS, min_pairs=67).reason[0] == Reason.TOO_FEW_PAIRS
    assert score_similarity_model(0 * Z_FSS, ok_FSS, model_SS, min_pairs=9).reason[0] == Reason.CONSTANT


def test_forms_and_measures_that_do_not_go_together_are_refused():
    P_SWF, everywhere = np.zeros((4, 6, 2)), np.ones((4, 6), dtype=bool)
    with pytest.raises(UserError, match="measure 'cosine' with form 'warped'"):
        profile_similarity(P_SWF, everywhere, form="warped", measure="cosine")
    with pytest.raises(UserError, match="profile measure"):
        profile_similarity(P_SWF, everywhere, measure="cosin")
    for form in FORMS:
        assert (score_profiles(P_SWF, everywhere, [True, True, False, False], form=form).value == 0).all()
        assert (profile_similarity(P_SWF, everywhere, form=form)[0] == 0).all()
