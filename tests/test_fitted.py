"""A fitted ensemble is what decoding fits, survives its file, and refuses to be used where it was not fitted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from neurosae import stimuli
from neurosae.decoding import decode, make_design
from neurosae.decoding.ensembles import LinearEnsemble
from neurosae.decoding.fitted import FittedEnsemble, check_fits, fit_ensemble
from neurosae.decoding.variants import Variant
from neurosae.errors import UserError
from neurosae.files import digest
from neurosae.models import LanguageModel
from neurosae.representations import Bench, Source
from neurosae.sites import Site
from neurosae.stimuli.contrasts import parse_contrast


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(stimuli.load("success"), Source())


def variant(representation: str = "sae", selector: str = "t", k: int = 5, pooling: str = "mean") -> Variant:
    return Variant(representation, selector, k, "logistic_l2", 15, pooling)


@pytest.mark.parametrize(("selector", "k"), [("t", 5), ("rsa_category", 3), ("random", 4), ("max_activation", 2)])
def test_it_is_the_full_fit_of_decoding(bench: Bench, selector: str, k: int) -> None:
    ensemble = fit_ensemble(bench, "success", variant("raw", selector, k))
    rows, is_target = bench.stimuli.contrast("success").labels(bench.stimuli.table)
    design = make_design(
        np.where(is_target > 0, 1, -1),
        bench.stimuli.groups()[rows],
        bench.stimuli.blocks("success", rows),
        bench.stimuli.design("success"),
        n_repeats=1,
        n_permutations=2,
    )
    X_SF = bench.pooled("raw", 15, "mean").dense()[rows]
    seed = int(digest([0, "raw", selector]), 16) % 2**31
    (expected,) = decode(X_SF, design, selector, [k], "logistic_l2", n_permutations=2, seed=seed)
    assert ensemble.features_K.tolist() == expected.full_features.tolist()
    np.testing.assert_array_equal(ensemble.weights_K, expected.full_weights)
    np.testing.assert_array_equal(ensemble.direction_K, expected.full_direction)


def test_decisions_are_those_of_the_scikit_learn_estimators(bench: Bench) -> None:
    rows, is_target = bench.stimuli.contrast("success").labels(bench.stimuli.table)
    X_SF = bench.pooled("raw", 15, "mean").dense()
    few = fit_ensemble(bench, "success", variant("raw", "auroc", 6))
    chosen = X_SF[:, few.features_K]
    peer = LinearEnsemble().fit(chosen[rows], is_target)
    np.testing.assert_allclose(few.decision(chosen), peer.decision_function(chosen), rtol=1e-9, atol=1e-9)
    components = fit_ensemble(bench, "success", variant("raw", "pca", 4))
    pipeline = make_pipeline(PCA(4, svd_solver="full"), LinearEnsemble()).fit(X_SF[rows], is_target)
    np.testing.assert_allclose(components.decision(X_SF), pipeline.decision_function(X_SF), rtol=1e-6, atol=1e-6)


def test_the_decision_is_larger_for_the_target(bench: Bench) -> None:
    ensemble = fit_ensemble(bench, "success", variant("raw", "all", 0))
    decision_S = ensemble.decision(bench.pooled("raw", 15, "mean").dense()[:, ensemble.features_K])
    is_target_S = (bench.stimuli.table["outcome"] == ensemble.target).to_numpy()
    assert ensemble.target == "success"
    assert decision_S[is_target_S].min() > 0 > decision_S[~is_target_S].max()


def test_only_training_rows_count(bench: Bench) -> None:
    train = np.arange(0, 60)
    ensemble = fit_ensemble(bench, "success", variant(), rows=train)
    table = bench.stimuli.table
    assert ensemble.train_ids == tuple(table["id"].iloc[train])
    alone = LinearEnsemble().fit(
        bench.pooled("sae", 15, "mean").dense()[train][:, ensemble.features_K],
        table["outcome"].iloc[train] == "success",
    )
    np.testing.assert_allclose(ensemble.weights_K, alone.coef_[0], rtol=1e-9, atol=1e-12)
    mask = np.zeros(len(table), dtype=bool)
    mask[train] = True
    np.testing.assert_array_equal(fit_ensemble(bench, "success", variant(), rows=mask).weights_K, ensemble.weights_K)


@pytest.mark.parametrize("pooling", ["mean", "max", "last", "prompt_end"])
def test_what_tokens_add_sums_to_the_decision(bench: Bench, pooling: str) -> None:
    ensemble = fit_ensemble(bench, "success", variant("sae", "t", 5, pooling))
    responses = bench.responses("sae", 15)
    pooled_SK = bench.pooled("sae", 15, pooling).dense()[:, ensemble.features_K]
    values_TK = ensemble.columns(responses)
    clean_T = responses.tokens["clean"].to_numpy(dtype=bool)
    for s in (0, 7, 100):
        owned_T = (responses.tokens["stimulus"] == s).to_numpy()
        used = np.flatnonzero(owned_T)[-1:] if pooling == "prompt_end" else np.flatnonzero(owned_T & clean_T)
        added_T = ensemble.token_contributions(values_TK[used], len(used))
        assert added_T.shape == (len(used),)
        expected = ensemble.decision(pooled_SK[[s]])[0]
        np.testing.assert_allclose(added_T.sum() + ensemble.intercept, expected, rtol=1e-6, atol=1e-6)


def test_a_file_gives_back_the_very_same(bench: Bench, tmp_path: Path) -> None:
    for each in (variant("sae", "t"), variant("raw", "pca"), variant("untrained_sae"), variant("embeddings")):
        ensemble = fit_ensemble(bench, "success", each)
        ensemble.save(tmp_path / "e.json")
        again = FittedEnsemble.load(tmp_path / "e.json")
        for name, value in vars(ensemble).items():
            np.testing.assert_equal(getattr(again, name), value, err_msg=name)
            assert type(getattr(again, name)) is type(value)
        check_fits(again, bench, ensemble.site)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 9}', "{"])
def test_a_broken_file_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "e.json").write_text(content)
    with pytest.raises(UserError, match="holds no fitted ensemble"):
        FittedEnsemble.load(tmp_path / "e.json")


def test_a_file_with_a_weight_missing_is_told(bench: Bench, tmp_path: Path) -> None:
    ensemble = fit_ensemble(bench, "success", variant())
    replace(ensemble, weights_K=ensemble.weights_K[1:]).save(tmp_path / "e.json")
    with pytest.raises(UserError, match="differ in length"):
        FittedEnsemble.load(tmp_path / "e.json")


@pytest.mark.parametrize("name", ["weights_K", "scale_K", "mean_K"])
def test_a_file_with_a_number_that_is_none_is_told(bench: Bench, tmp_path: Path, name: str) -> None:
    ensemble = fit_ensemble(bench, "success", variant())
    replace(ensemble, **{name: np.full(5, np.nan)}).save(tmp_path / "e.json")
    with pytest.raises(UserError, match=f"{name} or the intercept is not finite"):
        FittedEnsemble.load(tmp_path / "e.json")


def test_latents_exist_at_the_site_of_their_sae_only(bench: Bench) -> None:
    for representation in ("sae", "untrained_sae"):
        with pytest.raises(UserError, match=r"exist at blocks.15.hook_resid_post, not at blocks.3"):
            fit_ensemble(bench, "success", replace(variant(representation), block=3))


def test_another_model_site_or_sae_is_refused(bench: Bench, language_model: LanguageModel) -> None:
    ensemble = fit_ensemble(bench, "success", variant())
    check_fits(ensemble, language_model, Site(15))
    check_fits(ensemble, Bench(stimuli.load("valence"), Source(batch_size=8)), Site(15))
    with pytest.raises(UserError, match="not at blocks"):
        check_fits(ensemble, bench, Site(14))
    with pytest.raises(UserError, match=r"float32\), not on .*bfloat16"):
        check_fits(ensemble, Bench(bench.stimuli, Source(dtype="bfloat16")))
    with pytest.raises(UserError, match="not on gpt2"):
        check_fits(ensemble, Bench(bench.stimuli, Source(model="gpt2")))
    with pytest.raises(UserError, match="reads latents"):
        check_fits(replace(ensemble, sae_identity="0" * 16), bench)
    with pytest.raises(UserError, match="was fitted on"):
        check_fits(replace(ensemble, model=ensemble.model | {"fingerprint": "0"}), language_model)
    with pytest.raises(UserError, match="the responses are of"):
        ensemble.columns(replace(bench.neurons(Site(15)), site="blocks.3.hook_resid_post"))
    control = fit_ensemble(bench, "success", variant("untrained_sae"))
    with pytest.raises(UserError, match="reads latents of untrained0"):  # its threshold is that of these stimuli
        check_fits(control, Bench(stimuli.load("valence"), Source()))


def test_bad_input_is_told(bench: Bench) -> None:
    ensemble = fit_ensemble(bench, "success", variant())
    with pytest.raises(UserError, match="no site"):
        fit_ensemble(bench, "success", variant("bag_of_words"))
    with pytest.raises(UserError, match="k is 577"):
        fit_ensemble(bench, "success", variant("raw", "t", 577))
    with pytest.raises(UserError, match="principal components"):
        fit_ensemble(bench, "success", variant("raw", "pca", 500))
    with pytest.raises(UserError, match="Unknown contrast"):
        fit_ensemble(bench, "sucess", variant())
    with pytest.raises(UserError, match="no rows of the stimulus table"):
        fit_ensemble(bench, "success", variant(), rows=[10_000])
    with pytest.raises(UserError, match=r"only one class|condition|side"):
        fit_ensemble(bench, "success", variant("raw", "all", 0), rows=[0, 2, 4])
    with pytest.raises(UserError, match="ensemble of 5 features"):
        ensemble.decision(np.zeros((2, 4)))
    with pytest.raises(UserError, match=f"Row 1 of feature {ensemble.features_K[2]} is nan"):
        ensemble.decision(np.where(np.arange(10).reshape(2, 5) == 7, np.nan, 0.0))
    with pytest.raises(UserError, match="n_tokens is 0"):
        ensemble.token_contributions(np.zeros((2, 5)), 0)


def test_the_target_is_the_level_that_weighs_above_zero() -> None:
    factors = {"f": ["a", "b", "c"], "g": ["x", "y"]}
    assert parse_contrast("b - a", factors).target == "b"
    assert parse_contrast("0.5 * a + 0.5 * b - c", factors).target == "0.5 * a + 0.5 * b - c"
    assert parse_contrast("(a - b) * (x - y)", factors).target == "(a - b) * (x - y)"
