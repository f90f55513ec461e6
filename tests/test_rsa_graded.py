"""Graded model RDMs: identity with the definition over pairs, masks, nuisance models, validity, invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from neurosae.errors import UserError
from neurosae.rsa import KINDS, Reason, score_model, score_scalar
from neurosae.rsa.models import label_model

few_examples = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 10_000)


def responses(rng, n_stimuli=18, n_features=9):
    """Sparse to dense non-negative columns, one with an offset of a thousand."""
    X_SF = np.maximum(rng.normal(size=(n_stimuli, n_features)) - np.linspace(1.5, -1, n_features), 0)
    X_SF[np.arange(n_features), np.arange(n_features)] += 1  # every feature fires
    X_SF[:, -1] = 1000 + rng.random(n_stimuli)
    return X_SF


def random_models(rng, n_stimuli, n_models=3):
    upper = np.triu(rng.random((n_models, n_stimuli, n_stimuli)), 1)
    return upper + upper.swapaxes(1, 2)


def masked(rng, models_MSS, share=0.3):
    models_MSS = models_MSS.copy()
    for table_SS in models_MSS:
        i, j = np.nonzero(np.triu(rng.random(table_SS.shape) < share, 1))
        table_SS[i, j] = table_SS[j, i] = np.nan
    return models_MSS


def distances(x_S, distance="squared"):
    i, j = np.triu_indices(len(x_S), 1)
    d_P = np.abs(x_S[i] - x_S[j])
    return d_P**2 if distance == "squared" else d_P


def over_pairs(table_SS):
    return table_SS[np.triu_indices(len(table_SS), 1)]


def residual(y_P, controls):
    design = np.column_stack([np.ones(len(y_P)), *controls])
    return y_P - design @ np.linalg.lstsq(design, y_P, rcond=None)[0]


LAYOUTS = [np.asarray, sparse.csr_array, sparse.csc_array]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("distance", ["squared", "absolute"])
@pytest.mark.parametrize("comparator", ["pearson", "cosine"])
def test_several_models_over_their_own_pairs(layout, distance, comparator):
    rng = np.random.default_rng(0)
    X_SF, models_MSS = responses(rng), random_models(rng, 18)
    models_MSS[1:] = masked(rng, models_MSS[1:])
    scores = score_model(layout(X_SF), models_MSS, distance=distance, comparator=comparator, block_size=4)
    assert scores.value.shape == (3, 9) and scores.valid.all()
    for m, table_SS in enumerate(models_MSS):
        kept = ~np.isnan(over_pairs(table_SS))
        for f, x_S in enumerate(X_SF.T):
            d, model = distances(x_S, distance)[kept], over_pairs(table_SS)[kept]
            cosine = d @ model / np.linalg.norm(d) / np.linalg.norm(model)
            expected = cosine if comparator == "cosine" else np.corrcoef(d, model)[0, 1]
            assert scores.value[m, f] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_partial_score_correlates_what_regression_on_pairs_leaves(layout, ranked, share):
    rng = np.random.default_rng(1)
    X_SF = responses(rng)
    models_MSS, nuisance_NSS = masked(rng, random_models(rng, 18), share), random_models(rng, 18, 2)
    models_MSS[0] += 2 * nuisance_NSS[0]
    comparator = "spearman" if ranked else "pearson"
    scores = score_model(layout(X_SF), models_MSS, comparator=comparator, nuisance=nuisance_NSS)
    transform = stats.rankdata if ranked else np.asarray
    for m, table_SS in enumerate(models_MSS):
        kept = ~np.isnan(over_pairs(table_SS))
        controls = [transform(over_pairs(table)[kept]) for table in nuisance_NSS]
        rest = residual(transform(over_pairs(table_SS)[kept]), controls)
        for f, x_S in enumerate(X_SF.T):
            d = transform(distances(x_S)[kept])
            assert scores.value[m, f] == pytest.approx(np.corrcoef(residual(d, controls), rest)[0, 1], abs=1e-8)


def test_controlling_removes_a_planted_confound_and_keeps_a_planted_effect():
    rng = np.random.default_rng(2)
    length_S, valence_S = rng.normal(size=(2, 60))
    length, valence = ((v[:, None] - v) ** 2 for v in (length_S, valence_S))
    X_SF = np.column_stack([length_S, valence_S]) + 0.2 * rng.normal(size=(60, 2))
    confounded = valence + 2 * length
    raw = score_model(X_SF, confounded).value
    partial = score_model(X_SF, confounded, nuisance=length).value
    assert raw[0] > 0.7 and abs(partial[0]) < 0.1 and partial[1] > 0.8


@given(seed=seeds, comparator=st.sampled_from(["pearson", "cosine", "spearman"]), with_nuisance=st.booleans())
@few_examples
def test_invariances(seed, comparator, with_nuisance):
    rng = np.random.default_rng(seed)
    X_SF, models_MSS = responses(rng, 14), masked(rng, random_models(rng, 14), 0.2)
    nuisance = random_models(rng, 14, 2) if with_nuisance and comparator != "cosine" else None

    def score(X_SF, models=models_MSS, nuisance=nuisance, **options):
        return score_model(X_SF, models, comparator=comparator, nuisance=nuisance, **options)

    reference = score(X_SF)
    order, columns = rng.permutation(14), rng.permutation(9)
    moved = [None if tables is None else tables[:, order][:, :, order] for tables in (models_MSS, nuisance)]
    np.testing.assert_allclose(score(X_SF[order], *moved).value, reference.value, atol=1e-8)
    np.testing.assert_allclose(score(X_SF[:, columns]).value, reference.value[:, columns], atol=1e-10)
    np.testing.assert_allclose(score(X_SF * 64.0).value, reference.value, atol=1e-8)
    np.testing.assert_allclose(score(X_SF, 3.0 * models_MSS).value, reference.value, atol=1e-10)
    np.testing.assert_allclose(score(X_SF, block_size=1).value, reference.value, atol=1e-10)
    np.testing.assert_allclose(score(sparse.csr_array(X_SF)).value, reference.value, atol=1e-8)
    with_silent = score(np.column_stack([np.zeros(14), X_SF]))
    np.testing.assert_allclose(with_silent.value[:, 1:], reference.value, atol=1e-10)
    assert (with_silent.reason[:, 0] == Reason.SILENT).all()


@given(seed=seeds, kind=st.sampled_from(KINDS))
@few_examples
def test_masked_two_level_models_are_the_two_class_scores(seed, kind):
    rng = np.random.default_rng(seed)
    X_SF = responses(rng, 20)
    code_S = rng.permutation(np.repeat([1, -1, 0], [8, 7, 5]))
    expected = score_scalar(X_SF, code_S, kind)
    for table in (X_SF, sparse.csc_array(X_SF)):
        scores = score_model(table, label_model(code_S, kind))
        np.testing.assert_allclose(scores.value, expected.value, atol=1e-9)
        np.testing.assert_array_equal(scores.reason, expected.reason)


@pytest.mark.parametrize("comparator", ["pearson", "spearman", "kendall"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_without_a_score_have_a_reason(comparator, layout):
    rng = np.random.default_rng(3)
    model_SS = random_models(rng, 10, 1)[0]
    model_SS[-1, :-1] = model_SS[:-1, -1] = np.nan  # the last stimulus is in no compared pair
    last = np.arange(10) == 9
    X_SF = np.column_stack([np.zeros(10), np.full(10, 0.1), 5.0 * last, 0.1 + 1e6 * last, rng.random(10)])
    scores = score_model(layout(X_SF), model_SS, comparator=comparator)
    assert scores.reason.tolist() == [Reason.SILENT, Reason.CONSTANT, Reason.SILENT, Reason.CONSTANT, Reason.OK]
    assert (scores.value[:4] == 0).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_feature_that_is_a_nuisance_model_is_explained(layout):
    rng = np.random.default_rng(4)
    length_S, other_S = rng.random((2, 12))
    length_SS = (length_S[:, None] - length_S) ** 2
    scores = score_model(layout(np.column_stack([length_S, other_S])), random_models(rng, 12, 1)[0], nuisance=length_SS)
    assert scores.reason.tolist() == [Reason.EXPLAINED, Reason.OK] and scores.value[0] == 0


def test_collinear_constant_and_repeated_nuisance_models_add_nothing():
    rng = np.random.default_rng(5)
    X_SF, model_SS, (a, b) = responses(rng), random_models(rng, 18, 1)[0], random_models(rng, 18, 2)
    once = score_model(X_SF, model_SS, nuisance=[a, b]).value
    ones = 1 - np.eye(18)
    np.testing.assert_allclose(score_model(X_SF, model_SS, nuisance=[a, b, a + 2 * b, ones]).value, once, atol=1e-9)


def test_digits_survive_offsets_outliers_and_scales():
    rng = np.random.default_rng(6)
    x_S, model_SS = rng.integers(0, 20, 16).astype(float), random_models(rng, 16, 1)[0]
    X_SF = np.column_stack([x_S, x_S + 1e8, x_S * 1e150, x_S * 1e-150])
    for distance in ("squared", "absolute"):
        value = score_model(X_SF, model_SS, distance=distance).value
        np.testing.assert_allclose(value, value[0], atol=1e-9)
    outlier_S = x_S + 1e7 * (np.arange(16) == 15)
    model_SS[15, :15] = model_SS[:15, 15] = np.nan
    expected = score_model(x_S[:15, None], model_SS[:15, :15]).value
    np.testing.assert_allclose(score_model(outlier_S[:, None], model_SS).value, expected, atol=1e-8)


def test_the_correlation_with_an_unrelated_model_is_zero_on_average():
    rng = np.random.default_rng(7)
    X_SF, model_SS = rng.exponential(size=(20, 3)), random_models(rng, 20, 1)[0]
    orders = [rng.permutation(20) for _ in range(300)]
    for comparator in ("pearson", "spearman", "kendall"):
        shuffled = np.stack([model_SS[np.ix_(order, order)] for order in orders])
        value_MF = score_model(X_SF, shuffled, comparator=comparator).value
        assert (np.abs(value_MF.mean(axis=0)) < 5 * value_MF.std(axis=0) / np.sqrt(300)).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("comparator", ["pearson", "cosine"])
def test_torch_agrees_with_numpy(layout, comparator):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(8)
    X_SF, models_MSS = responses(rng, 30, 30), masked(rng, random_models(rng, 30))
    nuisance = random_models(rng, 30, 2) if comparator == "pearson" else None
    options = {"comparator": comparator, "nuisance": nuisance}
    expected = score_model(layout(X_SF), models_MSS, **options)
    for device in ["cpu", "cuda"][: 1 + torch.cuda.is_available()]:
        scores = score_model(layout(X_SF), models_MSS, backend="torch", device=device, **options)
        np.testing.assert_allclose(scores.value, expected.value, atol=1e-10)
        np.testing.assert_array_equal(scores.reason, expected.reason)


def test_mistakes_in_models_and_options_are_refused():
    rng = np.random.default_rng(9)
    X_SF, model_SS = responses(rng, 6, 4), random_models(rng, 6, 1)[0]

    def refuses(message, model=model_SS, **options):
        with pytest.raises(UserError, match=message):
            score_model(X_SF, model, **options)

    asymmetric, infinite, halved = model_SS.copy(), model_SS.copy(), model_SS.copy()
    asymmetric[2, 4] += 1
    infinite[1, 3] = infinite[3, 1] = np.inf
    halved[5, 1] = np.nan
    refuses("row 2, column 4", asymmetric)
    refuses("row 1, column 3", infinite)
    refuses("row 1, column 5", halved)
    refuses("same dissimilarity", np.ones((6, 6)))
    refuses("model 1", [model_SS, np.full((6, 6), np.nan)])
    refuses("shape", model_SS[:5, :5])
    refuses("nuisance RDM has shape", nuisance=model_SS[:5, :5])
    refuses("explain the model", nuisance=2 * model_SS + 1)
    refuses("nuisance models with comparator", nuisance=model_SS, comparator="kendall")
    refuses("Did you mean 'spearman'", comparator="spearmann")
    refuses("Unknown distance", distance="manhattan")
    refuses("closed forms", backend="torch", comparator="spearman")
    refuses("Unknown backend", backend="jax")
    refuses("block_size", block_size=0)
    X_SF[3, 2] = np.nan
    refuses("stimulus 3, feature 2")
