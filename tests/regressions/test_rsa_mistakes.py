"""Mistakes of the original scoring scripts, one named test each; none may come back."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from scipy import stats

from neurosae.decoding.selection import SELECTORS, scores, top_k
from neurosae.rsa import KINDS, FeatureScores, Reason, profile_similarity, score_profiles, score_scalar


def full(P_SWF):
    return np.ones(P_SWF.shape[:2], dtype=bool)


def coherent_target(seed=0, n_stimuli=60, n_positions=10):
    """Profiles: 0 noise, 1 the target shares a time course, 2 the foil shares one."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_stimuli) < n_stimuli // 2
    P_SWF = rng.normal(size=(n_stimuli, n_positions, 3))
    course = 2 * np.sin(np.arange(n_positions))
    P_SWF[labels, :, 1] += course
    P_SWF[~labels, :, 2] += course
    return P_SWF, labels


class TestMistake1SimilarityWasArctanhOfOneMinusR:
    """NaN for r < 0, infinite at r = 0, and those pairs were dropped."""

    def test_z_is_the_arctanh_of_r_itself(self):
        a = np.array([1.0, -1, 1, -1, 0, 0, 0, 0])
        b = np.array([0.0, 0, 0, 0, 1, -1, 1, -1])
        c = a + b
        Z_FSS, ok_FSS = profile_similarity(np.stack([a, b, c, -c])[:, :, None], np.ones((4, 8)))
        z = Z_FSS[0]
        assert ok_FSS[0].sum() == 12  # every pair of different stimuli, whatever the sign of r
        assert z[0, 1] == pytest.approx(0, abs=1e-12)
        assert z[0, 2] == pytest.approx(np.arctanh(np.sqrt(0.5)))
        assert z[0, 3] == pytest.approx(-np.arctanh(np.sqrt(0.5)))
        assert z[2, 3] == pytest.approx(-np.arctanh(1 - 1 / 8))

    def test_anticorrelated_pairs_count(self):
        """The target shares a time course; half of the foil shows its opposite, so r < 0 for half the across pairs."""
        P_SWF, labels = coherent_target()
        opposite = P_SWF.copy()
        opposite[45:, :, 1] = -P_SWF[:15, :, 1]
        with_opposite = score_profiles(opposite, full(P_SWF), labels)
        assert with_opposite.defined_share[1] == 1
        assert with_opposite.value[1] > 0.5


class TestMistake2SignWasInverted:
    """The features whose target condition was least coherent were selected."""

    @pytest.mark.parametrize("kind", ["discriminative", "categorical"])
    def test_a_coherent_target_scores_above_and_an_incoherent_one_below_zero(self, kind):
        P_SWF, labels = coherent_target()
        noise, target_coherent, foil_coherent = score_profiles(P_SWF, full(P_SWF), labels, kind).value
        assert target_coherent > 0.4 and abs(noise) < 0.2
        assert foil_coherent < (-0.4 if kind == "categorical" else 0.2)
        rng = np.random.default_rng(1)
        x_SF = rng.normal(size=(60, 3))
        x_SF[labels, 1] *= 0.05
        x_SF[~labels, 2] *= 0.05
        values = score_scalar(x_SF, labels, kind).value
        assert values[1] > 0.2 and values[2] < -0.2 and values.argmax() == 1 and values.argmin() == 2

    @pytest.mark.parametrize("name", [n for n in SELECTORS if n.startswith("rsa_") and "category" not in n])
    def test_the_coherent_feature_is_selected_first(self, name):
        P_SWF, labels = coherent_target()
        X_SF = np.random.default_rng(2).normal(size=(60, 3))
        X_SF[labels, 1] *= 0.05
        X_SF[~labels, 2] *= 0.05
        assert top_k(scores(name, X_SF, labels, profiles=(P_SWF, full(P_SWF))), 1).tolist() == [1]


class TestMistake3OneNaNErasedAFeature:
    """A constant pattern made a correlation NaN; the feature got 0 and vanished."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_silent_stimuli_cost_their_pairs_and_nothing_else(self, kind):
        P_SWF, labels = coherent_target()
        silent = [3, 17, 40]
        P_SWF[silent] = 0
        scored = score_profiles(P_SWF, full(P_SWF), labels, kind)
        kept = np.delete(np.arange(60), silent)
        without = score_profiles(P_SWF[kept], full(P_SWF)[kept], labels[kept], kind)
        assert scored.valid.all() and (scored.defined_share < 1).all()
        np.testing.assert_allclose(scored.value, without.value, atol=1e-9)

    def test_sparse_features_keep_their_scalar_scores(self):
        """Latents that fire for one stimulus in ten: all have a score, none is NaN."""
        rng = np.random.default_rng(3)
        X_SF = np.where(rng.random((100, 2000)) < 0.1, rng.exponential(size=(100, 2000)), 0)
        scored = score_scalar(X_SF, np.arange(100) < 50)
        assert scored.valid.all() and np.isfinite(scored.value).all()
        assert np.unique(scored.value).size > 1900

    def test_what_cannot_be_scored_says_why_and_ranks_last(self):
        labels = np.arange(40) < 20
        X_SF = np.column_stack([np.zeros(40), np.full(40, 2.0), labels * np.arange(40.0)])
        scored = score_scalar(X_SF, labels, "categorical")
        assert scored.reason.tolist() == [Reason.SILENT, Reason.CONSTANT, Reason.OK]
        assert scored.value[2] < 0  # a bad score, yet better than none
        assert top_k(scored, 3).tolist() == [2, 0, 1]


class TestMistake6PairsWereTreatedAsIndependentSamples:
    """A t over pairs grows with the square of the number of stimuli; p values from it mean nothing."""

    def test_a_score_is_an_effect_size_that_does_not_grow_with_the_number_of_pairs(self):
        def pooled(n, seed=4):
            rng = np.random.default_rng(seed)
            labels = np.arange(n) < n // 2
            return rng.normal(size=(n, 50)) * np.where(labels, 0.5, 1)[:, None], labels

        def mean_t_over_pairs(X_SF, labels):
            i, j = np.triu_indices(len(labels), 1)
            similarity_PF = -((X_SF[i] - X_SF[j]) ** 2)
            within, across = labels[i] & labels[j], labels[i] != labels[j]
            return stats.ttest_ind(similarity_PF[within], similarity_PF[across]).statistic.mean()

        small, large = pooled(30), pooled(240)
        assert mean_t_over_pairs(*large) > 5 * mean_t_over_pairs(*small)
        few, many = (score_scalar(*data).value.mean() for data in (small, large))
        assert many == pytest.approx(few, abs=0.05) and 0.1 < many < 0.4

    def test_scores_carry_no_p_value(self):
        assert [field.name for field in fields(FeatureScores)] == ["value", "reason", "defined_share"]

    def test_the_same_pairs_seen_twice_change_the_score_by_nothing_but_the_duplicates(self):
        """Doubling every stimulus multiplies the pairs by four; the correlation over *different* stimuli stays."""
        rng = np.random.default_rng(5)
        X_SF, labels = rng.normal(size=(80, 20)), np.arange(80) < 40
        once, twice = (score_scalar(np.repeat(X_SF, n, axis=0), np.repeat(labels, n)).value for n in (1, 2))
        np.testing.assert_allclose(once, twice, atol=0.03)
