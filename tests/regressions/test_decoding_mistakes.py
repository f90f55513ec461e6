"""Mistakes 5 and 6 of the original: circular selection; pairs treated as independent samples and split over folds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from neurosae.decoding import decode, make_design
from neurosae.decoding.selection import SELECTORS, scores, top_k
from neurosae.inference import arrangements, permutation_p

N_PAIRS, N_FEATURES, N_WINDOW = 30, 200, 8
PAIR_S = np.repeat(np.arange(N_PAIRS), 2)
LABELS_S = np.tile([1, -1], N_PAIRS).astype(np.int8)
METHODS = [*SELECTORS, "pca", "all"]


@pytest.fixture(scope="module")
def noise() -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    profiles_SWF = rng.normal(size=(2 * N_PAIRS, N_WINDOW, N_FEATURES))
    return profiles_SWF.mean(axis=1), (profiles_SWF, np.ones((2 * N_PAIRS, N_WINDOW), dtype=bool))


def test_mistake_5_selection_on_all_data_finds_a_concept_in_noise(noise: tuple) -> None:
    X_SF, _ = noise
    chosen = top_k(scores("t", X_SF, LABELS_S, blocks_S=PAIR_S), 8)
    design = make_design(LABELS_S, PAIR_S, PAIR_S, "pairs", n_repeats=2)
    circular = decode(X_SF[:, chosen], design, "all", [], "logistic_l2", n_permutations=0)[0]
    honest = decode(X_SF, design, "t", [8], "logistic_l2", n_permutations=100)[0]
    assert circular.auroc.mean > 0.7
    assert circular.balanced_accuracy.mean > 0.7
    assert honest.auroc.chance_low < honest.auroc.mean < honest.auroc.chance_high


LONG = ("rsa_discriminative_profile", "rsa_categorical_profile")  # the third profile selector stands for these
CHECKED = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in METHODS]


@pytest.mark.parametrize("selector", CHECKED)
def test_mistake_5_every_selector_is_at_chance_under_permutation(selector: str, noise: tuple) -> None:
    X_SF, profiles = noise
    design = make_design(LABELS_S, PAIR_S, PAIR_S, "pairs", n_repeats=2)
    result = decode(X_SF, design, selector, [4], "logistic_l2", profiles=profiles)[0]
    for outcome in (result.auroc, result.balanced_accuracy):
        # permutations are independent and their held-out scores have mean 1/2: t bound, Bonferroni over the checks
        bound = stats.t.ppf(1 - 0.005 / (2 * len(METHODS)), 99) * outcome.null_B.std(ddof=1) / 10
        assert len(outcome.null_B) == 100
        assert abs(outcome.null_B.mean() - 0.5) <= bound


def test_mistake_5_a_permuted_cross_validation_has_spread(noise: tuple) -> None:
    X_SF, _ = noise
    design = make_design(LABELS_S, PAIR_S, PAIR_S, "pairs", n_repeats=2)
    outcome = decode(X_SF, design, "t", [4], "logistic_l2")[0].auroc
    assert outcome.chance_high - outcome.chance_low > 0.1  # one run on permuted labels says little


def test_mistake_6_pairs_over_folds_fall_below_chance_and_are_never_split() -> None:
    rng = np.random.default_rng(1)
    # twins: the two stimuli of a pair differ in hardly anything, and in nothing that goes with the labels
    X_SF = np.repeat(rng.normal(size=(N_PAIRS, 40)), 2, axis=0) + 0.1 * rng.normal(size=(2 * N_PAIRS, 40))
    split = StratifiedKFold(5, shuffle=True, random_state=0)
    leaking = cross_val_predict(LogisticRegression(), X_SF, LABELS_S, cv=split, method="decision_function")
    assert roc_auc_score(LABELS_S, leaking) < 0.4
    design = make_design(LABELS_S, PAIR_S, PAIR_S, "pairs", n_repeats=20)
    assert np.array_equal(design.folds_RS[:, ::2], design.folds_RS[:, 1::2])
    for fold_S in design.folds_RS:
        for fold in range(5):
            assert not np.isin(PAIR_S[fold_S == fold], PAIR_S[fold_S != fold]).any()
    kept = decode(X_SF, design, "all", [], "logistic_l2")[0]
    assert kept.auroc.chance_low < kept.auroc.mean < kept.auroc.chance_high
    assert abs(kept.auroc.null_B.mean() - 0.5) < 0.05


def test_mistake_6_p_is_never_zero_and_draws_stay_within_pairs() -> None:
    rows_BS = arrangements(LABELS_S, PAIR_S, 99, 0, "pairs")
    assert (rows_BS[:, ::2] == -rows_BS[:, 1::2]).all()
    effect_S = LABELS_S * 100.0
    assert permutation_p(LABELS_S @ effect_S, rows_BS @ effect_S) == 0.01
