"""Model comparison: comparators, bootstrap over items, permutation of stimuli, what rsatoolbox says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import rsatoolbox
from hypothesis import given, settings
from hypothesis import strategies as st
from rsatoolbox.rdm import compare
from scipy import stats
from scipy.spatial.distance import pdist, squareform

from neurosae.errors import UserError
from neurosae.inference import arrangements
from neurosae.inference.bootstrap import resampling_weights
from neurosae.rdms import COMPARATORS, compare_models, correlate, make_rdms, models_to_rdms, permute_stimuli
from neurosae.rdms.comparators import correlate_permuted, correlate_resampled
from neurosae.rsa.models import ModelRDM, label_model, rating_model

few_examples = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 10_000)
RSATOOLBOX = {"pearson": "corr", "cosine": "cosine", "spearman": "spearman", "rho_a": "rho-a"}


def random_vectors(rng, n=4, n_stimuli=9, ties=False, masked=False):
    x_LP = np.stack([pdist(rng.normal(size=(n_stimuli, 3))) for _ in range(n)])
    if ties:
        x_LP = np.round(2 * x_LP)
    if masked:
        x_LP[rng.random(x_LP.shape) < 0.2] = np.nan
    return x_LP


def tables(x_LP):
    """Symmetric tables with a zero diagonal (squareform refuses NaN)."""
    n_stimuli = int((1 + np.sqrt(1 + 8 * x_LP.shape[1])) / 2)
    i_P, j_P = np.triu_indices(n_stimuli, 1)
    table_LSS = np.zeros((len(x_LP), n_stimuli, n_stimuli))
    table_LSS[:, i_P, j_P] = table_LSS[:, j_P, i_P] = x_LP
    return table_LSS


def expected_rho_a(x_P, y_P, n_draws=1000):
    """Spearman's rho with ties broken at random, averaged."""
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(n_draws):
        noise = 1e-9 * rng.random((2, len(x_P)))
        draws.append(stats.spearmanr(x_P + noise[0], y_P + noise[1]).statistic)
    return np.mean(draws)


def by_scipy(x_P, y_P, comparator):
    kept = ~np.isnan(x_P) & ~np.isnan(y_P)
    x, y = x_P[kept], y_P[kept]
    if comparator == "cosine":
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    if comparator == "rho_a":
        ranks, n = stats.rankdata([x, y], axis=1) - (len(x) + 1) / 2, len(x)
        return 12 * ranks[0] @ ranks[1] / (n**3 - n)
    return getattr(stats, {"pearson": "pearsonr", "spearman": "spearmanr"}[comparator])(x, y).statistic


@pytest.mark.parametrize("comparator", COMPARATORS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_comparators_are_those_of_scipy(comparator, masked, ties):
    rng = np.random.default_rng(0)
    x_LP, y_KP = random_vectors(rng, 3, ties=ties, masked=masked), random_vectors(rng, 4, ties=ties, masked=masked)
    expected = [[by_scipy(x_P, y_P, comparator) for y_P in y_KP] for x_P in x_LP]
    np.testing.assert_allclose(correlate(x_LP, y_KP, comparator), expected, atol=1e-12)
    if not masked:
        theirs = compare(rsatoolbox.rdm.RDMs(x_LP), rsatoolbox.rdm.RDMs(y_KP), RSATOOLBOX[comparator])
        np.testing.assert_allclose(correlate(x_LP, y_KP, comparator), theirs, atol=1e-12)


def test_rho_a_is_the_expectation_over_broken_ties():
    rng = np.random.default_rng(1)
    x_LP, y_KP = random_vectors(rng, 1), random_vectors(rng, 1, ties=True)
    assert correlate(x_LP, y_KP, "rho_a").item() == pytest.approx(expected_rho_a(x_LP[0], y_KP[0]), abs=0.02)


@pytest.mark.parametrize("comparator", ["pearson", "spearman", "rho_a"])
def test_rdms_that_differ_by_rounding_only_are_constant(comparator):
    rng = np.random.default_rng(2)
    nearly = 1 + 1e-15 * rng.normal(size=(1, 36))
    assert np.isnan(correlate(nearly, random_vectors(rng), comparator)).all()
    assert np.isnan(correlate(np.zeros((1, 36)), random_vectors(rng), "cosine")).all()


@pytest.mark.parametrize("comparator", COMPARATORS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("group_S", [np.arange(10), np.repeat(np.arange(5), 2)])
def test_weights_stand_for_copies_of_items(comparator, masked, group_S):
    """The naive resample: copy rows and columns, and leave out pairs between copies of one item."""
    rng = np.random.default_rng(3)
    x_LP, y_KP = (random_vectors(rng, n, 10, ties=True, masked=masked) for n in (2, 3))
    weights_BS = resampling_weights(group_S, 8, seed=1)
    weights_BS = weights_BS[(weights_BS > 0).sum(axis=1) >= 6]
    found = correlate_resampled(x_LP, y_KP, weights_BS, comparator, group_S)
    assert len(found) >= 5 and np.isfinite(found).all()
    for b, w_S in enumerate(weights_BS):
        copies = [(s, copy) for s in range(10) for copy in range(w_S[s])]
        kept = [
            (s, t)
            for (s, copy), (t, other) in itertools.combinations(copies, 2)
            if group_S[s] != group_S[t] or (s != t and copy == other)
        ]
        i, j = np.array(kept).T
        x_LQ, y_KQ = tables(x_LP)[:, i, j], tables(y_KP)[:, i, j]
        expected = [[by_scipy(x_Q, y_Q, comparator) for y_Q in y_KQ] for x_Q in x_LQ]
        np.testing.assert_allclose(found[b], expected, atol=1e-10)


@pytest.mark.parametrize("comparator", COMPARATORS)
def test_resamples_of_pairs_lie_around_the_estimate(comparator):
    """Stimuli of a pair are much alike, and the model knows: squared weights would double the share of such pairs."""
    rng, pair_S = np.random.default_rng(16), np.repeat(np.arange(30), 2)
    X_SF = rng.normal(size=(30, 5))[pair_S] + 0.2 * rng.normal(size=(60, 5))
    x_1P = pdist(X_SF, "correlation")[None]
    y_1P = pdist(pair_S[:, None], "hamming")[None] + 0.1 * rng.random((1, x_1P.shape[1]))
    estimate = correlate(x_1P, y_1P, comparator).item()
    draws = correlate_resampled(x_1P, y_1P, resampling_weights(pair_S, 200), comparator, pair_S).ravel()
    assert np.percentile(draws, 20) < estimate < np.percentile(draws, 80)


@pytest.mark.parametrize("comparator", COMPARATORS)
@pytest.mark.parametrize("masked", [False, True])
def test_permuted_scores_are_scores_of_permuted_models(comparator, masked):
    rng = np.random.default_rng(4)
    x_LP, models_KSS = random_vectors(rng, 2, masked=masked), tables(random_vectors(rng, 3, ties=True, masked=masked))
    rows_BS = np.array([rng.permutation(9) for _ in range(5)])
    found = correlate_permuted(x_LP, models_KSS, rows_BS, comparator)
    for b, row_S in enumerate(rows_BS):
        moved_KP = models_KSS[:, row_S][:, :, row_S][:, *np.triu_indices(9, 1)]
        np.testing.assert_allclose(found[b], correlate(x_LP, moved_KP, comparator), atol=1e-12)


@few_examples
@given(seed=seeds, comparator=st.sampled_from(COMPARATORS))
def test_comparators_do_not_see_the_order_or_scale_of_stimuli(seed, comparator):
    rng = np.random.default_rng(seed)
    x_LP, y_KP = random_vectors(rng, 2), random_vectors(rng, 2, ties=True)
    value_LK = correlate(x_LP, y_KP, comparator)
    order = rng.permutation(36)
    np.testing.assert_allclose(correlate(x_LP[:, order], 7 * y_KP[:, order], comparator), value_LK, atol=1e-12)
    np.testing.assert_allclose(correlate(y_KP, x_LP, comparator).T, value_LK, atol=1e-12)
    if comparator in ("spearman", "rho_a"):
        np.testing.assert_allclose(correlate(x_LP**3, y_KP, comparator), value_LK, atol=1e-12)


# What may be exchanged.

LABELLED = {
    "pairs": ([1, -1] * 5, np.repeat(np.arange(5), 2)),
    "families": ([1, 1, -1, -1] * 3, np.repeat(np.arange(3), 4)),
    "interaction": ([1, -1, -1, 1] * 4, np.repeat(np.arange(4), 4)),
    "unpaired": ([1] * 5 + [-1] * 4, np.zeros(9)),
}


@pytest.mark.parametrize("design", LABELLED)
@pytest.mark.parametrize("n", [7, 10_000])
def test_permutations_of_stimuli_are_the_arrangements_of_their_labels(design, n):
    labels_S, blocks_S = map(np.array, LABELLED[design])
    rows_BS = permute_stimuli(labels_S, blocks_S, n, 3, design, n_stimuli=len(labels_S))
    np.testing.assert_array_equal(labels_S[rows_BS], arrangements(labels_S, blocks_S, n, 3, design))
    assert (np.sort(rows_BS, axis=1) == np.arange(len(labels_S))).all()
    if design != "unpaired":
        assert (blocks_S[rows_BS] == blocks_S).all()
    model = label_model(labels_S, "categorical").table_SS
    for row_S in rows_BS[:5]:
        moved = label_model(labels_S[row_S], "categorical").table_SS
        np.testing.assert_array_equal(model[row_S][:, row_S], moved)


def test_without_labels_every_order_is_as_likely():
    rows_BS = permute_stimuli(None, None, 10, 0, "unpaired", n_stimuli=20)
    assert len(np.unique(rows_BS, axis=0)) == 10
    np.testing.assert_array_equal(rows_BS[:4], permute_stimuli(None, None, 4, 0, "unpaired", n_stimuli=20))
    counts = np.zeros((4, 4))
    for seed in range(600):
        for row_S in permute_stimuli([1, 1, -1, -1], None, 1, seed, "unpaired", n_stimuli=4):
            counts[np.arange(4), row_S] += 1
    assert stats.chisquare(counts.ravel()).pvalue > 1e-4


def test_items_of_several_stimuli_change_places_as_wholes():
    item_S = np.array([0, 0, 1, 1, 1, 2, 2, 3, 4, 4, 4, 5])
    rows_BS = permute_stimuli(None, None, 50, 0, "unpaired", n_stimuli=12, groups=item_S)
    assert (np.sort(rows_BS, axis=1) == np.arange(12)).all() and len(np.unique(rows_BS, axis=0)) > 5
    for row_S in rows_BS:
        for members in (np.flatnonzero(item_S == item) for item in range(6)):
            came_from = item_S[row_S[members]]
            assert (came_from == came_from[0]).all() and len(members) == (item_S == came_from[0]).sum()
    labels_S = [1, -1, -1, 1, 1, -1, -1, 1]  # targets meet targets whatever the order within items
    rows_BS = permute_stimuli(labels_S, None, 20, 0, "unpaired", n_stimuli=8, groups=np.repeat(np.arange(4), 2))
    assert (np.array(labels_S)[rows_BS] == labels_S).all()
    with pytest.raises(UserError, match="no two items have as many stimuli"):
        permute_stimuli(None, None, 9, 0, "unpaired", n_stimuli=6, groups=[0, 1, 1, 2, 2, 2])


@pytest.mark.parametrize("labelled", [False, True])
def test_copies_of_an_item_do_not_count_as_evidence(labelled):
    """Three texts per item, much alike: permuting texts, not items, rejected in 68 % (labels: 27 %) of null sets."""
    rng, item_S, p = np.random.default_rng(20), np.repeat(np.arange(10), 3), []
    label_S = np.where(item_S % 2, -1, 1)
    for seed in range(80):
        X_SF = rng.normal(size=(10, 5))[item_S] + 0.3 * rng.normal(size=(30, 5))
        model = label_model(label_S, "category") if labelled else rating_model(rng.normal(size=10)[item_S], "rating")
        found = compare_models(
            make_rdms(X_SF), model, groups=item_S, labels=label_S if labelled else None,
            n_bootstrap=5, n_permutations=39, seed=seed, level=0.5,
        )  # fmt: skip
        p.append(found.table["p"].item())
    assert (np.array(p) <= 0.05).sum() <= stats.binom.isf(0.001, 80, 0.05)
    assert (np.array(p) <= 0.5).sum() <= stats.binom.isf(0.001, 80, 0.5)


def test_designs_refuse_labels_that_do_not_fit():
    for match, call in {
        "there are none": lambda: permute_stimuli(None, [0, 0], 9, 0, "pairs", n_stimuli=2),
        "within blocks": lambda: permute_stimuli([1, -1], None, 9, 0, "pairs", n_stimuli=2),
        "2 labels for 3": lambda: permute_stimuli([1, -1], None, 9, 0, "unpaired", n_stimuli=3),
        "must be \\+1": lambda: permute_stimuli(
            [True, False] * 2, None, 9, 0, "unpaired", n_stimuli=4, groups=[0, 0, 1, 1]
        ),
        "as many targets": lambda: permute_stimuli(
            [1, 1, -1] * 3, [0] * 3 + [1] * 3 + [2] * 3, 9, 0, "interaction", n_stimuli=9
        ),
    }.items():
        with pytest.raises(UserError, match=match):
            call()


# The comparison as a whole.


def planted(rng, n_stimuli=24, noise=0.5):
    """A representation in which `valence` is strong, `length` weak, and `order` absent."""
    valence, length, order = rng.normal(size=(3, n_stimuli))
    X_SF = np.column_stack([2 * valence, 0.7 * length, noise * rng.normal(size=(n_stimuli, 6))])
    models = [
        rating_model(v, name, "squared") for v, name in ((valence, "valence"), (length, "length"), (order, "order"))
    ]
    return make_rdms(X_SF, distance="squared_euclidean"), models


@pytest.mark.parametrize("comparator", COMPARATORS)
def test_planted_models_are_found_and_ranked(comparator):
    rdms, models = planted(np.random.default_rng(5))
    found = compare_models(rdms, models, comparator=comparator, n_bootstrap=400, n_permutations=199)
    table = found.table.set_index("model")
    assert table["score"].is_monotonic_decreasing
    assert table.loc["valence", "p"] == found.smallest_p == 1 / 200
    assert table.loc["order", "p"] > 0.05
    assert ((table["low"] < table["score"]) & (table["score"] < table["high"])).all()
    assert (table["note"] == "").all()
    differences = found.differences.set_index(["model_a", "model_b"])
    assert differences.loc[("valence", "order"), "p_holm"] < 0.05
    assert differences.loc[("valence", "order"), "low"] > 0
    assert found.ceiling is None and found.n_groups == found.n_stimuli == 24


@pytest.mark.parametrize("comparator", COMPARATORS)
def test_the_bootstrap_is_that_of_rsatoolbox_draw_by_draw(comparator):
    rdms, models = planted(np.random.default_rng(6))
    hypotheses = models_to_rdms(models)
    weights_BS = resampling_weights(np.arange(24), 10, seed=2)
    ours = correlate_resampled(rdms.dissimilarities, hypotheses.dissimilarities, weights_BS, comparator)
    for b, w_S in enumerate(weights_BS):
        drawn = np.repeat(np.arange(24), w_S)
        sample, predicted = (each.subsample_pattern("index", drawn) for each in (rdms, hypotheses))
        np.testing.assert_allclose(ours[b], compare(sample, predicted, RSATOOLBOX[comparator]), atol=1e-12)


def test_differences_of_models_agree_with_their_intervals():
    rdms, models = planted(np.random.default_rng(7))
    found = compare_models(rdms, models, n_bootstrap=999, n_permutations=9)
    for row in found.differences.itertuples():
        assert (row.p < 0.05) == (row.low > 0 or row.high < 0)
    reverse = compare_models(rdms, models[::-1], n_bootstrap=999, n_permutations=9)
    np.testing.assert_allclose(reverse.differences["difference"][::-1], -found.differences["difference"], atol=1e-12)
    np.testing.assert_allclose(reverse.differences["high"][::-1], -found.differences["low"], atol=1e-12)
    np.testing.assert_allclose(reverse.table["p"][::-1], found.table["p"])


def test_several_rdms_are_averaged_and_have_a_ceiling():
    rng = np.random.default_rng(8)
    rdms, models = planted(rng)
    noisy = np.stack([rdms.get_matrices()[0] + squareform(rng.random(276)) for _ in range(3)])
    found = compare_models(noisy, models, n_bootstrap=50, n_permutations=9)
    alone = [compare_models(one, models, n_bootstrap=50, n_permutations=9).table["score"] for one in noisy]
    np.testing.assert_allclose(found.table["score"], np.mean(alone, axis=0), atol=1e-12)
    np.testing.assert_allclose(found.by_rdm["score"], np.concatenate(alone), atol=1e-12)
    assert found.by_rdm["n_pairs"].tolist() == [276] * 9
    assert found.ceiling is not None and found.ceiling.lower > found.table["score"].max()


@pytest.mark.parametrize("comparator", ["pearson", "spearman"])
def test_draws_do_not_depend_on_the_block_size(comparator):
    rdms, models = planted(np.random.default_rng(9))
    one, many = (
        compare_models(rdms, models, comparator=comparator, n_bootstrap=60, n_permutations=9, block_size=size)
        for size in (1, 64)
    )
    for name in ("low", "high"):
        np.testing.assert_allclose(one.table[name], many.table[name], atol=1e-12)
        np.testing.assert_allclose(one.differences[name], many.differences[name], atol=1e-12)


def test_groups_widen_intervals_of_copied_stimuli():
    """Every stimulus four times: treated as independent the interval is far too narrow, as groups it is right."""
    rng = np.random.default_rng(10)
    valence, X_SF = rng.normal(size=16), rng.normal(size=(16, 5))
    X_SF[:, 0] += valence
    copies = np.repeat(np.arange(16), 4)

    def width(rows, groups):
        rdms = make_rdms(X_SF[rows], distance="squared_euclidean")
        models = rating_model(valence[rows], "valence")
        table = compare_models(
            rdms, models, groups=groups, comparator="pearson", n_bootstrap=300, n_permutations=9
        ).table
        return (table["high"] - table["low"]).item()

    assert width(copies, copies) == pytest.approx(width(np.arange(16), None), rel=0.35)
    assert width(copies, None) < 0.7 * width(copies, copies)


def test_the_false_positive_rate_is_the_level():
    """Pairs share what their items are about, so that free permutation would be wrong; flips within pairs are right."""
    rng, labels_S, pair_S = np.random.default_rng(11), np.array([1, -1] * 10), np.repeat(np.arange(10), 2)
    model = label_model(labels_S, "category")
    p = []
    for _ in range(150):
        item_SF = rng.normal(size=(10, 4))[pair_S] + 0.5 * rng.normal(size=(20, 4))
        rdm = squareform(pdist(item_SF))
        rows_BS = permute_stimuli(labels_S, pair_S, 39, int(rng.integers(10**6)), "pairs", n_stimuli=20)
        x_1P = squareform(rdm)[None]
        null = correlate_permuted(x_1P, model.table_SS[None], rows_BS, "spearman").ravel()
        observed = correlate(x_1P, squareform(model.table_SS)[None], "spearman").item()
        p.append((1 + (null >= observed - 1e-12).sum()) / 40)
    assert (np.array(p) <= 0.05).sum() <= stats.binom.isf(0.001, 150, 0.05)
    assert (np.array(p) <= 0.5).sum() <= stats.binom.isf(0.001, 150, 0.5)
    assert np.mean(p) < 0.65  # not conservative either


def test_a_model_that_the_design_cannot_change_is_declared():
    rng = np.random.default_rng(12)
    pair_S, labels_S = np.repeat(np.arange(12), 2), [1, -1] * 12
    topic = ModelRDM("topic", (pair_S[:, None] // 6 != pair_S // 6).astype(float))
    rdms = make_rdms(rng.normal(size=(24, 5)))
    outcome = label_model(np.array(labels_S) > 0, "category", "outcome")
    found = compare_models(
        rdms, [topic, outcome], labels=labels_S, blocks=pair_S, design="pairs", n_bootstrap=30, n_permutations=50
    )
    assert found.table["note"].tolist() == ["no arrangement of this design changes the model", ""]
    assert found.table["p"][0] == 1
    assert found.n_groups == 12


def test_exhaustive_permutations_give_the_exact_p():
    """Eight pairs: all 2^8 flips, and the p-value by enumeration."""
    rng = np.random.default_rng(13)
    pair_S, labels_S = np.repeat(np.arange(8), 2), np.array([1, -1] * 8)
    rdms = make_rdms(rng.normal(size=(16, 4)) + 0.4 * labels_S[:, None], distance="squared_euclidean")
    model = label_model(labels_S, "category")
    found = compare_models(
        rdms, model, comparator="pearson", labels=labels_S, blocks=pair_S, design="pairs", n_bootstrap=20
    )
    assert found.smallest_p == 1 / 256
    x_P = rdms.dissimilarities[0]
    scores = []
    for flips in itertools.product([1, -1], repeat=8):
        flipped = label_model(labels_S * np.repeat(flips, 2), "category").table_SS
        scores.append(np.corrcoef(x_P, squareform(flipped))[0, 1])
    assert found.table["p"].item() == pytest.approx(np.mean(np.array(scores) >= scores[0] - 1e-12))


def test_what_cannot_be_compared_is_refused():
    rng = np.random.default_rng(14)
    rdms, models = planted(rng, 12)
    constant = 1 - np.eye(12)
    skewed = rng.random((12, 12))
    named = make_rdms({"a": rng.normal(size=(12, 4))})
    named.pattern_descriptors["id"] = list("abcdefghijkl")
    turned = models_to_rdms(models)
    turned.pattern_descriptors["id"] = list("lkjihgfedcba")
    few = ModelRDM("few", np.where(np.add.outer(np.arange(12), np.arange(12)) <= 1, 1.0, np.nan))
    for match, call in {
        "model 0: the model RDM predicts the same": lambda: compare_models(rdms, constant),
        "RDM 0: the RDM holds the same": lambda: compare_models(constant, models),
        "the model is not symmetric": lambda: compare_models(rdms, skewed),
        "models are of 11 stimuli, the RDMs of 12": lambda: compare_models(rdms, constant[:11, :11]),
        "different stimuli, or in another order": lambda: compare_models(named, turned),
        "few: 1 pairs can be compared": lambda: compare_models(rdms, few),
        "Unknown comparator 'kendal'": lambda: compare_models(rdms, models, comparator="kendal"),
        "no permutations": lambda: compare_models(rdms, models, n_permutations=0),
        "8 groups or more": lambda: compare_models(rdms, models, groups=np.arange(12) // 2),
        "5 groups for 12 stimuli": lambda: compare_models(rdms, models, groups=np.arange(5)),
        "stimulus 0: a stimulus has no group": lambda: compare_models(rdms, models, groups=[None, *"abcdefghijk"]),
        "items must be given": lambda: compare_models(
            rdms, models, labels=[1, -1] * 6, blocks=np.arange(12) // 2, design="families"
        ),
        "the models cannot be read": lambda: compare_models(rdms, {"valence": models[0]}),
        "the RDMs cannot be read": lambda: compare_models([rdms, rdms], models),
        "RDMs of the same stimuli": lambda: compare_models(rdms, [models[0], constant[:11, :11]]),
    }.items():
        with pytest.raises(UserError, match=match):
            call()


def test_equal_scores_are_ties_however_they_are_rounded():
    """A model that no flip of pairs changes, with a score of 0: what is left is rounding, and p is 1."""
    rng, pair_S = np.random.default_rng(17), np.repeat(np.arange(12), 2)
    rdm_SS = make_rdms(rng.normal(size=(24, 5))).get_matrices()[0]
    x_P = squareform(rdm_SS)
    one, two = (squareform(squareform(rng.random(66))[np.ix_(pair_S, pair_S)]) for _ in range(2))
    share = (x_P - x_P.mean()) @ one / ((x_P - x_P.mean()) @ two)
    found = compare_models(
        rdm_SS, squareform(one - share * two), comparator="pearson", labels=[1, -1] * 12, blocks=pair_S,
        design="pairs", n_bootstrap=20, n_permutations=60,
    )  # fmt: skip
    assert abs(found.table["score"].item()) < 1e-12
    assert found.table["p"].item() == 1


def test_a_model_does_not_differ_from_a_multiple_of_itself():
    rdms, models = planted(np.random.default_rng(18))
    twin = ModelRDM("twin", 3 * models[0].table_SS)
    found = compare_models(rdms, [models[0], twin], comparator="pearson", n_bootstrap=50, n_permutations=9)
    assert found.differences[["difference", "low", "high", "p"]].to_numpy().tolist() == [[0, 0, 0, 1]]
    assert found.table["model"].tolist() == ["valence", "twin"]
    mixed = compare_models(rdms, [models[0], twin.table_SS], n_bootstrap=20, n_permutations=9)
    assert mixed.table["model"].tolist() == ["valence", "model 1"]


def test_the_ceiling_is_over_the_pairs_that_the_models_compare():
    rng, labels_S = np.random.default_rng(19), np.array([1, -1] * 6)
    noisy = np.stack([squareform(pdist(rng.normal(size=(12, 4)))) for _ in range(3)])
    masked, whole = label_model(labels_S, "discriminative"), label_model(labels_S, "category")
    found = compare_models(noisy, masked, n_bootstrap=20, n_permutations=9)
    kept = ~np.isnan(masked.table_SS[np.triu_indices(12, 1)])
    ranks_LP = stats.rankdata([squareform(table)[kept] for table in noisy], axis=1)
    expected = np.mean([stats.spearmanr(rank_P, ranks_LP.mean(axis=0)).statistic for rank_P in ranks_LP])
    assert found.ceiling is not None and found.ceiling.upper == pytest.approx(expected)
    assert compare_models(noisy, [masked, whole], n_bootstrap=20, n_permutations=9).ceiling is None


def test_masked_pairs_of_constant_patterns_are_left_out_and_counted():
    """One constant pattern: rsatoolbox (issues 248, 347) makes NaN entries; here its pairs are left out."""
    rng = np.random.default_rng(15)
    X_SF, valence = rng.normal(size=(14, 5)), rng.normal(size=14)
    X_SF[4] = 0
    masked = make_rdms(X_SF, undefined="mask")
    found = compare_models(masked, rating_model(valence, "valence"), n_bootstrap=100, n_permutations=50)
    kept = np.arange(14) != 4
    alone = compare_models(
        make_rdms(X_SF[kept]), rating_model(valence[kept], "valence"), n_bootstrap=100, n_permutations=50
    )
    assert found.table["score"].item() == pytest.approx(alone.table["score"].item(), abs=1e-12)
    assert found.by_rdm["n_pairs"].item() == 13 * 12 // 2
    assert np.isfinite(found.table[["low", "high", "p"]].to_numpy()).all()
