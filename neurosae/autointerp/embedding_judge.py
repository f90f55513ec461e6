"""The judge that needs no server and no prompt: sentence embeddings from the language model, calibrated on gold grades.

A sentence's embedding is the mean of its clean tokens at the middle block, centred on the gold corpus and scaled to
length one. For a concept of the gold corpus the score is a ridge regression of the gold grade, learned on the half of
the corpus that calibration does not measure. For any other concept it is the cosine with the embedded definition, which
knows little more than topics. Grades come from the score by equating: as many sentences get each grade as in the gold
corpus (for another concept: as over all its concepts).

The embeddings are the very activations that ensembles of this model read, so that this judge may share their mistakes;
it is no independent witness. Calibrate it before believing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from neurosae.autointerp.calibration import gold_rule, held_out
from neurosae.autointerp.judges import PRESENT, Grade, GradeRequest, unanswered
from neurosae.capture import capture
from neurosae.discovery import gold
from neurosae.discovery.gold import GoldCorpus
from neurosae.files import atomic_path, cache_folder, digest
from neurosae.models import LanguageModel
from neurosae.sites import Site

Array = NDArray[np.float64]
_TEXTS_AT_ONCE = 512  # bounds memory
_PENALTIES = np.logspace(-2, 3, 11)


@dataclass(frozen=True, eq=False)
class Scale:
    """From scores to grades and to the probability of a grade of 2 or more; both are monotone.

    Attributes
    ----------
    cuts : array [3]
        A grade is the number of cuts at or below the score.
    steps, probabilities : arrays
        Isotonic regression: scores in rising order and the probability at each, linear in between.
    """

    cuts: Array
    steps: Array
    probabilities: Array

    @classmethod
    def learn(cls, scores_S: Array, grades_S: NDArray[np.int64]) -> Scale:
        """Equate: the share of scores at or above each cut is the share of gold grades at or above it.

        Examples
        --------
        >>> scale = Scale.learn(np.array([0.1, 0.2, 0.6, 0.9]), np.array([0, 0, 1, 3]))
        >>> scale.grades(np.array([0.0, 0.7, 0.95])).tolist()
        [0, 1, 3]
        """
        from sklearn.isotonic import IsotonicRegression

        falling_S = np.sort(scores_S)[::-1]
        counts = [(grades_S >= grade).sum() for grade in (1, 2, 3)]
        cuts = np.array([falling_S[count - 1] if count else np.inf for count in counts])
        fit = IsotonicRegression(y_min=0, y_max=1).fit(scores_S, grades_S >= PRESENT)
        return cls(cuts, fit.X_thresholds_, fit.y_thresholds_)

    def grades(self, scores_S: Array) -> NDArray[np.int64]:
        """Grades [S] of scores [S]."""
        return (scores_S[:, None] >= self.cuts).sum(axis=1)

    def present(self, scores_S: Array) -> Array:
        """Probability [S] of a grade of 2 or more."""
        return np.interp(scores_S, self.steps, self.probabilities)


@dataclass(frozen=True, eq=False)
class _Probe:
    """A direction and an offset in the space of embeddings, and how its scores become grades."""

    weights: Array
    offset: float
    scale: Scale


class EmbeddingJudge:
    """Grades by sentence embeddings; see the module.

    Parameters
    ----------
    language_model : LanguageModel
    corpus : GoldCorpus, optional
        What to learn from; the one that ships by default.
    block : int, optional
        Where the embeddings come from; the middle block by default.
    """

    def __init__(
        self, language_model: LanguageModel, corpus: GoldCorpus | None = None, *, block: int | None = None
    ) -> None:
        self.language_model, self.corpus = language_model, corpus or gold.load()
        self.site = Site(language_model.n_blocks // 2 if block is None else block).check(language_model.n_blocks)
        self.name = f"embeddings:{language_model.name}"
        self._probes: dict[tuple[str, str], _Probe] = {}

    def grade(self, requests: Sequence[GradeRequest]) -> list[Grade]:
        """One grade per request; a text without a word, or longer than the context, is unanswered."""
        vectors_SD = self.embed([request.text for request in requests])
        return [self._grade(request, vector) for request, vector in zip(requests, vectors_SD, strict=True)]

    def embed(self, texts: Sequence[str]) -> Array:
        """Sentence embeddings, centred on the gold sentences that this judge learns from and of length one.

        Parameters
        ----------
        texts : S texts

        Returns
        -------
        array [S, D]
            NaN throughout for a text without a word, or longer than the context.
        """
        usable = [text for text in dict.fromkeys(texts) if self._is_usable(text)]
        row = {text: i for i, text in enumerate(usable)}
        known_SD = self._centred(self._embed(usable)) if usable else np.empty((0, self.language_model.d_model))
        vectors_SD = np.full((len(texts), self.language_model.d_model), np.nan)
        for i, text in enumerate(texts):
            if text in row:
                vectors_SD[i] = known_SD[row[text]]
        return vectors_SD

    def _grade(self, request: GradeRequest, vector: Array) -> Grade:
        if not np.isfinite(vector).all():
            return unanswered("no word to embed, or longer than the context")
        probe = self._probe(request.concept, request.definition)
        score_S = (vector[None] @ probe.weights) + probe.offset
        return Grade(int(probe.scale.grades(score_S)[0]), float(probe.scale.present(score_S)[0]), True, "")

    def _is_usable(self, text: str) -> bool:
        return bool(text.strip()) and len(self.language_model.token_ids([text])[0]) <= self.language_model.context

    @cached_property
    def _learned_on(self) -> NDArray[np.bool_]:
        return ~held_out(self.corpus)

    @cached_property
    def _gold_vectors(self) -> Array:
        """Embeddings of the half to learn from."""
        return self._embed(self.corpus.table.loc[self._learned_on, "text"].tolist())

    @cached_property
    def _gold_mean(self) -> Array:
        return self._gold_vectors.mean(axis=0)

    def _centred(self, vectors_SD: Array) -> Array:
        """Embeddings relative to the mean of the gold sentences, of length one."""
        centred_SD = vectors_SD - self._gold_mean
        return centred_SD / np.maximum(np.linalg.norm(centred_SD, axis=1, keepdims=True), 1e-12)

    def _probe(self, concept: str, definition: str) -> _Probe:
        key = (concept, definition)
        if key not in self._probes:
            known = concept in self.corpus.concepts and gold_rule(self.corpus, concept)[0] == definition
            self._probes[key] = self._learned(concept) if known else self._described(f"{concept}: {definition}")
        return self._probes[key]

    def _learned(self, concept: str) -> _Probe:
        """Ridge regression of the gold grade; the scale comes from out-of-fold scores."""
        from sklearn.linear_model import RidgeCV
        from sklearn.model_selection import KFold, cross_val_predict

        vectors_SD, grades_S = self._centred(self._gold_vectors), self.corpus.grades(concept)[self._learned_on]
        model = RidgeCV(_PENALTIES)
        out_of_fold_S = cross_val_predict(model, vectors_SD, grades_S, cv=KFold(5, shuffle=True, random_state=0))
        fitted = model.fit(vectors_SD, grades_S)
        return _Probe(fitted.coef_, float(fitted.intercept_), Scale.learn(out_of_fold_S, grades_S))

    def _described(self, text: str) -> _Probe:
        """Cosine with a described concept, on the scale of all gold concepts described likewise."""
        vectors_SD = self._centred(self._gold_vectors)
        described = [f"{name}: {gold_rule(self.corpus, name)[0]}" for name in self.corpus.concepts]
        anchors_CD = self._centred(self._embed([*described, text]))
        grades_CS = np.array([self.corpus.grades(name)[self._learned_on] for name in self.corpus.concepts])
        scores_CS = anchors_CD[:-1] @ vectors_SD.T
        return _Probe(anchors_CD[-1], 0.0, Scale.learn(scores_CS.ravel(), grades_CS.ravel()))

    def _embed(self, texts: Sequence[str]) -> Array:
        """Mean of the clean tokens of each text [S, D], kept in the cache; NaN where there is none."""
        starts = range(0, len(texts), _TEXTS_AT_ONCE)
        return np.concatenate([self._embed_block(texts[start : start + _TEXTS_AT_ONCE]) for start in starts])

    def _embed_block(self, texts: Sequence[str]) -> Array:
        key = digest([self.language_model.fingerprint, str(self.site), list(texts)], length=32)
        stored = cache_folder("judges", "embeddings") / f"{key}.npy"
        try:
            return np.load(stored).astype(np.float64)
        except (OSError, ValueError, EOFError):
            pooled = capture(self.language_model, list(texts), [self.site])[self.site].pool("mean")
        values_SD = np.where(pooled.valid_S[:, None], pooled.values_SF, np.nan)
        with atomic_path(stored) as temporary:
            np.save(temporary, values_SD.astype(np.float32))
        return values_SD.astype(np.float32).astype(np.float64)
