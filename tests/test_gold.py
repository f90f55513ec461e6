"""The gold corpus is as promised, and retrieval against it agrees with scikit-learn and with chance."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, cohen_kappa_score, ndcg_score

from neurosae import stimuli
from neurosae.discovery import gold
from neurosae.discovery.ranking import (
    average_precision,
    chance_average_precision,
    chance_ndcg,
    compare,
    ndcg,
    retrieval,
)
from neurosae.errors import UserError
from neurosae.inference.bootstrap import resampling_weights

FOLDER = Path(gold.__file__).parents[2] / "stimuli" / "gold"
RANKED = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), min_size=2, max_size=30).filter(
    lambda pairs: any(grade >= 2 for _, grade in pairs)
)


@pytest.fixture(scope="module")
def corpus() -> gold.GoldCorpus:
    return gold.load()


def test_the_corpus_is_as_promised(corpus: gold.GoldCorpus) -> None:
    table = corpus.table
    assert len(table) >= 1200
    assert table["text"].str.lower().str.strip().is_unique
    assert table["register"].nunique() == 5
    assert table["hard_negative"].mean() >= 1 / 3
    assert len(corpus.graders) == len(table) * len(corpus.concepts)
    prevalence = corpus.prevalence()
    assert (prevalence[[f"grade_{grade}" for grade in range(4)]].sum(axis=1) == len(table)).all()
    assert (prevalence["grade_3"] >= 30).all()
    assert not set(table["text"]) & {t for name in stimuli.available() for t in stimuli.load(name).table["text"]}


def test_agreement_is_scikit_learns_kappa(corpus: gold.GoldCorpus) -> None:
    found = corpus.agreement(n=200).set_index("concept")
    for concept, both in corpus.graders.groupby("concept"):
        kappa = cohen_kappa_score(both["first"], both["second"], weights="quadratic")
        assert found.loc[concept, "kappa"] == pytest.approx(kappa, abs=1e-12)
        assert found.loc[concept, "low"] < kappa < found.loc[concept, "high"]
    assert (found["low"] > 0.8).all()


def test_graders_who_never_vary_have_no_kappa() -> None:
    assert np.isnan(gold.weighted_kappa(np.zeros(5), np.zeros(5), np.ones((1, 5)))).all()


def test_every_built_in_set_leads_to_its_grades(corpus: gold.GoldCorpus) -> None:
    for name, concept in gold.OF_STIMULI.items():
        chosen = stimuli.load(name)
        assert gold.concept_of(chosen.name, chosen.target) == concept
        assert concept in corpus.concepts
        others = [c.target for c in chosen.contrasts.values() if c.target != chosen.target]
        for level in others:
            with pytest.raises(UserError, match="no grades for"):
                gold.concept_of(chosen.name, level)
    with pytest.raises(UserError, match="no grades for"):
        gold.concept_of("patience", "patience")
    with pytest.raises(UserError, match="Did you mean 'success'"):
        corpus.grades("sucess")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.head(1000), "Only 1000"),
        (lambda t: t.assign(text=t["text"].where(t.index != 5, t["text"][4])), "twice"),
        (lambda t: t.assign(text=t["text"].where(t.index != 5, " ")), "row 7: 'text' is empty"),
        (lambda t: t.assign(success=t["success"].where(t.index != 5, 4)), "'success' of g0006 is '4'"),
        (lambda t: t.assign(success=t["success"].where(t.index != 5, 3)), "g0006 for 'success' do not match"),
        (lambda t: t.drop(columns="positive"), "no column 'positive'"),
    ],
)
def test_a_damaged_corpus_is_told(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    folder = shutil.copytree(FOLDER, tmp_path / "gold")
    change(pd.read_csv(folder / "corpus.csv", keep_default_na=False)).to_csv(folder / "corpus.csv", index=False)
    with pytest.raises(UserError, match=message):
        gold.load(folder)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no gold corpus"):
        gold.load(tmp_path)
    shutil.copy(FOLDER / "corpus.csv", tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        gold.load(tmp_path)


@given(RANKED)
@settings(max_examples=50)
def test_metrics_are_scikit_learns_with_ties(pairs: list[tuple[int, int]]) -> None:
    scores_S, grades_S = np.array(pairs, dtype=float).T
    assert average_precision(scores_S, grades_S)[0] == pytest.approx(average_precision_score(grades_S >= 2, scores_S))
    for k in (1, 3, None):
        assert ndcg(scores_S, grades_S, k=k)[0] == pytest.approx(ndcg_score([grades_S], [scores_S], k=k))


@given(RANKED, st.data())
@settings(max_examples=50)
def test_a_weight_is_a_repetition(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    scores_S, grades_S = np.array(pairs, dtype=float).T
    counts_S = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs))))
    again_S, graded_S = np.repeat(scores_S, counts_S), np.repeat(grades_S, counts_S)
    for metric, k in ((average_precision, {}), (ndcg, {"k": 2}), (ndcg, {})):
        weighted = metric(scores_S, grades_S, counts_S[None], **k)[0]
        if (graded_S >= 2).any():
            assert weighted == pytest.approx(metric(again_S, graded_S, **k)[0])
    if not (graded_S >= 2).any():
        assert np.isnan(average_precision(scores_S, grades_S, counts_S[None])[0])


@given(RANKED, st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_order_of_texts_and_scale_of_scores_do_not_matter(pairs: list[tuple[int, int]], seed: int) -> None:
    scores_S, grades_S = np.array(pairs, dtype=float).T
    order = np.random.default_rng(seed).permutation(len(pairs))
    for metric in (average_precision, ndcg):
        expected = metric(scores_S, grades_S)[0]
        assert metric(scores_S[order], grades_S[order])[0] == pytest.approx(expected)
        assert metric(7 * scores_S + 2, grades_S)[0] == pytest.approx(expected)


@pytest.mark.parametrize("grades", [(3, 0, 0, 0, 0), (2, 3, 1, 0, 0), (3, 3, 2, 2, 1), (2, 2, 2, 2, 2)])
def test_chance_is_the_mean_over_every_order(grades: tuple[int, ...]) -> None:
    orders = [np.array(order, dtype=float) for order in itertools.permutations(range(len(grades)))]
    precision = np.mean([average_precision(order, grades)[0] for order in orders])
    assert chance_average_precision(grades) == pytest.approx(precision)
    for k in (1, 3, None):
        assert chance_ndcg(grades, k) == pytest.approx(np.mean([ndcg(order, grades, k=k)[0] for order in orders]))


def test_intervals_are_those_of_a_loop_over_resamples() -> None:
    rng = np.random.default_rng(1)
    grades_S = rng.integers(0, 4, 60)
    scores_S, others_S = grades_S + rng.normal(size=60), rng.normal(size=60)
    found = compare(scores_S, others_S, grades_S, n=50, seed=3, method="percentile", cuts=(5,))
    assert found.table["metric"].tolist() == ["average_precision", "ndcg@5", "ndcg"]
    expected = []
    for counts_S in resampling_weights(np.arange(60), 50, 3):
        rows = np.repeat(np.arange(60), counts_S)
        expected.append(
            average_precision_score(grades_S[rows] >= 2, scores_S[rows])
            - average_precision_score(grades_S[rows] >= 2, others_S[rows])
        )
    np.testing.assert_allclose(found.draws["average_precision"], expected, atol=1e-12)
    np.testing.assert_allclose(found.table[["low", "high"]].iloc[0], np.quantile(expected, [0.025, 0.975]))
    single = retrieval(scores_S, grades_S, n=50, seed=3).draws - retrieval(others_S, grades_S, n=50, seed=3).draws
    np.testing.assert_allclose(single["ndcg"], found.draws["ndcg"], atol=1e-12)
    longer = retrieval(scores_S, grades_S, n=80, seed=3).draws["ndcg"][:50]
    np.testing.assert_array_equal(longer, retrieval(scores_S, grades_S, n=50, seed=3).draws["ndcg"])


def test_a_perfect_ranking_is_perfect_and_a_random_one_is_chance() -> None:
    grades_S = np.repeat([0, 0, 0, 1, 2, 3], 20)
    perfect = retrieval(grades_S, grades_S, n=100).table
    assert (perfect["value"] == 1).all()
    assert (perfect["chance"] < 0.9).all()
    rng = np.random.default_rng(0)
    drawn = [retrieval(rng.normal(size=120), grades_S, n=100, method="percentile").table for _ in range(40)]
    inside = sum((t["low"] <= t["chance"])[0] for t in drawn)  # above chance by luck: 2.5 % expected
    assert inside >= 35


@pytest.mark.parametrize(
    ("scores", "grades", "message"),
    [
        ([1.0, np.nan] + [0.0] * 8, [3] * 10, "Text 1 has no finite score"),
        ([1.0] * 9, [3] * 10, "shape"),
        ([1.0] * 10, [4] * 10, "Grades must be"),
        ([1.0] * 10, [1] * 10, "nothing to retrieve"),
        ([1.0] * 5, [3] * 5, "5 groups"),
        ([], [], "nothing to retrieve"),
    ],
)
def test_bad_input_is_told(scores: list[float], grades: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        retrieval(scores, grades, n=20)
    with pytest.raises(UserError, match="k is 0"):
        ndcg([1.0], [3], k=0)
