"""Reliability against every halving, scipy's t, Cronbach's alpha and planted truth; selectivity on held-out items."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats
from sklearn.metrics import roc_auc_score

from neurosae.decoding.reliability import FeatureReliability, feature_reliability, map_reliability
from neurosae.decoding.selectivity import selectivity
from neurosae.errors import UserError
from neurosae.rsa.results import Reason

ARRAYS = ("effect", "signal", "noise", "reliability", "single_item", "ceiling", "reason")


def paired(n_items: int, n_features: int, effect: float | np.ndarray = 0.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Responses [S, F] to shuffled pairs that share a strong item mean, their labels and items."""
    rng = np.random.default_rng(seed)
    item_S, label_S = np.repeat(np.arange(n_items), 2), np.tile([1, -1], n_items)
    X_SF = rng.normal(size=(2 * n_items, n_features)) + 3 * np.repeat(rng.normal(size=(n_items, n_features)), 2, axis=0)
    X_SF += np.outer(label_S / 2, np.broadcast_to(effect, n_features))
    order = rng.permutation(2 * n_items)
    return X_SF[order], label_S[order], item_S[order]


def separate(n_target: int, n_foil: int, n_features: int, effect: float = 0.0) -> tuple[np.ndarray, ...]:
    """Responses to items with one stimulus each."""
    rng = np.random.default_rng(1)
    label_S = rng.permutation(np.repeat([1, -1], [n_target, n_foil]))
    X_SF = rng.normal(size=(len(label_S), n_features)) + effect * (label_S[:, None] > 0)
    return X_SF, label_S, np.arange(len(label_S))


def difference(X_SF: np.ndarray, label_S: np.ndarray, item_S: np.ndarray) -> np.ndarray:
    """Target minus foil of every item."""
    target, foil = (np.flatnonzero(label_S == side) for side in (1, -1))
    return X_SF[target[np.argsort(item_S[target])]] - X_SF[foil[np.argsort(item_S[foil])]]


def equal(a: FeatureReliability, b: FeatureReliability, columns: slice | np.ndarray = slice(None)) -> None:
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(a, name)[columns], getattr(b, name), rtol=1e-10, atol=1e-12)


def test_the_signal_is_the_mean_product_over_every_halving_of_pairs() -> None:
    X_SF, label_S, item_S = paired(6, 3)
    d_UF = difference(X_SF, label_S, item_S)
    products = [
        d_UF[list(half)].mean(axis=0) * np.delete(d_UF, half, axis=0).mean(axis=0)
        for half in itertools.combinations(range(6), 3)
    ]
    np.testing.assert_allclose(feature_reliability(X_SF, label_S, item_S).signal, np.mean(products, axis=0))


def test_the_signal_is_the_mean_product_over_every_halving_of_separate_items() -> None:
    X_SF, label_S, item_S = separate(4, 6, 3)
    a, b = X_SF[label_S > 0], X_SF[label_S < 0]
    products = [
        (a[list(i)].mean(axis=0) - b[list(j)].mean(axis=0))
        * (np.delete(a, i, axis=0).mean(axis=0) - np.delete(b, j, axis=0).mean(axis=0))
        for i in itertools.combinations(range(4), 2)
        for j in itertools.combinations(range(6), 3)
    ]
    np.testing.assert_allclose(feature_reliability(X_SF, label_S, item_S).signal, np.mean(products, axis=0))


def test_the_reliability_is_one_minus_one_over_t_squared() -> None:
    X_SF, label_S, item_S = paired(12, 40, effect=1.0)
    t_F = stats.ttest_1samp(difference(X_SF, label_S, item_S), 0).statistic
    np.testing.assert_allclose(
        feature_reliability(X_SF, label_S, item_S).reliability, np.maximum(0, 1 - 1 / t_F**2), atol=1e-12
    )
    X_SF, label_S, item_S = separate(9, 14, 40, effect=1.0)
    t_F = stats.ttest_ind(X_SF[label_S > 0], X_SF[label_S < 0], equal_var=False).statistic
    np.testing.assert_allclose(
        feature_reliability(X_SF, label_S, item_S).reliability, np.maximum(0, 1 - 1 / t_F**2), atol=1e-12
    )


def test_the_reliability_is_cronbachs_alpha_of_conditions_over_items() -> None:
    X_SF, label_S, item_S = paired(10, 1, effect=2.0)
    by_item_2U = np.array([X_SF[label_S == side, 0][np.argsort(item_S[label_S == side])] for side in (1, -1)])
    n = by_item_2U.shape[1]
    alpha = n / (n - 1) * (1 - by_item_2U.var(axis=0, ddof=1).sum() / by_item_2U.sum(axis=1).var(ddof=1))
    assert alpha > 0.5
    np.testing.assert_allclose(feature_reliability(X_SF, label_S, item_S).reliability, [alpha])


def test_spearman_brown_leads_from_one_item_to_all() -> None:
    found = feature_reliability(*paired(12, 30, effect=1.0))
    single_F = found.single_item
    np.testing.assert_allclose(found.reliability, 12 * single_F / (1 + 11 * single_F))
    np.testing.assert_allclose(found.ceiling**2, single_F)


@pytest.mark.parametrize("effect", [0.5, 2.0])
def test_the_ceiling_is_the_correlation_of_the_condition_with_single_responses(effect: float) -> None:
    X_SF, label_S, _ = separate(6000, 6000, 1, effect)
    expected = stats.pearsonr(label_S, X_SF[:, 0]).statistic
    assert feature_reliability(X_SF, label_S, np.arange(12000)).ceiling[0] == pytest.approx(expected, abs=0.01)
    X_SF, label_S, item_S = paired(3000, 1, effect)
    centred_S = X_SF[:, 0] - (np.bincount(item_S, X_SF[:, 0]) / 2)[item_S]
    expected = stats.pearsonr(label_S, centred_S).statistic
    assert feature_reliability(X_SF, label_S, item_S).ceiling[0] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("effect", [0.0, 0.6])
def test_the_signal_is_unbiased(effect: float) -> None:
    signal_F = feature_reliability(*paired(8, 20_000, effect)).signal
    assert abs(signal_F.mean() - effect**2) < 4 * signal_F.std() / np.sqrt(len(signal_F))
    if effect == 0:
        assert (signal_F < 0).mean() > 0.5


def test_every_feature_has_numbers_and_a_reason() -> None:
    X_SF, label_S, item_S = paired(8, 6)
    X_SF[:, 1] = 0
    X_SF[:, 2] = 7
    X_SF[:, 3] = label_S
    X_SF[:, 4] = item_S / 3
    X_SF[:, 5] = X_SF[:, 0] + 1e9
    found = feature_reliability(X_SF, label_S, item_S)
    assert [Reason(code) for code in found.reason] == [
        Reason.OK, Reason.SILENT, Reason.CONSTANT, Reason.PERFECT_SEPARATION, Reason.CONSTANT, Reason.OK,
    ]  # fmt: skip
    assert found.valid.tolist() == [True, False, False, True, False, True]
    assert all(np.isfinite(getattr(found, name)).all() for name in ARRAYS)
    assert (found.reliability[3], found.ceiling[3], found.effect[3]) == (1, 1, 2)
    assert not found.reliability[[1, 2, 4]].any()
    np.testing.assert_allclose(found.signal[5], found.signal[0], rtol=1e-5)


def test_sparse_input_and_block_size_change_nothing() -> None:
    X_SF, label_S, item_S = paired(10, 25, effect=1.0)
    X_SF = np.where(X_SF > 2, X_SF, 0)
    dense = feature_reliability(X_SF, label_S, item_S)
    for table, block_size in ((sparse.csr_array(X_SF), 1024), (X_SF, 1), (sparse.csr_array(X_SF), 7)):
        equal(feature_reliability(table, label_S, item_S, block_size=block_size), dense)
    maps = [
        map_reliability(table, label_S, item_S, item_S, "pairs", n_permutations=9, block_size=size)
        for table, size in ((X_SF, 1024), (sparse.csr_array(X_SF), 3))
    ]
    np.testing.assert_allclose(maps[0].halves_H, maps[1].halves_H, atol=1e-10)
    np.testing.assert_allclose(maps[0].null_B, maps[1].null_B, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), within=st.booleans())
def test_invariances(seed: int, scale: float, within: bool) -> None:
    X_SF, label_S, item_S = paired(6, 4, 1.0) if within else separate(5, 7, 4, 1.0)
    rng = np.random.default_rng(seed)
    before = feature_reliability(X_SF, label_S, item_S)
    order = rng.permutation(len(X_SF))
    equal(feature_reliability(X_SF[order], label_S[order], rng.permutation(50)[item_S[order]]), before)
    scaled = feature_reliability(scale * X_SF + rng.normal(), label_S, item_S)
    np.testing.assert_allclose(scaled.signal, scale**2 * before.signal, rtol=1e-6, atol=1e-9 * scale**2)
    np.testing.assert_allclose(scaled.reliability, before.reliability, rtol=1e-6, atol=1e-9)
    flipped = feature_reliability(X_SF, -label_S, item_S)
    np.testing.assert_allclose(flipped.effect, -before.effect)
    np.testing.assert_allclose(flipped.ceiling, before.ceiling)
    wider = feature_reliability(np.c_[X_SF, np.zeros(len(X_SF))], label_S, item_S)
    equal(wider, before, slice(4))


def test_every_item_counts_the_same_however_many_stimuli_it_has() -> None:
    X_SF, label_S, item_S = paired(8, 5, 1.0)
    twice = np.r_[np.arange(16), np.flatnonzero(item_S == 3)]
    equal(feature_reliability(X_SF[twice], label_S[twice], item_S[twice]), feature_reliability(X_SF, label_S, item_S))


def naive_map_reliability(X_SF: np.ndarray, label_S: np.ndarray, item_S: np.ndarray, n_halves: int) -> list[float]:
    d_UF = difference(X_SF / X_SF.std(axis=0), label_S, item_S)
    n, found = len(d_UF), []
    for half in range(n_halves):
        order = np.argsort(np.random.default_rng([0, half, 1]).random(n))
        first, second = order[: n // 2], order[n // 2 :]
        found.append(np.corrcoef(d_UF[first].mean(axis=0), d_UF[second].mean(axis=0))[0, 1])
    return found


def test_the_maps_of_halves_correlate_as_in_a_loop() -> None:
    X_SF, label_S, item_S = paired(11, 30, np.linspace(-1, 2, 30))
    X_SF *= np.geomspace(1e-3, 1e3, 30)
    found = map_reliability(X_SF, label_S, item_S, item_S, "pairs", n_halves=20, n_permutations=19)
    naive = naive_map_reliability(X_SF, label_S, item_S, 20)
    np.testing.assert_allclose(found.halves_H, naive)
    assert found.half == pytest.approx(np.mean(naive))
    assert found.reliability == pytest.approx(2 * found.half / (1 + found.half))
    assert found.ceiling == pytest.approx(np.sqrt(found.reliability))


def test_null_arrangements_flip_the_labels_of_pairs() -> None:
    X_SF, label_S, item_S = paired(5, 30, 1.0)
    found = map_reliability(X_SF, label_S, item_S, item_S, "pairs", n_halves=6, n_permutations=40)
    assert len(found.null_B) == 31  # all but the observed one
    flips = [np.where(np.array(signs)[item_S] > 0, label_S, -label_S) for signs in itertools.product((1, -1), repeat=5)]
    expected = [np.mean(naive_map_reliability(X_SF, flip_S, item_S, 6)) for flip_S in flips]
    np.testing.assert_allclose(np.sort([*found.null_B, found.half]), np.sort(expected))


def test_the_reliability_of_a_map_is_its_share_of_signal() -> None:
    """Responses have unit noise around the effects: known variances of effect and noise after standardisation."""
    effect_F = np.random.default_rng(3).normal(size=30_000)
    rng = np.random.default_rng(4)
    item_S, label_S = np.repeat(np.arange(10), 2), np.tile([1, -1], 10)
    X_SF = rng.normal(size=(20, 30_000)) + np.outer(label_S / 2, effect_F)
    X_SF[:, 0] = 0
    scale_F = np.sqrt(1 + effect_F**2 / 4)
    signal, noise = (effect_F / scale_F).var(), (2 / scale_F**2).mean() / 10
    found = map_reliability(X_SF, label_S, item_S, item_S, "pairs", n_permutations=19)
    assert found.n_features == 29_999
    assert found.reliability == pytest.approx(signal / (signal + noise), abs=0.02)
    assert found.p == found.smallest_p == 0.05


@pytest.mark.parametrize("design", ["pairs", "unpaired"])
def test_chance_maps_are_rarely_reliable(design: str) -> None:
    """Features are strongly correlated, so that single halves correlate by accident."""
    hits, n_sets = 0, 120
    for seed in range(n_sets):
        rng = np.random.default_rng([9, seed])
        X_SF = rng.normal(size=(16, 3)) @ rng.normal(size=(3, 40)) + 0.3 * rng.normal(size=(16, 40))
        label_S = np.tile([1, -1], 8)
        item_S = np.repeat(np.arange(8), 2) if design == "pairs" else np.arange(16)
        found = map_reliability(X_SF, label_S, item_S, item_S, design, n_halves=10, n_permutations=39, seed=seed)
        hits += found.p <= 0.05
    assert stats.binomtest(hits, n_sets, 0.05, alternative="greater").pvalue > 0.01


def test_families_of_a_crossed_design_are_halved_whole() -> None:
    rng = np.random.default_rng(5)
    item_S, label_S, level_S = np.repeat(np.arange(8), 4), np.tile([1, -1, 1, -1], 8), np.tile([0, 0, 1, 1], 8)
    X_SF = rng.normal(size=(32, 60)) + np.outer(label_S, np.linspace(-2, 2, 60))
    found = map_reliability(X_SF, label_S, item_S, 2 * item_S + level_S, "families", n_permutations=99)
    assert (found.n_items, found.p) == (8, 0.01)
    interaction_S = label_S * np.where(level_S, 1, -1)
    assert map_reliability(X_SF, interaction_S, item_S, item_S, "interaction", n_permutations=99).p > 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X_SF": np.r_[np.full((1, 3), np.nan), np.ones((15, 3))]}, "stimulus 0, feature 0"),
        ({"labels_S": np.ones(15)}, "labels of shape"),
        ({"labels_S": np.arange(16)}, "Labels must be"),
        ({"labels_S": np.ones(16)}, "A condition has 0 items"),
        ({"items_S": np.repeat([0, 1, 2], [6, 6, 4])}, "A condition has 3 items"),
        ({"items_S": np.arange(15)}, "15 items for 16 stimuli"),
        ({"items_S": np.r_[np.nan, np.arange(15)]}, "stimulus 0: a stimulus has no item"),
        ({"items_S": np.array([*"aabbccddeeff", None, None, "g", "g"], dtype=object)}, "stimulus 12"),
        ({"X_SF": np.ones((16, 0))}, "no features"),
        ({"items_S": np.r_[np.repeat(np.arange(7), 2), 7, 8]}, "7 items have both conditions, 2 have one, such as '7'"),
    ],
)
def test_bad_input_of_reliability(change: dict[str, np.ndarray], message: str) -> None:
    X_SF, label_S, item_S = np.ones((16, 3)), np.tile([1, -1], 8), np.repeat(np.arange(8), 2)
    arguments = {"X_SF": X_SF, "labels_S": label_S, "items_S": item_S} | change
    with pytest.raises(UserError, match=message):
        feature_reliability(*arguments.values())
    with pytest.raises(UserError, match=message):
        map_reliability(*arguments.values(), item_S, "pairs")


def one_value() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A response of 0.1 to everything; what tells the pairs or conditions apart is the last digit."""
    label_S, item_S = np.tile([1, -1], 8), np.repeat(np.arange(8), 2)
    above = np.nextafter(0.1, 1)
    return np.c_[np.where(np.arange(16) % 3, 0.1, above), np.where(label_S > 0, 0.1, above)], label_S, item_S


def test_rounding_is_no_effect() -> None:
    X_SF, label_S, item_S = one_value()
    found = feature_reliability(X_SF, label_S, item_S)
    assert (found.reason == Reason.CONSTANT).all() and not found.reliability.any() and not found.effect.any()
    split_S = {"train_S": item_S < 4, "held_out_S": item_S >= 4}
    table = selectivity(X_SF, label_S, item_S, [0, 1], **split_S).features
    assert table["reason"].tolist() == ["constant"] * 2
    assert table["d_prime"].tolist() == [0, 0]


def test_halves_that_disagree_have_no_reliability() -> None:
    """Effects that sum to 0 over items: both halves are each other's mirror, and 2 half / (1 + half) has no limit."""
    d_UF = np.random.default_rng(7).normal(size=(8, 6))
    X_SF = np.zeros((16, 6))
    X_SF[::2] = d_UF - d_UF.mean(axis=0)
    item_S = np.repeat(np.arange(8), 2)
    found = map_reliability(X_SF, np.tile([1, -1], 8), item_S, item_S, "pairs", n_halves=10, n_permutations=19)
    assert found.half == pytest.approx(-1)
    assert (found.reliability, found.ceiling, found.p) == (0, 0, 1)


def test_blocks_that_take_items_apart_are_refused() -> None:
    X_SF, label_S, item_S = paired(8, 4)
    with pytest.raises(UserError, match="A block lies in more than one item"):
        map_reliability(X_SF, label_S, item_S, np.zeros(16), "families", n_permutations=9)
    side_S, domain_S = np.repeat(np.tile([1, -1], 8), 2), np.repeat([0, 1], 16)
    X_SF = np.random.default_rng(8).normal(size=(32, 5))
    with pytest.raises(UserError, match="inside items that have one condition"):
        map_reliability(X_SF, side_S, np.repeat(np.arange(16), 2), domain_S, "families", n_permutations=9)
    assert map_reliability(X_SF, side_S, np.arange(32), domain_S, "families", n_permutations=9).n_items == 32


def test_maps_that_cannot_be_correlated() -> None:
    X_SF, label_S, item_S = paired(8, 4)
    with pytest.raises(UserError, match="2 features vary"):
        map_reliability(np.c_[X_SF[:, :2], np.ones((16, 2))], label_S, item_S, item_S, "pairs")
    with pytest.raises(UserError, match="alike"):
        map_reliability(np.c_[X_SF[:, :1], X_SF[:, :1], 3 * X_SF[:, :1]], label_S, item_S, item_S, "pairs")
    with pytest.raises(UserError, match="both conditions"):
        map_reliability(X_SF, label_S, item_S, item_S, "unpaired")
    with pytest.raises(UserError, match="permutations"):
        map_reliability(X_SF, label_S, item_S, item_S, "pairs", n_permutations=0)


def split(n_items: int = 20, n_features: int = 6, effect: float = 1.0) -> tuple[np.ndarray, ...]:
    X_SF, label_S, item_S = paired(n_items, n_features, effect)
    return X_SF, label_S, item_S, item_S < n_items // 2, item_S >= n_items // 2


def test_selectivity_is_that_of_scikit_learn_and_of_the_definitions() -> None:
    X_SF, label_S, item_S, train_S, held_out_S = split()
    X_SF = np.abs(X_SF)
    found = selectivity(X_SF, label_S, item_S, [4, 1], train_S=train_S, held_out_S=held_out_S)
    assert found.features["feature"].tolist() == [4, 1]
    assert (found.n_target, found.n_foil) == (10, 10)
    for row in found.features.itertuples():
        x_S, y_S = X_SF[held_out_S, row.feature], label_S[held_out_S]
        a, b = x_S[y_S > 0], x_S[y_S < 0]
        assert row.auroc == pytest.approx(roc_auc_score(y_S, x_S))
        assert row.d_prime == pytest.approx((a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
        assert row.index == pytest.approx((a.mean() - b.mean()) / (a.mean() + b.mean()))
        assert row.index_reason == ""
    sparse_too = selectivity(sparse.csr_array(X_SF), label_S, item_S, [4, 1], train_S=train_S, held_out_S=held_out_S)
    assert sparse_too.features.equals(found.features)


def test_selectivity_looks_at_held_out_responses_only() -> None:
    X_SF, label_S, item_S, train_S, held_out_S = split()
    before = selectivity(X_SF, label_S, item_S, [0, 2], train_S=train_S, held_out_S=held_out_S)
    X_SF[train_S] *= -7
    after = selectivity(X_SF, label_S, item_S, [0, 2], train_S=train_S, held_out_S=held_out_S)
    measured = [name for name in before.features if name != "direction"]
    assert before.features[measured].equals(after.features[measured])
    assert (before.features["direction"] == -after.features["direction"]).all()
    assert after.auroc == pytest.approx(1 - before.auroc)


def test_a_set_of_latents_for_either_condition_is_more_selective_than_each() -> None:
    sign_F = np.array([1.0, -1, 1, -1, 1, -1])
    X_SF, label_S, item_S, train_S, held_out_S = split(200, 6, 2 * sign_F)
    found = selectivity(X_SF, label_S, item_S, np.arange(6), train_S=train_S, held_out_S=held_out_S)
    assert found.features["direction"].tolist() == sign_F.tolist()
    assert found.auroc > found.features["auroc"].max()
    assert found.d_prime > found.features["d_prime"].abs().max()


def test_selectivity_refuses_what_selected() -> None:
    X_SF, label_S, item_S, train_S, held_out_S = split()
    with pytest.raises(UserError, match="20 held-out stimuli are among"):
        selectivity(X_SF, label_S, item_S, [0], train_S=train_S, held_out_S=train_S | held_out_S)
    one_of_a_pair = train_S.copy()
    one_of_a_pair[np.flatnonzero(held_out_S)[0]] = True
    with pytest.raises(UserError, match="share a group"):
        selectivity(X_SF, label_S, item_S, [0], train_S=one_of_a_pair, held_out_S=held_out_S & ~one_of_a_pair)
    with pytest.raises(UserError, match="A condition has 0 stimuli"):
        selectivity(X_SF, label_S, item_S, [0], train_S=train_S, held_out_S=held_out_S & (label_S > 0))
    with pytest.raises(UserError, match="No such features"):
        selectivity(X_SF, label_S, item_S, [6], train_S=train_S, held_out_S=held_out_S)
    with pytest.raises(UserError, match="one entry for each"):
        selectivity(X_SF, label_S[1:], item_S, [0], train_S=train_S, held_out_S=held_out_S)
    for features in ([0.0], np.arange(6) < 2, [], [-1]):
        with pytest.raises(UserError, match="No such features"):
            selectivity(X_SF, label_S, item_S, features, train_S=train_S, held_out_S=held_out_S)
    with pytest.raises(UserError, match="twice"):
        selectivity(X_SF, label_S, item_S, [2, 2], train_S=train_S, held_out_S=held_out_S)
    with pytest.raises(UserError, match="not boolean"):
        selectivity(X_SF, label_S, item_S, [0], train_S=item_S, held_out_S=held_out_S)
    unknown_S = np.where(np.isin(item_S, [0, 19]), np.nan, item_S)  # on both sides of the split
    with pytest.raises(UserError, match="a stimulus has no group"):
        selectivity(X_SF, label_S, unknown_S, [0], train_S=train_S, held_out_S=held_out_S)


def test_a_feature_without_a_direction_in_training_takes_no_part_in_the_set() -> None:
    X_SF, label_S, item_S, train_S, held_out_S = split()
    X_SF[:, 5] = np.where(train_S, 0, -1000 * (label_S > 0))
    alone, both = (
        selectivity(X_SF, label_S, item_S, features, train_S=train_S, held_out_S=held_out_S)
        for features in ([0], [0, 5])
    )
    assert both.features["direction"].tolist()[1] == 0
    assert (both.d_prime, both.auroc) == pytest.approx((alone.d_prime, alone.auroc))


def test_selectivity_holds_one_feature_at_a_time() -> None:
    X_SF, label_S, item_S, train_S, held_out_S = split(400, 60)
    tracemalloc.start()
    selectivity(X_SF, label_S, item_S, np.arange(60), train_S=train_S, held_out_S=held_out_S)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 400 * 400 * 20  # a table of all pairs for every feature would take three times as much


def test_selectivity_of_odd_features_is_explained() -> None:
    X_SF, label_S, item_S, train_S, held_out_S = split()
    X_SF[:, 0], X_SF[:, 1], X_SF[:, 2] = 0, 5, 3 + label_S
    found = selectivity(X_SF, label_S, item_S, [0, 1, 2, 3], train_S=train_S, held_out_S=held_out_S).features
    assert found["reason"].tolist() == ["silent", "constant", "perfect_separation", "ok"]
    assert found["auroc"].tolist()[:3] == [0.5, 0.5, 1.0]
    assert found["d_prime"].tolist()[:2] == [0, 0]
    assert np.isfinite(found["d_prime"]).all()
    assert (found["index"].isna() == (found["index_reason"] != "")).all()
    assert found["index_reason"][0] == "both mean responses are 0"
