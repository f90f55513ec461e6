"""Adjusted p-values and heights of maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from neurosae.errors import UserError
from neurosae.inference import adjust, height_threshold, test_contrast

STATSMODELS = {"bonferroni": "bonferroni", "holm": "holm", "fdr": "fdr_bh"}
LABELS = np.array([1, -1] * 15)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(STATSMODELS)),
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=12),
)
def test_adjusted_p_is_statsmodels_over_the_tests_that_count(method: str, tests: list[tuple[float, bool]]) -> None:
    p_F, valid_F = np.array([p for p, _ in tests]), np.array([valid for _, valid in tests])
    adjusted_F = adjust(p_F, method, valid_F=valid_F)
    assert (adjusted_F[~valid_F] == 1).all()
    if valid_F.any():
        expected = multipletests(p_F[valid_F], method=STATSMODELS[method])[1]
        np.testing.assert_allclose(adjusted_F[valid_F], expected)


@pytest.mark.parametrize("method", STATSMODELS)
def test_height_separates_what_survives(rng: np.random.Generator, method: str) -> None:
    Y_SF = rng.normal(size=(30, 200)) + np.outer(LABELS, np.linspace(0, 1, 200) ** 4)
    Y_SF[:, 3] = 0
    test = test_contrast(Y_SF, LABELS)
    height = height_threshold(test, method, alpha=0.1)
    survives_F = adjust(test.p, method, valid_F=test.valid) <= 0.1
    assert 5 < survives_F.sum() < 100
    assert np.array_equal(np.abs(test.t) >= height, survives_F)
    if method == "bonferroni":
        assert height >= stats.t.isf(0.05 / 199, 28)
    assert height_threshold(test_contrast(np.zeros((30, 4)), LABELS), method) == np.inf


def test_false_discoveries_among_planted_effects() -> None:
    rng, shares = np.random.default_rng(0), []
    for _ in range(100):
        Y_SF = rng.normal(size=(30, 100))
        Y_SF[:, :20] += LABELS[:, None]
        found_F = adjust(test_contrast(Y_SF, LABELS).p, "fdr") <= 0.1
        shares.append(found_F[20:].sum() / max(found_F.sum(), 1))
        assert found_F[:20].mean() > 0.8
    assert np.mean(shares) <= 0.08 + 3 * np.std(shares) / 10  # the share of true nulls, 0.8, times 0.1


def test_what_is_no_p_value_is_refused(rng: np.random.Generator) -> None:
    for bad in ([0.5, np.nan], [1.5]):
        with pytest.raises(UserError, match="p-values"):
            adjust(bad, "fdr")
    with pytest.raises(UserError, match="Did you mean 'fdr'"):
        adjust([0.5], "fdrr")
    with pytest.raises(UserError, match="shape"):
        adjust([0.5], valid_F=[True, True])
    assert adjust([]).shape == (0,)
    welch = test_contrast(rng.normal(size=(30, 4)), LABELS, variance="welch")
    with pytest.raises(UserError, match="degrees of freedom"):
        height_threshold(welch)
