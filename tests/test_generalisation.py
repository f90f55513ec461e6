"""Transfer against a naive loop of scikit-learn pipelines and the cross-validation of `decode`; planted truth."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neurosae import stimuli
from neurosae.capture import capture
from neurosae.decoding import Design, decode, make_design, make_folds
from neurosae.decoding.generalisation import (
    block_transfer,
    cross_decode,
    crossed_factors,
    crossed_levels,
    shuffled_like,
)
from neurosae.errors import UserError
from neurosae.models import LanguageModel, surprisal, untrained_like
from neurosae.responses import Responses
from neurosae.sae.loading import load
from neurosae.sites import Site

SCORES = ["auroc", "balanced_accuracy"]


def crossed(n_families: int = 12, n_features: int = 20, **options: int) -> tuple[np.ndarray, Design, np.ndarray]:
    """Noise responses of families with both conditions at both levels, in random order."""
    rng = np.random.default_rng(2)
    order = rng.permutation(4 * n_families)
    family_S = np.repeat(np.arange(n_families), 4)[order]
    label_S, level_S = np.tile([1, -1, 1, -1], n_families)[order], np.tile(list("aabb"), n_families)[order]
    block_S = 2 * family_S + (level_S == "b")
    settings = {"n_splits": 4, "n_repeats": 2, "n_permutations": 20} | options
    design = make_design(label_S, family_S, block_S, "families", **settings)
    return rng.normal(size=(4 * n_families, n_features)), design, level_S


def as_responses(X_SF: np.ndarray, site: Site, features: str = "neurons") -> Responses:
    """Responses with one clean token per stimulus."""
    n = len(X_SF)
    tokens = pd.DataFrame({"stimulus": np.arange(n), "clean": True, "target": False, "role": "text"})
    return Responses(X_SF, tokens, pd.DataFrame({"text": ["x"] * n}), str(site), {"features": features})


def naive(X_SF: np.ndarray, design: Design, train_S: np.ndarray, test_S: np.ndarray, X_test: np.ndarray) -> list[float]:
    """Both scores of one fold: |paired t| on training stimuli, then a scikit-learn pipeline of the three best."""
    y_S, block_S = design.labels_S, design.blocks_S
    a, b = (np.flatnonzero(train_S & (y_S == side)) for side in (1, -1))
    a, b = a[np.argsort(block_S[a])], b[np.argsort(block_S[b])]
    best = np.argsort(-np.abs(stats.ttest_rel(X_SF[a], X_SF[b]).statistic))[:3]
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-12, solver="newton-cholesky"))
    decision_N = model.fit(X_SF[train_S][:, best], y_S[train_S]).decision_function(X_test[test_S][:, best])
    return [roc_auc_score(y_S[test_S], decision_N), balanced_accuracy_score(y_S[test_S], np.sign(decision_N))]


def test_cross_decoding_is_a_loop_of_scikit_learn_over_levels_and_folds() -> None:
    X_SF, design, level_S = crossed()
    X_SF[:, :3] += 0.7 * design.labels_S[:, None]
    cells = cross_decode(X_SF, design, level_S, k=3, seed=5).cells.set_index(["train", "test"])
    strata_S = 2 * (level_S == "b") + (design.labels_S > 0)
    folds_RS = make_folds(strata_S, design.groups_S, 4, 2, 5)
    for train, test in itertools.product("ab", repeat=2):
        expected = [
            naive(X_SF, design, (folds_S != fold) & (level_S == train), (folds_S == fold) & (level_S == test), X_SF)
            for folds_S in folds_RS
            for fold in range(4)
        ]
        np.testing.assert_allclose(cells.loc[(train, test), SCORES].astype(float), np.mean(expected, axis=0))
        assert cells.loc[(train, test), ["n_train", "n_test"]].tolist() == [18, 24]


def test_block_transfer_is_a_loop_of_scikit_learn_over_blocks_and_folds() -> None:
    X_SF, design, _ = crossed()
    noise = np.random.default_rng(0).normal(size=X_SF.shape)
    of_block = {Site(3): X_SF + design.labels_S[:, None] * (np.arange(20) < 3), Site(7): 2 * X_SF + noise + 5}
    responses = {site: as_responses(table, site) for site, table in of_block.items()}
    cells = block_transfer(responses, np.arange(48), design, k=3).cells.set_index(["train", "test"])
    for train, test in itertools.product((3, 7), repeat=2):
        expected = [
            naive(of_block[Site(train)], design, folds_S != fold, folds_S == fold, of_block[Site(test)])
            for folds_S in design.folds_RS
            for fold in range(4)
        ]
        np.testing.assert_allclose(cells.loc[(train, test), SCORES].astype(float), np.mean(expected, axis=0))


def test_a_block_tested_on_itself_is_ordinary_decoding() -> None:
    """Interval, permutation p and chance band come from another implementation here."""
    X_SF, design, _ = crossed(n_permutations=100)
    X_SF[:, 0] += design.labels_S
    responses = {site: as_responses(X_SF, site) for site in (Site(1), Site(2))}
    found = block_transfer(responses, np.arange(48), design, k=4)
    (expected,) = decode(X_SF, design, "t", [4], "logistic_l2")
    for metric in SCORES:
        held_out = getattr(expected, metric)
        columns = [metric, *(f"{metric}_{end}" for end in ("ci_low", "ci_high", "p", "chance_low", "chance_high"))]
        values = [getattr(held_out, name) for name in ("mean", "ci_low", "ci_high", "p", "chance_low", "chance_high")]
        np.testing.assert_allclose(found.cells[columns], np.tile(values, (4, 1)))
    summary = found.summary.set_index("contexts")
    np.testing.assert_allclose(summary.loc[["same", "other"], "auroc"], expected.auroc.mean)
    assert summary.loc["difference", ["auroc", "ci_low", "ci_high", "p"]].tolist() == [0, 0, 0, 1]


def test_a_code_that_turns_around_at_the_other_level_does_not_generalise() -> None:
    X_SF, design, level_S = crossed(20)
    X_SF[:, 0] += 4 * design.labels_S * np.where(level_S == "a", 1, -1)
    found = cross_decode(X_SF, design, level_S, k=1)
    assert found.cells["auroc"].round(1).tolist() == [1, 0, 0, 1]
    assert found.cells["auroc_p"].tolist() == [found.smallest_p, 1, 1, found.smallest_p]
    summary = found.summary.set_index("contexts")
    assert summary.loc["difference", "auroc"] > 0.9
    assert summary.loc["difference", "p"] < 1e-6
    X_SF[:, 1] += 4 * design.labels_S
    X_SF[:, 0] = 0
    assert (cross_decode(X_SF, design, level_S, k=1).cells["auroc"] > 0.9).all()


def test_a_shift_between_contexts_costs_accuracy_and_no_auroc() -> None:
    X_SF, design, _ = crossed(20)
    X_SF[:, 0] += 4 * design.labels_S
    responses = {Site(b): as_responses(X_SF + 100 * b, Site(b)) for b in (0, 1)}
    cells = block_transfer(responses, np.arange(80), design, k=1).cells
    np.testing.assert_allclose(cells["auroc"], cells["auroc"][0])
    assert cells["balanced_accuracy"].round(1).tolist() == [1, 0.5, 0.5, 1]


def test_selection_sees_no_held_out_stimulus() -> None:
    """Among 2,000 features of noise, some separate 40 stimuli well; a selection on all stimuli would find them."""
    found = []
    for seed in range(8):
        _, design, level_S = crossed(10, 1)
        X_SF = np.random.default_rng([1, seed]).normal(size=(40, 2000))
        found.append(cross_decode(X_SF, design, level_S, k=4, seed=seed).summary["auroc"][:2])
        circular_F = np.abs(stats.ttest_ind(X_SF[design.labels_S > 0], X_SF[design.labels_S < 0]).statistic)
        best = np.argsort(-circular_F)[:4]
        assert cross_decode(X_SF[:, best], design, level_S, k=4, seed=seed).summary["auroc"][1] > 0.7
    assert np.abs(np.mean(found, axis=0) - 0.5).max() < 0.08


def test_no_group_is_on_both_sides_in_other_levels_either() -> None:
    """Each family has its own fingerprint with its own random sign: only a leak through the family could use it."""
    _, design, level_S = crossed(16, 1)
    rng = np.random.default_rng(0)
    fingerprint = np.eye(16)[design.groups_S] * rng.choice([1, -1], 16)[design.groups_S][:, None]
    X_SF = 5 * fingerprint * design.labels_S[:, None] + 1e-3 * rng.normal(size=(64, 16))
    held_in = replace(design, groups_S=np.arange(64))
    assert cross_decode(X_SF, held_in, level_S, k=16, ensemble="mean_difference").summary["auroc"][1] > 0.9
    assert cross_decode(X_SF, design, level_S, k=16, ensemble="mean_difference").summary["auroc"][1] < 0.75


def test_chance_is_rarely_significant() -> None:
    hits, n_sets = 0, 60
    for seed in range(n_sets):
        _, design, level_S = crossed(8, 1, n_permutations=19, n_repeats=1, seed=seed)
        X_SF = np.random.default_rng([3, seed]).normal(size=(32, 3)) @ np.random.default_rng(seed).normal(size=(3, 12))
        hits += cross_decode(X_SF, design, level_S, k=2, seed=seed).summary["p"][1] <= 0.05
    assert stats.binomtest(hits, n_sets, 0.05, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize("selector", ["t", "random", "rsa_discriminative"])
def test_block_size_sparsity_and_repetition_change_nothing(selector: str) -> None:
    X_SF, design, level_S = crossed()
    first = cross_decode(X_SF, design, level_S, selector=selector, k=3)
    for table, size in ((sparse.csr_array(X_SF), 256), (X_SF, 3)):
        other = cross_decode(table, design, level_S, selector=selector, k=3, block_size=size)
        pd.testing.assert_frame_equal(first.cells, other.cells, rtol=1e-10)
        pd.testing.assert_frame_equal(first.summary, other.summary, rtol=1e-10)


def test_the_names_of_features_do_not_matter() -> None:
    X_SF, design, level_S = crossed()
    order = np.random.default_rng(0).permutation(20)
    pd.testing.assert_frame_equal(
        cross_decode(X_SF, design, level_S, k=3).cells, cross_decode(X_SF[:, order], design, level_S, k=3).cells
    )


def test_features_that_a_training_set_cannot_rank_are_counted() -> None:
    """Silent at level a, they are invalid there; at level b nothing is wrong with them."""
    X_SF, design, level_S = crossed()
    X_SF[np.ix_(level_S == "a", np.arange(17))] = 0
    found = cross_decode(X_SF, design, level_S, k=5)
    assert found.cells["n_valid"].tolist() == [3, 3, 20, 20]
    for size in (1, 7):
        np.testing.assert_array_equal(cross_decode(X_SF, design, level_S, k=5, block_size=size).cells["n_valid"],
                                      found.cells["n_valid"])  # fmt: skip


def test_three_levels_that_share_no_group() -> None:
    """Domains: every family lies in one; training sets are as large in every cell."""
    rng = np.random.default_rng(0)
    pair_S, label_S = np.repeat(np.arange(18), 2), np.tile([1, -1], 18)
    design = make_design(label_S, pair_S, pair_S, "pairs", n_splits=3, n_repeats=2, n_permutations=20)
    domain_S = np.repeat(["law", "sport", "art"], 12)
    cells = cross_decode(rng.normal(size=(36, 5)) + 3 * label_S[:, None], design, domain_S, k=2).cells
    assert list(zip(cells["train"], cells["test"], strict=True)) == [
        *itertools.product(["art", "law", "sport"], repeat=2)
    ]
    assert (cells["n_train"] == 8).all()
    assert (cells["n_test"] == 12).all()
    assert (cells["auroc"] > 0.9).all()


def test_bad_input_of_cross_decoding() -> None:
    X_SF, design, level_S = crossed()
    with pytest.raises(UserError, match="one level only, 'a'"):
        cross_decode(X_SF, design, np.full(48, "a"))
    rare_S = np.where(design.groups_S < 3, level_S, "a")
    with pytest.raises(UserError, match="Level 'b' has 3 groups of stimuli in a condition, fewer than 4 folds"):
        cross_decode(X_SF, design, rare_S)
    with pytest.raises(UserError, match="levels of shape"):
        cross_decode(X_SF, design, level_S[1:])
    with pytest.raises(UserError, match=r"Unknown selector 'auroca'.*auroc"):
        cross_decode(X_SF, design, level_S, selector="auroca")
    with pytest.raises(UserError, match="Unknown selector"):
        cross_decode(X_SF, design, level_S, selector="rsa_category_profile")
    with pytest.raises(UserError, match="Unknown ensemble"):
        cross_decode(X_SF, design, level_S, ensemble="svm")
    with pytest.raises(UserError, match="k is 21"):
        cross_decode(X_SF, design, level_S, k=21)
    with pytest.raises(UserError, match="Responses of shape"):
        cross_decode(X_SF[1:], design, level_S)
    with pytest.raises(UserError, match="Stimulus 3 has no level"):
        cross_decode(X_SF, design, np.where(np.arange(48) == 3, None, level_S))
    with pytest.raises(UserError, match="block_size = 0"):
        cross_decode(X_SF, design, level_S, block_size=0)
    with pytest.raises(UserError, match="seed = -1"):
        block_transfer({Site(b): as_responses(X_SF, Site(b)) for b in (1, 2)}, np.arange(48), design, seed=-1)
    X_SF[5, 7] = np.inf
    with pytest.raises(UserError, match="stimulus 5, feature 7: the response is inf"):
        cross_decode(X_SF, design, level_S)


def test_bad_input_of_block_transfer() -> None:
    X_SF, design, _ = crossed()
    rows = np.arange(48)

    def transfer(*sites: Site, features: str = "neurons") -> None:
        block_transfer({site: as_responses(X_SF, site, features) for site in sites}, rows, design)

    with pytest.raises(UserError, match="holds latents: only neurons"):
        transfer(Site(1), Site(2), features="latents")
    with pytest.raises(UserError, match="two blocks or more"):
        transfer(Site(1))
    with pytest.raises(UserError, match="one residual stream"):
        transfer(Site(1), Site(2, "resid_pre"))
    with pytest.raises(UserError, match="one residual stream"):
        transfer(Site(1, "mlp_out"), Site(2, "mlp_out"))
    responses = {site: as_responses(X_SF, site) for site in (Site(1), Site(2))}
    for wrong in (np.ones(48, dtype=bool), np.arange(48) + 1, np.arange(40)):
        with pytest.raises(UserError, match=r"rows: .*a row of the stimulus table, 0 to 47, for each of 48 labels"):
            block_transfer(responses, wrong, design)
    with pytest.raises(UserError, match="differ in their stimuli or in the number of their features"):
        block_transfer(responses | {Site(3): as_responses(X_SF[:, :9], Site(3))}, rows, design)
    with pytest.raises(UserError, match="the first is row 0: no clean token in a target span"):
        block_transfer(responses, rows, design, pooling="target")


def test_crossed_factors_are_those_the_contrast_leaves_open() -> None:
    valence = stimuli.load("valence")
    assert crossed_factors(valence, "factuality") == ("emotion",)
    assert crossed_factors(valence, "interaction") == ()
    level_S = crossed_levels(valence, "emotion", "factuality")
    assert level_S.tolist() == valence.table["emotion"].tolist()
    assert len(set(crossed_levels(valence, "domain", "valence"))) == 6
    with pytest.raises(UserError, match=r"Unknown crossed factor 'factualty'.*Did you mean 'factuality'"):
        crossed_levels(valence, "factualty", "valence")
    with pytest.raises(UserError, match="Unknown crossed factor 'emotion'"):
        crossed_levels(valence, "emotion", "valence")
    with pytest.raises(UserError, match="stimuli have no wording"):
        crossed_levels(valence, "wording", "valence")


@pytest.fixture(scope="module")
def sample_TD(language_model: LanguageModel) -> torch.Tensor:
    texts = stimuli.load("continuation").table["text"].tolist()[:30]
    responses = capture(language_model, texts, [Site(15)])[Site(15)]
    clean_TD = responses.values[responses.tokens["clean"].to_numpy(dtype=bool)]
    first = np.unique(clean_TD.round(2), axis=0, return_index=True)[1]  # texts that begin alike are alike there
    return torch.from_numpy(clean_TD[np.sort(first)])


def test_a_shuffled_sae_keeps_weights_norms_and_firing_rates_of_every_latent(sample_TD: torch.Tensor) -> None:
    trained: Any = load()
    control = shuffled_like(trained, sample_TD, seed=1)
    before, after = trained.W_enc.detach().numpy(), control.W_enc.detach().numpy()
    np.testing.assert_array_equal(np.sort(before, axis=0), np.sort(after, axis=0))
    assert (before == after).mean() < 0.01
    fires_2F = []
    for sae in (trained, control):
        with torch.inference_mode():
            fires_2F.append((sae.encode(sample_TD) > 0).sum(dim=0).numpy())
    positive_F = control.threshold.detach().numpy() > 0
    assert positive_F.mean() > 0.95
    # a token at the threshold may fall on either side in another order of summation
    assert np.abs(fires_2F[0] - fires_2F[1])[positive_F].max() <= 1
    assert (fires_2F[0] == fires_2F[1])[positive_F].mean() > 0.9
    again, other = (shuffled_like(trained, sample_TD, seed=seed) for seed in (1, 2))
    assert torch.equal(again.W_enc, control.W_enc)
    assert not torch.equal(other.W_enc, control.W_enc)


def test_an_untrained_model_knows_nothing(language_model: LanguageModel) -> None:
    state = torch.random.get_rng_state()
    control = untrained_like(language_model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert control.fingerprint != language_model.fingerprint
    trained, fresh = language_model.plain.state_dict(), control.plain.state_dict()
    assert {name: tensor.shape for name, tensor in fresh.items()} == {n: t.shape for n, t in trained.items()}
    texts = ["The bridge held while the trucks crossed.", "Nobody knew why."]
    assert control.token_ids(texts) == language_model.token_ids(texts)
    uniform = math.log(len(language_model.tokenizer))
    assert np.abs(surprisal(control, texts) - uniform).max() < 0.5
    assert surprisal(language_model, texts).max() < uniform - 3
    heard = capture(control, texts, [Site(0), Site(15)])
    assert np.isfinite(heard[Site(15)].values).all()
    weights = {parameter.data_ptr() for parameter in control.plain.parameters()}
    assert weights <= {parameter.data_ptr() for parameter in control.bridge.original_model.parameters()}


@pytest.mark.slow
def test_the_weights_of_an_untrained_model_depend_on_the_seed(language_model: LanguageModel) -> None:
    first, again, other = (untrained_like(language_model, seed).fingerprint for seed in (0, 0, 1))
    assert first == again != other
