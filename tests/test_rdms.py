"""RDMs of whole representations: distances, rsatoolbox and back, crossnobis, ceilings, positions, second order."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import rsatoolbox
from hypothesis import given, settings
from hypothesis import strategies as st
from rsatoolbox.rdm import calc_rdm
from scipy import sparse
from scipy.spatial.distance import pdist, squareform

from benchmarks.crossnobis import measure
from neurosae.errors import UserError
from neurosae.inference.design import make_folds
from neurosae.rdms import (
    crossnobis,
    from_dataset,
    make_rdms,
    models_from_rdms,
    models_to_rdms,
    noise_ceiling,
    pairwise_distances,
    position_rdms,
    searchlight,
    second_order,
    split_rdms,
    to_dataset,
)
from neurosae.responses import Pooled, Responses
from neurosae.rsa.models import label_model, rating_model
from neurosae.rsa.results import Reason

few_examples = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 10_000)
SCIPY = {"correlation": "correlation", "cosine": "cosine", "squared_euclidean": "sqeuclidean"}
DISTANCES = sorted(SCIPY)


def latents(rng, n_stimuli=20, n_features=30, offset=0.0):
    return np.maximum(rng.normal(size=(n_stimuli, n_features)) - 0.8, 0) + offset


def ragged_responses(rng, n_stimuli=30, n_features=6, shortest=2, longest=6):
    """Texts of different lengths; the last token of each holds the number of its stimulus in feature 0."""
    length_S = rng.integers(shortest, longest + 1, n_stimuli)
    owner = np.repeat(np.arange(n_stimuli), length_S)
    values = rng.normal(size=(len(owner), n_features)).astype(np.float32)
    values[np.cumsum(length_S) - 1, 0] = 100.0 * np.arange(n_stimuli)
    tokens = pd.DataFrame({"stimulus": owner, "role": "text", "target": False, "clean": True})
    stimuli = pd.DataFrame({"id": [f"s{s}" for s in range(n_stimuli)], "outcome": ["won", "lost"] * (n_stimuli // 2)})
    return Responses(values, tokens, stimuli, "blocks.3.hook_resid_post"), length_S


# Distances.


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array, sparse.csc_array])
@pytest.mark.parametrize("block_size", [1, 7, 4096])
def test_distances_are_those_of_scipy(distance, layout, block_size):
    X_SF = latents(np.random.default_rng(0))
    expected = squareform(pdist(X_SF, SCIPY[distance])) / (30 if distance == "squared_euclidean" else 1)
    D_SS, defined_S = pairwise_distances(layout(X_SF), distance, block_size=block_size)
    np.testing.assert_allclose(D_SS, expected, atol=1e-12)
    assert defined_S.all()


@pytest.mark.parametrize("distance", ["correlation", "squared_euclidean"])
def test_an_offset_of_a_million_costs_no_digits(distance):
    X_SF = latents(np.random.default_rng(1))
    plain, shifted = (pairwise_distances(X, distance)[0] for X in (X_SF, X_SF + 2.0**20))
    np.testing.assert_allclose(shifted, plain, atol=1e-8)


@pytest.mark.parametrize("layout", [np.asarray, np.asfortranarray, sparse.csr_array])
def test_a_constant_pattern_of_many_features_is_constant_in_any_layout(layout):
    X_SF = np.vstack([np.full((2, 60_000), 0.1), np.random.default_rng(21).normal(size=(2, 60_000))])
    assert pairwise_distances(layout(X_SF))[1].tolist() == [False, False, True, True]


@few_examples
@given(seed=seeds, distance=st.sampled_from(DISTANCES), factor=st.floats(0.01, 100))
def test_distances_follow_permutations_and_scale(seed, distance, factor):
    rng = np.random.default_rng(seed)
    X_SF, order = latents(rng) + rng.random((20, 1)), rng.permutation(20)
    D_SS = pairwise_distances(X_SF, distance)[0]
    np.testing.assert_allclose(pairwise_distances(X_SF[order], distance)[0], D_SS[np.ix_(order, order)], atol=1e-12)
    expected = D_SS * (factor**2 if distance == "squared_euclidean" else 1)
    np.testing.assert_allclose(pairwise_distances(factor * X_SF, distance)[0], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(pairwise_distances(np.hstack([X_SF, X_SF]), distance)[0], D_SS, atol=1e-12)


def test_patterns_without_a_correlation_or_cosine_are_named_or_masked():
    X_SF = latents(np.random.default_rng(2), 8)
    X_SF[3], X_SF[5] = 0, 0.1
    stimuli = pd.DataFrame({"id": list("abcdefgh")})
    with pytest.raises(UserError, match="2 patterns are constant over features and have no correlation: d, f"):
        make_rdms({"block 3": X_SF}, stimuli=stimuli)
    with pytest.raises(UserError, match=r"block 3: 1 patterns are zero and have no cosine: d\."):
        make_rdms({"block 3": X_SF}, stimuli=stimuli, distance="cosine")
    masked = make_rdms({"block 3": X_SF}, stimuli=stimuli, undefined="mask")
    assert masked.descriptors["undefined"] == {"block 3": [3, 5]}
    table_SS = masked.get_matrices()[0]
    others = [0, 1, 2, 4, 6, 7]
    assert np.isnan(table_SS[3, others]).all() and np.isnan(table_SS[others, 5]).all()
    np.testing.assert_allclose(table_SS[np.ix_(others, others)], make_rdms(X_SF[others]).get_matrices()[0], atol=1e-12)
    assert make_rdms(X_SF, distance="squared_euclidean").descriptors["undefined"] == {"": []}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_stimulus_and_feature(value):
    X_SF = latents(np.random.default_rng(3), 6)
    X_SF[4, 2] = value
    for refuses in (make_rdms, lambda X: crossnobis(X, list("ababab"), [0, 0, 1, 1, 2, 2])):
        with pytest.raises(UserError, match="stimulus 4, feature 2"):
            refuses(X_SF)


def test_bad_requests_say_what_is_allowed():
    X_SF = latents(np.random.default_rng(4), 6)
    for match, call in {
        "Did you mean 'correlation'": lambda: make_rdms(X_SF, distance="correlations"),
        "two features or more": lambda: make_rdms(X_SF[:, :1]),
        "describes 5 stimuli": lambda: make_rdms(X_SF, stimuli=pd.DataFrame({"id": range(5)})),
        "all stimuli are 'won'": lambda: make_rdms(X_SF, average=["won"] * 6),
        "5 conditions for 6 stimuli": lambda: make_rdms(X_SF, average=list("ababa")),
        "stimulus 2: a stimulus has no condition": lambda: make_rdms(X_SF, average=["a", "b", None, "a", "b", "a"]),
        "Unknown column 'outcom'": lambda: make_rdms(X_SF, average="outcom"),
        "different stimuli": lambda: make_rdms({"a": X_SF, "b": X_SF[:5]}),
        "features do not fit the 30 there are": lambda: make_rdms(X_SF, features=[30]),
        "at least one stimulus": lambda: make_rdms(X_SF, features=[]),
        "numbers, a mask or a slice": lambda: make_rdms(X_SF, features=[0.5, 1.7]),
        "features do not fit": lambda: make_rdms(X_SF, features=["a"]),
        "no representations": lambda: make_rdms({}),
        "5 folds for 6 stimuli": lambda: split_rdms(X_SF, list("ababab"), [0, 0, 0, 1, 1]),
        "stimulus 3: a stimulus has no fold": lambda: split_rdms(X_SF, list("ababab"), [0, 0, 0, np.nan, 1, 1]),
        "stimulus 5: a stimulus has no fold": lambda: crossnobis(X_SF, list("ababab"), [*"xxyy", "y", None]),
    }.items():
        with pytest.raises(UserError, match=match):
            call()
    lacking = Pooled(X_SF, np.arange(6) != 2, np.where(np.arange(6) == 2, "no clean token", ""))
    with pytest.raises(UserError, match="stimulus 2: 1 stimuli have no pattern: no clean token"):
        make_rdms(lacking)


# rsatoolbox.


@pytest.mark.parametrize("average", [None, "outcome"])
@pytest.mark.parametrize(("distance", "method"), [("correlation", "correlation"), ("squared_euclidean", "euclidean")])
def test_rdms_agree_with_rsatoolbox(distance, method, average):
    stimuli = pd.DataFrame({"outcome": ["a", "b", "c", "d"] * 5})
    X_SF = latents(np.random.default_rng(5))
    theirs = calc_rdm(to_dataset(X_SF, stimuli=stimuli), method, descriptor=average)
    ours = make_rdms(X_SF, distance=distance, stimuli=stimuli, average=average)
    np.testing.assert_allclose(ours.dissimilarities, theirs.dissimilarities, atol=1e-12)
    if average:
        assert ours.pattern_descriptors["outcome"] == list(theirs.pattern_descriptors["outcome"])
        assert ours.pattern_descriptors["n_stimuli"] == [5, 5, 5, 5]


def test_responses_carry_their_descriptors_and_latents_can_be_chosen():
    responses, _ = ragged_responses(np.random.default_rng(6))
    rdms = make_rdms({"block 3": responses, "block 4": responses}, features=[1, 2, 4])
    assert rdms.rdm_descriptors["site"] == ["blocks.3.hook_resid_post"] * 2
    assert rdms.pattern_descriptors["outcome"][:2] == ["won", "lost"]
    expected = pdist(responses.pool("mean").dense()[:, [1, 2, 4]], "correlation")
    np.testing.assert_allclose(rdms.dissimilarities[1], expected, atol=1e-9)
    won = rdms.subset_pattern("outcome", "won")
    assert won.n_cond == 15
    dataset = to_dataset(responses, features=[1, 4])
    assert dataset.channel_descriptors["feature"] == [1, 4]
    X_SF, stimuli = from_dataset(dataset)
    np.testing.assert_array_equal(X_SF, responses.pool("mean").dense()[:, [1, 4]])
    assert stimuli["id"].tolist() == responses.stimuli["id"].tolist()


def test_a_table_without_columns_describes_nothing():
    X_SF = latents(np.random.default_rng(22), 6)
    assert make_rdms({"a": X_SF, "b": X_SF}, stimuli=pd.DataFrame(index=range(6))).n_rdm == 2


def test_missing_names_do_not_break_descriptors():
    stimuli = pd.DataFrame({"id": list("abc"), "domain": pd.array(["law", pd.NA, "sport"], dtype="string")})
    assert make_rdms(np.eye(3), stimuli=stimuli).pattern_descriptors["domain"] == ["law", "", "sport"]


def test_models_go_to_rsatoolbox_and_back():
    models = [rating_model([1.0, 2, 4, 8], "valence"), label_model([True, True, False, False], "categorical")]
    back = models_from_rdms(models_to_rdms(models))
    assert [model.name for model in back] == ["valence", "categorical"]
    for there, here in zip(back, models, strict=True):
        np.testing.assert_array_equal(there.table_SS, here.table_SS)


# Crossnobis.


def experiment(rng, n_conditions=4, n_folds=3, per_cell=5, n_features=40, effect=1.0, noise_F=1.0):
    fold_S, code_S = np.indices((n_folds, n_conditions, per_cell))[:2].reshape(2, -1)
    truth_CF = effect * rng.normal(size=(n_conditions, n_features))
    X_SF = truth_CF[code_S] + noise_F * rng.normal(size=(len(code_S), n_features))
    return X_SF, np.array(list("abcdefgh"))[code_S], fold_S, truth_CF


def crossnobis_by_definition(X_SF, conditions, folds, precision_FF):
    """Mean over ordered pairs of different folds of (difference in one)' precision (difference in the other)."""
    names, n_features = sorted(set(conditions)), X_SF.shape[1]
    mean = {(r, c): X_SF[(folds == r) & (conditions == c)].mean(axis=0) for r in set(folds) for c in names}
    table = np.zeros((len(names), len(names)))
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            difference = {r: mean[r, a] - mean[r, b] for r in set(folds)}
            products = [difference[r] @ precision_FF @ difference[q] for r in set(folds) for q in set(folds) if r != q]
            table[i, j] = np.mean(products) / n_features
    return table


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("layout", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("block_size", [7, 4096])
def test_the_closed_form_is_the_definition_and_rsatoolbox(normalise, layout, block_size):
    X_SF, conditions, folds, _ = experiment(np.random.default_rng(7), noise_F=np.linspace(0.5, 3, 40))
    variance_F = pd.DataFrame(X_SF).groupby([conditions, folds]).transform(lambda x: x - x.mean()).pow(2).sum() / (
        60 - 12
    )
    precision_FF = np.diag(1 / variance_F.to_numpy()) if normalise else np.eye(40)
    found = crossnobis(layout(X_SF), conditions, folds, normalise=normalise, block_size=block_size)
    np.testing.assert_allclose(
        found.table_CC, crossnobis_by_definition(X_SF, conditions, folds, precision_FF), atol=1e-12
    )
    dataset = to_dataset(X_SF, stimuli=pd.DataFrame({"condition": conditions, "fold": folds}))
    theirs = calc_rdm(dataset, "crossnobis", descriptor="condition", cv_descriptor="fold", noise=precision_FF)
    np.testing.assert_allclose(found.rdm.dissimilarities, theirs.dissimilarities, atol=1e-12)
    assert found.rdm.pattern_descriptors["condition"] == list(theirs.pattern_descriptors["condition"])


def test_crossnobis_is_unbiased_where_the_plain_distance_is_not():
    rng, found, plain = np.random.default_rng(8), [], []
    for _ in range(200):
        X_SF, conditions, folds, _ = experiment(rng, effect=0.0, per_cell=2)
        found.append(crossnobis(X_SF, conditions, folds).table_CC[0, 1])
        plain.append(make_rdms(X_SF, average=conditions, distance="squared_euclidean").dissimilarities[0, 0])
    error = np.std(found) / np.sqrt(200)
    assert abs(np.mean(found)) < 4 * error
    assert np.mean(plain) > 20 * error
    assert 0.3 < np.mean(np.array(found) < 0) < 0.7


def test_crossnobis_finds_the_planted_distances():
    X_SF, conditions, folds, truth_CF = experiment(np.random.default_rng(9), per_cell=200)
    expected = squareform(pdist(truth_CF, "sqeuclidean")) / 40
    np.testing.assert_allclose(crossnobis(X_SF, conditions, folds).table_CC, expected, rtol=0.1)


@few_examples
@given(seed=seeds, normalise=st.booleans())
def test_crossnobis_invariances(seed, normalise):
    rng = np.random.default_rng(seed)
    X_SF, conditions, folds, _ = experiment(rng, per_cell=3)
    table_CC = crossnobis(X_SF, conditions, folds, normalise=normalise).table_CC
    shifted = crossnobis(X_SF + 1e4 * rng.normal(size=(3, 40))[folds], conditions, folds, normalise=normalise)
    np.testing.assert_allclose(shifted.table_CC, table_CC, atol=1e-7)  # a shift of a whole fold
    twice = crossnobis(np.hstack([X_SF, X_SF]), conditions, folds, normalise=normalise)
    np.testing.assert_allclose(twice.table_CC, table_CC, atol=1e-10)
    scale_F = np.exp(rng.normal(size=40)) if normalise else 3.0
    scaled = crossnobis(X_SF * scale_F, conditions, folds, normalise=normalise).table_CC
    np.testing.assert_allclose(scaled, table_CC * (1 if normalise else 9), atol=1e-9)


def test_features_without_noise_are_left_out_and_declared():
    X_SF, conditions, folds, _ = experiment(np.random.default_rng(10))
    code_S = np.unique(conditions, return_inverse=True)[1]
    more = np.column_stack([X_SF, np.zeros(60), code_S * 0.1])  # silent; differs between conditions without any noise
    found = crossnobis(sparse.csr_array(more), conditions, folds, normalise=True, block_size=16)
    assert found.left_out.tolist() == [40, 41]
    assert found.n_features == 40
    np.testing.assert_allclose(found.table_CC, crossnobis(X_SF, conditions, folds, normalise=True).table_CC, atol=1e-12)
    assert crossnobis(more, conditions, folds).left_out.size == 0
    with pytest.raises(UserError, match="no feature varies"):
        crossnobis(more[:, 40:], conditions, folds, normalise=True)


def test_noise_that_is_rounding_does_not_decide_the_distance():
    """Pooled means of one value differ in the last digit; divided by that spread they would weigh 1e30."""
    X_SF, conditions, folds, _ = experiment(np.random.default_rng(23))
    value_S = np.where(conditions == "a", 0.1, 0.3) * np.where(np.arange(60) % 3 == 0, 1 + 3e-16, 1)
    found = crossnobis(np.column_stack([X_SF, value_S]), conditions, folds, normalise=True)
    assert found.left_out.tolist() == [40]
    np.testing.assert_allclose(found.table_CC, crossnobis(X_SF, conditions, folds, normalise=True).table_CC, atol=1e-12)


def test_crossnobis_refuses_folds_that_cannot_be_crossed():
    X_SF, conditions, folds, _ = experiment(np.random.default_rng(11), n_conditions=2, n_folds=2, per_cell=1)
    with pytest.raises(UserError, match="no noise to normalise by"):
        crossnobis(X_SF, conditions, folds, normalise=True)
    with pytest.raises(UserError, match="all stimuli lie in one fold"):
        crossnobis(X_SF, conditions, [0, 0, 0, 0])
    with pytest.raises(UserError, match="fold 1 has no stimulus of condition 'b'"):
        crossnobis(X_SF, conditions, [0, 0, 1, 0])
    with pytest.raises(UserError, match="3 folds for 4 stimuli"):
        crossnobis(X_SF, conditions, [0, 0, 1])


def test_folds_of_pairs_fit_crossnobis():
    pair_S = np.repeat(np.arange(12), 2)
    folds = make_folds([1, -1] * 12, pair_S, n_splits=4, n_repeats=1)[0]
    X_SF = np.random.default_rng(12).normal(size=(24, 10)) + np.tile([0, 3], 12)[:, None]
    assert crossnobis(X_SF, ["won", "lost"] * 12, folds).table_CC[0, 1] == pytest.approx(9, rel=0.3)


def test_the_benchmark_of_crossnobis_agrees_with_its_peer():
    result = measure(n_features=300, repeats=1)
    assert result["agreement"] < 1e-10
    assert result["peer_is"].startswith("rsatoolbox")


# Noise ceilings.


def noisy_rdms(rng, n_rdms=5, n_conditions=8, noise=0.3):
    truth = pdist(rng.normal(size=(n_conditions, 4)))
    return np.stack([squareform(truth + noise * rng.random(len(truth))) for _ in range(n_rdms)])


@pytest.mark.parametrize(
    ("comparator", "method"), [("pearson", "corr"), ("cosine", "cosine"), ("spearman", "spearman"), ("rho_a", "rho-a")]
)
def test_the_ceiling_is_that_of_rsatoolbox(comparator, method):
    tables = noisy_rdms(np.random.default_rng(13))
    theirs = rsatoolbox.inference.boot_noise_ceiling(rsatoolbox.rdm.RDMs(tables), method)
    ours = noise_ceiling(tables, comparator)
    np.testing.assert_allclose([ours.lower, ours.upper], theirs, atol=1e-12)
    assert ours.n_rdms == 5


@few_examples
@given(seed=seeds, comparator=st.sampled_from(["pearson", "cosine", "spearman", "rho_a"]))
def test_no_model_beats_the_upper_bound(seed, comparator):
    from neurosae.rdms.comparators import as_vectors, correlate

    rng = np.random.default_rng(seed)
    tables = noisy_rdms(rng, noise=3.0)
    models = rng.random((200, 28))
    ceiling = noise_ceiling(tables, comparator)
    assert ceiling.lower <= ceiling.upper
    assert correlate(as_vectors(tables).x_LP, models, comparator).mean(axis=0).max() <= ceiling.upper + 1e-12


def test_one_rdm_has_no_ceiling():
    for one in (noisy_rdms(np.random.default_rng(14), 1), make_rdms(np.eye(4))):
        with pytest.raises(UserError, match=r"from one RDM would be \[1, 1\]"):
            noise_ceiling(one)
    with pytest.raises(UserError, match="RDM 1: the RDM does not vary"):
        noise_ceiling(np.stack([squareform([1.0, 2, 3]), 1 - np.eye(3)]))
    rng = np.random.default_rng(24)
    nearly = 1 + 1e-15 * rng.normal(size=300 * 299 // 2)
    with pytest.raises(UserError, match="RDM 1: the RDM does not vary"):
        noise_ceiling(np.stack([squareform(rng.random(len(nearly))), squareform(nearly)]), "pearson")


def test_item_sets_give_one_rdm_each():
    X_SF, conditions, folds, _ = experiment(np.random.default_rng(15), n_features=4, per_cell=20)
    rdms = split_rdms(X_SF, conditions, folds, distance="squared_euclidean")
    assert rdms.rdm_descriptors["name"] == ["items 0", "items 1", "items 2"]
    for r in range(3):
        alone = make_rdms(X_SF[folds == r], average=conditions[folds == r], distance="squared_euclidean")
        np.testing.assert_allclose(rdms.dissimilarities[r], alone.dissimilarities[0], atol=1e-12)
    assert noise_ceiling(rdms, "pearson").lower > 0.8
    with pytest.raises(UserError, match="item set 1 has no stimulus of condition 'd'"):
        split_rdms(X_SF, conditions, np.where(conditions == "d", 0, folds))


# Positions, searchlight and second order.


def test_position_rdms_compare_the_tokens_that_stand_there():
    responses, length_S = ragged_responses(np.random.default_rng(16))
    rdms = position_rdms(responses, align="end", width=4)
    table = rdms.get_matrices()
    for w, steps_back in enumerate([4, 3, 2, 1]):
        here = np.flatnonzero(length_S >= steps_back)
        rows = (np.cumsum(length_S) - steps_back)[here]
        expected = squareform(pdist(responses.values[rows], "correlation"))
        np.testing.assert_allclose(table[w][np.ix_(here, here)], expected, atol=1e-6)
        assert rdms.rdm_descriptors["n"][w] == len(here)
        assert rdms.descriptors["undefined"][str(w)] == np.flatnonzero(length_S < steps_back).tolist()
        assert np.isnan(table[w]).any() == (len(here) < 30)


def test_the_searchlight_finds_the_planted_cell_and_masks_thin_ones():
    responses, length_S = ragged_responses(np.random.default_rng(17), n_stimuli=40)
    blank = responses.with_values(np.random.default_rng(18).normal(size=responses.values.shape))
    model = rating_model(np.arange(40.0), "order")
    found = searchlight({2: blank, 3: responses}, model, distance="squared_euclidean", width=6)
    assert found.value_KLW.shape == (1, 2, 6)
    assert np.unravel_index(np.argmax(found.value_KLW), (1, 2, 6)) == (0, 1, 5)
    assert found.value_KLW[0, 1, 5] > 0.99
    np.testing.assert_array_equal(found.n_LW[0], [(length_S >= 6 - w).sum() for w in range(6)])
    assert (found.reason_KLW[0][found.n_LW < 20] == Reason.TOO_FEW_STIMULI).all()
    assert (found.n_LW < 20).any() and np.isfinite(found.value_KLW).all()
    table = found.table.set_index(["model", "block", "position"])
    assert table.loc[("order", 3, 0), "score"] == found.value_KLW[0, 1, 5]
    assert table.loc[("order", 3, -5), "reason"] == "too_few_stimuli"
    rdms = position_rdms(responses, distance="squared_euclidean", width=6)
    cell = second_order(rdms.subset("position", 4), models_to_rdms(model))
    assert found.value_KLW[0, 1, 4] == pytest.approx(cell.to_numpy().item(), abs=1e-12)


def test_the_searchlight_counts_tokens_whose_pattern_is_constant_as_missing():
    responses, _ = ragged_responses(np.random.default_rng(19), n_stimuli=24)
    owner = responses.tokens["stimulus"].to_numpy()
    last = np.append(np.diff(owner) > 0, True)
    values = np.where((last & (owner < 6))[:, None], 0, responses.values)
    found = searchlight({3: responses.with_values(values)}, rating_model(np.arange(24.0), "order"), width=1)
    assert found.n_LW.item() == 18
    assert found.table["reason"].tolist() == ["too_few_stimuli"]


def test_the_searchlight_refuses_other_stimuli_and_says_what_lacks():
    responses, _ = ragged_responses(np.random.default_rng(25), n_stimuli=24)
    turned = Responses(responses.values, responses.tokens, responses.stimuli[::-1].reset_index(drop=True), "")
    model = rating_model(np.arange(24.0), "order")
    with pytest.raises(UserError, match="block 4: responses are of different stimuli, or in another order"):
        searchlight({3: responses, 4: turned}, model)
    with pytest.raises(UserError, match="no responses"):
        searchlight({}, model)
    with pytest.raises(UserError, match="a window of 0 positions"):
        searchlight({3: responses}, model, width=0)
    few_SS = np.where(np.add.outer(np.arange(24), np.arange(24)) == 1, 1.0, np.nan)
    found = searchlight({(3, "mlp"): responses}, few_SS, width=1)
    assert found.table[["block", "reason"]].to_numpy().tolist() == [[(3, "mlp"), "too_few_pairs"]]


def test_second_order_is_the_rank_correlation_of_rdms():
    rng = np.random.default_rng(20)
    base = rng.normal(size=(12, 5))
    rdms = make_rdms({f"block {b}": base + 0.5 * b * rng.normal(size=(12, 5)) for b in range(3)})
    matrix = second_order(rdms)
    expected = pd.DataFrame(rdms.dissimilarities.T).corr("spearman").to_numpy()
    np.testing.assert_allclose(matrix, expected, atol=1e-12)
    assert list(matrix.index) == ["block 0", "block 1", "block 2"]
    between = second_order(rdms, make_rdms({"other": base}))
    assert between.shape == (3, 1) and between.loc["block 0", "other"] == pytest.approx(1)
    with pytest.raises(UserError, match="different stimuli"):
        second_order(rdms, make_rdms({"other": base[:8]}))
    with pytest.raises(UserError, match="does not vary"):
        second_order(rdms, 1 - np.eye(12))
