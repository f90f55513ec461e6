"""Mistake 7 of the original study: the corpus was ranked for the wrong condition, in the wrong unit, on known text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neurosae import stimuli
from neurosae.decoding.fitted import FittedEnsemble, fit_ensemble
from neurosae.decoding.variants import Variant
from neurosae.discovery.search import Discovery, discover
from neurosae.models import LanguageModel
from neurosae.representations import Bench, Source
from neurosae.stimuli.contrasts import parse_contrast

PARAGRAPH = "Last year she won the gold medal in Oslo. The train to Bergen was late again. He failed the exam twice."


@pytest.fixture(scope="module")
def bench(language_model: LanguageModel) -> Bench:
    bench = Bench(stimuli.load("success"), Source())
    bench._language_model = language_model
    return bench


@pytest.fixture(scope="module")
def ensemble(bench: Bench) -> FittedEnsemble:
    return fit_ensemble(bench, "success", Variant("raw", "all", 0, "logistic_l2", 15, "mean"))


def _own_sentences(bench: Bench, ensemble: FittedEnsemble) -> Discovery:
    """Stimuli it was fitted on: their sides are known."""
    return discover(bench, [ensemble], bench.stimuli.table["text"][:24], split=False, top=12, per_decile=1, n_random=1)


def test_mistake_7_the_corpus_is_ranked_for_the_target_condition(bench: Bench, ensemble: FittedEnsemble) -> None:
    """It was ranked by the probability of failure and scored for achievement."""
    found = _own_sentences(bench, ensemble)
    side = bench.stimuli.table["outcome"].to_numpy()
    assert (side[found.of(0)["sentence"]] == ensemble.target).all()
    assert set(side[:24][found.scores_NE[:, 0] < 0]) == {"failure"}


def test_mistake_7_a_contrast_the_other_way_ranks_the_other_way(bench: Bench, ensemble: FittedEnsemble) -> None:
    """Nothing but the contrast decides what is up: not the order of classes, nor of the alphabet."""

    reverse = parse_contrast("failure - success", bench.stimuli.factors, name="failure")
    chosen = replace(bench.stimuli, contrasts={**bench.stimuli.contrasts, "failure": reverse})
    chosen = replace(chosen, designs={**bench.stimuli.designs, "failure": "pairs"})
    opposite = fit_ensemble(Bench(chosen, bench.source), "failure", ensemble.variant)
    assert opposite.target == "failure"
    np.testing.assert_allclose(opposite.weights_K, -ensemble.weights_K, atol=1e-6)
    found = _own_sentences(bench, opposite)
    assert (bench.stimuli.table["outcome"].to_numpy()[found.of(0)["sentence"]] == "failure").all()


def test_mistake_7_the_unit_is_the_one_it_was_fitted_on(bench: Bench, ensemble: FittedEnsemble) -> None:
    """A classifier of padded sentences met paragraphs: here sentences are read alone, and padding is unseen."""
    sentences = PARAGRAPH.split(". ")
    sentences = [*(f"{sentence}." for sentence in sentences[:-1]), sentences[-1]]
    together = discover(bench, [ensemble], [PARAGRAPH], batch_size=3)
    assert together.sample["text"].tolist() == sentences
    alone = [discover(bench, [ensemble], [text], batch_size=1).scores_NE[0, 0] for text in sentences]
    np.testing.assert_allclose(together.scores_NE[:, 0], alone, rtol=1e-4, atol=1e-3)


def test_mistake_7_text_of_the_saes_training_is_named(bench: Bench, ensemble: FittedEnsemble) -> None:
    """The corpus was the SAE's training set: what the shipped hashes know is flagged, what they do not is not."""
    found = discover(bench, [ensemble], [PARAGRAPH])
    assert found.overlap_reason == ""
    assert found.sample["in_sae_training"].tolist() == [False, False, False]
