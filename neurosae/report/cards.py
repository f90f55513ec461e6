"""Cards of single features, explanations of ensembles and steered texts, ready for the templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from neurosae.report.drawings import histogram
from neurosae.report.loading import RunData
from neurosae.report.texts import folded, heat_map, visible
from neurosae.report.wording import estimate, is_number, names, number, p_value, selector_label


@dataclass(frozen=True)
class Text:
    """A text with its heat map, where it comes from and how strongly it drives the feature."""

    shown: Markup
    source: str
    value: str


@dataclass(frozen=True)
class Card:
    """Everything about one feature.

    Attributes
    ----------
    title, towards, chosen_by : str
    facts : list of (name, value)
    histogram : Markup
    texts : list of (heading, list of Text)
    neighbours : list of (feature, cosine)
    promoted, suppressed : list of (token, value)
    reasons : list of str
        Why pieces are missing.
    search : str
        What the filter of the cards looks at.
    """

    title: str
    towards: str
    chosen_by: str
    facts: list[tuple[str, str]]
    histogram: Markup
    texts: list[tuple[str, list[Text]]]
    neighbours: list[tuple[str, str]]
    promoted: list[tuple[str, str]]
    suppressed: list[tuple[str, str]]
    reasons: list[str]
    search: str


def feature_cards(run: RunData) -> list[Card]:
    """A card of every feature that the run has kept, in its order."""
    found = run.evidence.get("features", {})
    sides = [str(side) for side in run.about("sides", [])]
    return [_card(card, sides) for card in found.get("cards", [])]


def _card(card: Mapping[str, Any], sides: list[str]) -> Card:
    unit = "latent" if card["representation"] == "sae" else "neuron"
    direction = card.get("direction") or 0
    towards = "" if not direction or len(sides) < 2 else f"higher for “{sides[0 if direction > 0 else 1]}”"
    logits = card.get("logits") or {}
    chosen = [selector_label(name) for name in card.get("chosen_by", [])]
    facts = [
        ("AUROC", number(card.get("auroc"))),
        ("effect d", number(card.get("d"), sign=True)),
        ("reliability", number(card.get("reliability"))),
        ("share of folds", number(card.get("share_of_folds"))),
    ]
    title = f"{unit} {card['feature']}, block {card['block']}"
    reasons = [str(value) for key, value in card.items() if key.endswith("reason") and value]
    return Card(
        title=title,
        towards=towards,
        chosen_by=", ".join(chosen),
        facts=facts,
        histogram=histogram(card.get("histogram") or {}, sides),
        texts=_texts(card, sides),
        neighbours=[(str(n["feature"]), number(n["cosine"])) for n in card.get("neighbours") or []],
        promoted=_tokens(logits.get("promoted")),
        suppressed=_tokens(logits.get("suppressed")),
        reasons=list(dict.fromkeys(reasons)),
        search=" ".join([title, card["representation"], *chosen]).lower(),
    )


def _tokens(found: Any) -> list[tuple[str, str]]:
    """Tokens with their white space made visible."""
    return [(_token(t["token"]), number(t["value"], sign=True)) for t in found or []]


def _token(text: str) -> str:
    return visible(text).replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")


def _texts(card: Mapping[str, Any], sides: list[str]) -> list[tuple[str, list[Text]]]:
    """Texts by where they come from; one scale of shades for the whole card.

    A neuron has no zero to be strong from: its texts are those furthest towards the target.
    """
    towards = f" furthest towards “{sides[0]}”" if card["representation"] == "raw" and card.get("direction") else ""
    texts = card.get("texts") or []
    strongest = max(
        (abs(span[2]) for text in texts for span in text.get("tokens") or [] if is_number(span[2])), default=0.0
    )
    groups: dict[str, list[Text]] = {}
    for text in texts:
        corpus = text.get("where") == "corpus"
        heading = "graded sentences" if corpus else f"stimuli of “{text.get('side')}”"
        heading = heading[0].upper() + heading[1:] + towards if towards else f"Strongest {heading}"
        grade = text.get("grade")
        source = f"grade {grade} of 3" if corpus and grade is not None else ""
        shown = heat_map(str(text["text"]), text.get("tokens"), strongest)
        groups.setdefault(heading, []).append(Text(shown, source, number(text.get("value"))))
    return list(groups.items())


@dataclass(frozen=True)
class Explanation:
    """What is said about the sentences that drive a variant, and how far to believe it."""

    title: str
    text: Markup
    scores: list[tuple[str, str]]
    words: str


def explanations(run: RunData) -> list[Explanation]:
    """Of every variant that was explained, best held-out AUROC first."""
    card, table = run.table("scorecard"), run.table("explanations")
    known = table[table["explanation"].fillna("") != ""] if "explanation" in table else table.iloc[:0]
    rank = {_key(row): row["rank"] for row in card.to_dict("records")} if "rank" in card else {}
    rows = sorted(known.to_dict("records"), key=lambda row: rank.get(_key(row), len(rank) + 1))
    said = {_key(row): row for row in run.explanations}
    return [_explanation(row, said.get(_key(row), {})) for row in rows]


def _key(row: Mapping[Any, Any]) -> tuple[str, ...]:
    return tuple(str(row.get(name)) for name in ("representation", "selector", "k", "block", "pooling", "ensemble"))


def _explanation(row: Mapping[Any, Any], said: Mapping[str, Any]) -> Explanation:
    scores = [
        ("mean grade for the target, 0–3", estimate(row, "target_score", "target_low", "target_high")),
        ("against shuffled labels", p_value(row.get("target_p"))),
        ("against random features", p_value(row.get("target_p_random"))),
        (
            "do its words tell other top sentences",
            f"AUROC {number(row.get('words_auroc'))}, {p_value(row.get('words_p'))}",
        ),
    ]
    return Explanation(names(row), folded(row["explanation"]), scores, str(said.get("verdict") or ""))


@dataclass(frozen=True)
class Steered:
    """A beginning and how the model goes on, unsteered and steered both ways: condition, text, score."""

    prompt: Markup
    texts: list[tuple[str, Markup, str]]


def steered(run: RunData) -> list[Steered]:
    """The steered texts that the run has kept."""
    found = run.evidence.get("steering", {})
    return [
        Steered(
            folded(prompt.get("text", "")),
            [
                (str(text["condition"]), folded(text.get("text") or text.get("reason", "")), number(text.get("score")))
                for text in found.get("texts", [])
                if text.get("prompt") == place
            ],
        )
        for place, prompt in enumerate(found.get("prompts", []))
    ]


def steered_about(run: RunData) -> str:
    """Which variant steers, how strongly, and what the scores are."""
    found = run.evidence.get("steering", {})
    if not found.get("prompts"):
        return str(found.get("reason") or "")
    shift, probe = found.get("shift") or {}, found.get("probe") or {}
    text = (
        f"Steered by {names(found['variant'])}, clamped at dose {found['dose']}: the variant of the largest shift, "
        f"{estimate(shift, 'shift', 'low', 'high', sign=True)} nats per token: the best of many, hence optimistic. "
        f"Always the likeliest token, {found['n_tokens']} at most, so that only the clamping differs. "
    )
    if probe:
        text += (
            f"Scores are log-odds of a probe for “{probe.get('concept')}” on graded sentences (held-out AUROC "
            f"{number(probe.get('auroc'))}): a rough guide, no judgement."
        )
    return text + str(found.get("probe_reason") or "")
