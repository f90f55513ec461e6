"""The question of a run and what came out of it, in a few sentences that never say more than the tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from neurosae.report.loading import RunData
from neurosae.report.wording import estimate, is_number, names, number, p_value, verdict

ALPHA = 0.05
LEXICAL = 0.60
TO_SPEAK_OF = 2.0
"""A ranking retrieves the concept to speak of if its average precision is twice that of a random order."""


@dataclass(frozen=True)
class Answer:
    """One part of the answer.

    Attributes
    ----------
    short : str
        What it is about, in a word or two.
    topic : str
        The question.
    look, sign, word : str
        Of its badge: class, sign and word.
    text : str
        One or two sentences with the numbers.
    """

    short: str
    topic: str
    look: str
    sign: str
    word: str
    text: str


Topic = tuple[str, str]
"""What an answer is about, in a word and as a question."""


def question(run: RunData) -> str:
    """What the run asked."""
    target = run.about("target") or run.about("concept", "the concept")
    return f"Does {run.model} carry “{target}”, in which features, and which way of finding them deserves trust?"


def answers(run: RunData) -> list[Answer]:
    """Decoding, methods, retrieval, explanation and causal effect, in this order."""
    card = run.card
    return [_decoding(run, card), _methods(run), _retrieval(card), _explanation(card), _causal(card)]


def best_variant(card: pd.DataFrame) -> dict[Any, Any] | None:
    """The method variant (no yardstick) with the best held-out AUROC."""
    methods = card[~card["control"].astype(bool)]
    if methods.empty or methods["auroc"].isna().all():
        return None
    return _top(methods, "auroc")


def _top(table: pd.DataFrame, column: str) -> dict[Any, Any]:
    """The row with the largest value."""
    return table.nlargest(1, column).to_dict("records")[0]


def _yes(topic: Topic, text: str, word: str = "yes") -> Answer:
    return Answer(*topic, "yes", "✓", word, text)


def _no(topic: Topic, text: str, word: str = "no") -> Answer:
    return Answer(*topic, "no", "✕", word, text)


def _open(topic: Topic, text: str, word: str = "undecided") -> Answer:
    return Answer(*topic, "open", "?", word, text)


def _none(topic: Topic, text: str, word: str = "not asked") -> Answer:
    return Answer(*topic, "none", "–", word, text)


def _decoding(run: RunData, card: pd.DataFrame) -> Answer:
    topic = ("decoding", "Can it be decoded from a few features?")
    best = best_variant(card)
    if best is None:
        return _none(topic, "The grid has no method variant.")
    n_methods = int((~card["control"].astype(bool)).sum())
    score = estimate(best, "auroc", "auroc_ci_low", "auroc_ci_high")
    text = (
        f"{names(best)}: held-out AUROC {score}, {p_value(best.get('auroc_p'))} against permuted labels; the best of "
        f"{n_methods} variants by this very score, hence optimistic."
    )
    above = is_number(best.get("auroc_ci_low")) and best["auroc_ci_low"] > 0.5
    chance = is_number(best.get("auroc_p")) and best["auroc_p"] <= ALPHA
    words = run.table("variants")
    words = words[words["representation"] == "bag_of_words"]
    lexical = False
    if len(words):
        row = words.to_dict("records")[0]
        lexical = is_number(row.get("balanced_accuracy")) and row["balanced_accuracy"] > LEXICAL
        text += f" Words alone: {estimate(row, 'auroc', 'auroc_ci_low', 'auroc_ci_high')}"
        text += ", so the set is lexical: words tell the sides apart too." if lexical else "."
    if not (above and chance):
        return (_open if above else _no)(topic, text)
    return _open(topic, text, "yes, and so by words") if lexical else _yes(topic, text)


def _methods(run: RunData) -> Answer:
    topic = ("methods", "Which method deserves trust?")
    claims = run.table("claims")
    if "outcome" in claims:
        claims = claims[claims["outcome"] == "decoding"]
    if claims.empty:
        return _none(topic, run.missing("tables/claims") or "There is no claim on decoding.")
    clauses = []
    for row in claims.to_dict("records"):
        look, _, word = verdict(row["verdict"])
        effect = "" if look == "none" else f" ({estimate(row, 'delta', 'ci_low', 'ci_high', 3, sign=True)})"
        clauses.append(f"{str(row['claim']).replace('_', ' ')}: {word}{effect}")
    text = "On held-out AUROC, " + "; ".join(clauses) + "."
    looks = [verdict(value)[0] for value in claims["verdict"]]
    decided = sum(look in ("yes", "no", "same") for look in looks)
    word = f"{decided} of {len(looks)} decided"
    return _yes(topic, text, word) if decided == len(looks) else _open(topic, text, word)


def _retrieval(card: pd.DataFrame) -> Answer:
    topic = ("retrieval", "Does it mean the concept? Sentences it ranks first")
    if "discovery_ap" not in card:
        return _none(topic, "The stage “discover” did not run.")
    methods = card[~card["control"].astype(bool) & card["discovery_ap"].notna()]
    if methods.empty:
        return _none(topic, _first_reason(card, "discovery_reason"), "not measured")
    largest, decoder = _top(methods, "discovery_ap"), best_variant(card) or {}
    chance = largest["discovery_chance"]
    text = (
        f"Largest average precision on graded sentences: {_ap(largest)} ({names(largest)}; the largest of "
        f"{len(methods)}, hence optimistic), chance {number(chance)}."
    )
    if is_number(decoder.get("discovery_ap")):
        text = f"The best decoder reaches an average precision of {_ap(decoder)} on graded sentences. " + text
    if not largest["discovery_low"] > chance:
        return _no(topic, text + " No variant is above chance.", "not retrieved")
    if largest["discovery_ap"] < TO_SPEAK_OF * chance:
        return _no(topic, text + " Less than twice chance: not retrieved to speak of.", "not retrieved")
    if not (is_number(decoder.get("discovery_low")) and decoder["discovery_low"] > chance):
        return _open(topic, text + " What decodes best does not retrieve it.", "by other features")
    return _yes(topic, text, "retrieved")


def _ap(row: dict[Any, Any]) -> str:
    return estimate(row, "discovery_ap", "discovery_low", "discovery_high")


def _explanation(card: pd.DataFrame) -> Answer:
    topic = ("driving texts", "Do the texts that drive it show the concept?")
    if "target_score" not in card:
        return _none(topic, "The stage “explain” did not run.")
    graded = card[card["target_score"].notna() & ~card["control"].astype(bool)]
    if graded.empty:
        return _none(topic, _first_reason(card, "explanation_reason"), "not measured")
    best = _top(graded, "auroc")
    beyond = graded[(graded["target_p"] <= ALPHA) & (graded["target_p_random"] <= ALPHA)]
    text = (
        f"{names(best)}: mean grade {estimate(best, 'target_score', 'target_low', 'target_high')} of 3, "
        f"{p_value(best['target_p'])} against shuffled labels. Of {len(graded)} variants, {len(beyond)} grade above "
        "shuffled labels and above random features (each p ≤ .05, uncorrected)."
    )
    if beyond.empty:
        return _no(topic, text)
    return _yes(topic, text) if len(beyond) > len(graded) / 2 else _open(topic, text, "in some variants")


def _causal(card: pd.DataFrame) -> Answer:
    topic = ("steering", "Does it cause anything? Steering")
    if "causal_shift" not in card:
        return _none(topic, "The stage “steer” did not run.")
    steered = card[card["causal_shift"].notna() & ~card["control"].astype(bool)]
    if steered.empty:
        return _none(topic, _first_reason(card, "causal_reason"), "not measured")
    best = _top(steered, "auroc")
    towards = steered[steered["causal_low"] > 0]
    beyond = towards[towards["causal_p_random"] <= ALPHA]
    text = (
        f"{names(best)} shifts the preference for target endings by "
        f"{estimate(best, 'causal_shift', 'causal_low', 'causal_high', sign=True)} nats per token on "
        f"{number(best.get('causal_pairs'), 0)} held-out pairs; {p_value(best.get('causal_p_random'))} against random "
        f"directions of the same norm. Of {len(steered)} variants, {len(towards)} push towards the target, "
        f"{len(beyond)} significantly further than random directions."
    )
    if towards.empty:
        return _no(topic, text, "not steered")
    least = steered["causal_p_random"].min()
    if beyond.empty:
        few = f" The smallest p is {least:.2f}; n random directions cannot give less than 1/(n + 1)."
        return _open(topic, text + few, "not beyond random")
    return _yes(topic, text, "steered")


def _first_reason(card: pd.DataFrame, column: str) -> str:
    reasons = [str(value) for value in card.get(column, pd.Series(dtype=object)).dropna() if value]
    return f"{reasons[0]}." if reasons else "No variant was measured."
