"""The gold grades themselves as a judge: perfect on the gold corpus and silent everywhere else."""

from __future__ import annotations

from collections.abc import Sequence

from neurosae.autointerp.examples import text_hash
from neurosae.autointerp.judges import Grade, GradeRequest, unanswered
from neurosae.discovery.gold import GoldCorpus


class GoldJudge:
    """Looks grades up; needs no language model and no network.

    Language models gave the grades, by a written rule (see `neurosae.discovery.gold`), not people.

    Parameters
    ----------
    corpus : GoldCorpus

    Examples
    --------
    >>> from neurosae.discovery import gold
    >>> judge = GoldJudge(gold.load())
    >>> judge.grade([GradeRequest("A sentence of no corpus.", "success", "", "")])[0].reason
    'not a sentence of the gold corpus'
    """

    name = "gold"

    def __init__(self, corpus: GoldCorpus) -> None:
        hashes = corpus.table["text"].map(text_hash)
        self._grades = {concept: dict(zip(hashes, corpus.grades(concept), strict=True)) for concept in corpus.concepts}

    def grade(self, requests: Sequence[GradeRequest]) -> list[Grade]:
        """One grade per request; unanswered for other texts, and for patterns that the corpus was not graded for."""
        return [self._one(request) for request in requests]

    def _one(self, request: GradeRequest) -> Grade:
        if request.concept not in self._grades:
            return unanswered(f"the gold corpus has no grades for {request.concept}")
        value = self._grades[request.concept].get(text_hash(request.text))
        return unanswered("not a sentence of the gold corpus") if value is None else Grade(int(value), None, True, "")
