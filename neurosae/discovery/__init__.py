"""Discovery: which texts of a corpus drive an ensemble? One pass, any number of ensembles, constant memory."""

from __future__ import annotations

from neurosae.discovery.search import Discovery, discover, score_sentences, word_scores

__all__ = ["Discovery", "discover", "score_sentences", "word_scores"]
