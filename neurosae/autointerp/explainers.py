"""Explainers: what do the texts that drive an ensemble share? In their own words, or in those of a language model."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from neurosae.autointerp.examples import Example, ExplainSet, highlight, require, text_hash
from neurosae.autointerp.judges import Answer, Completion, Writer
from neurosae.autointerp.lexical import distinctive_words
from neurosae.autointerp.prompting import load_prompt
from neurosae.errors import UserError
from neurosae.files import digest

MIN_TEXTS = 5
"""Texts of either kind that an explanation is made from, at least."""
_PATTERN = re.compile(r"^[ \t*_#]*PATTERN[ \t]*:[ \t*_]*(.*?)[ \t*_\r]*$", re.MULTILINE)
_NONE = re.compile(r"(?:none|no (?:common )?pattern)\W*", re.IGNORECASE)


@dataclass(frozen=True)
class Explanation:
    """What the texts are said to share, and where the saying comes from.

    Attributes
    ----------
    text : str
        One sentence; empty if there is none, and then it is never scored.
    kind : {"lexical", "llm"}
    reason : str
        Why there is no explanation; empty if there is one.
    words : tuple of (str, float)
        Words of a lexical explanation with their log-odds, most distinctive first.
    writer : str
        Name of the judge that wrote it; "lexical" otherwise.
    prompt_version : str
        Version and hash of the prompt file; of the method's settings for a lexical one.
    example_ids : tuple of str
        Texts it was made from.
    example_hashes : tuple of str
        Hashes of their words: a scorer refuses an explanation that has seen one of its texts.
    """

    text: str
    kind: Literal["lexical", "llm"]
    reason: str
    words: tuple[tuple[str, float], ...]
    writer: str
    prompt_version: str
    example_ids: tuple[str, ...]
    example_hashes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


def explain_by_words(examples: ExplainSet, *, n_words: int = 10) -> Explanation:
    """Explain by the words that mark the top texts against all others (Monroe et al. 2008); needs no language model.

    Parameters
    ----------
    examples : ExplainSet
    n_words : int, default 10
        Words kept: those that are in at least two top texts and more frequent there, largest z first. Whether they go
        beyond chance is for `neurosae.autointerp.lexical.distinctive_words` and for a scorer to say.

    Returns
    -------
    Explanation
        Without text where no word qualifies.

    Raises
    ------
    UserError
        A set to score on, or fewer than five texts in the top or outside of it.

    Examples
    --------
    >>> from neurosae.autointerp.examples import gather, split
    >>> texts = [f"{n} boats sank" for n in range(40)] + [f"{n} crews won gold" for n in range(20)]
    >>> scores = [0.0] * 40 + [1.0] * 20
    >>> evidence = gather(texts, scores, n_top=20, n_random=40, per_decile=0)
    >>> [word for word, _ in explain_by_words(split(evidence).explain).words]
    ['crews', 'gold', 'won']
    """
    top, others = _both_sides(examples)
    used = [*top, *others]
    table = distinctive_words([e.text for e in used], [e.stratum == "top" for e in used], n_permutations=0)
    found = table[(table["log_odds"] > 0) & (table["n_top"] > 1)].head(n_words)
    return Explanation(
        text=f"Texts with words such as: {', '.join(found['word'])}" if len(found) else "",
        kind="lexical",
        reason="" if len(found) else "no word is more frequent in the top texts",
        words=tuple(zip(found["word"], found["log_odds"].astype(float), strict=True)),
        writer="lexical",
        prompt_version=f"log-odds-{digest({'n_words': n_words})}",
        **_made_from(used),
    )


def explain_by_reading(
    examples: ExplainSet, writer: Writer, *, n_top: int = 20, n_random: int = 20, max_tokens: int = 400
) -> Explanation:
    """Let a language model say what the top texts share and random ones do not.

    The top texts carry ``<<marks>>`` around the tokens that drive the score; random controls stand beside them.

    Parameters
    ----------
    examples : ExplainSet
    writer : Writer
        See `neurosae.autointerp.judges.writer`.
    n_top, n_random : int, default 20
        Strongest top texts and random controls to show, at most.
    max_tokens : int, default 400
        Longest answer.

    Returns
    -------
    Explanation
        An answer without a ``PATTERN:`` line is asked for once more; if that fails too, if the writer refuses or finds
        no pattern, the explanation has no text and says why. An error message never becomes a pattern.

    Raises
    ------
    UserError
        A set to score on, fewer than five texts in the top or among the controls; what stops the writer altogether.
    """
    top, others = _both_sides(examples)
    random = [e for e in others if e.stratum == "random"][:n_random]
    if len(random) < MIN_TEXTS:
        raise UserError(f"{len(random)} random controls to explain against", allowed=f"{MIN_TEXTS} or more")
    shown = [*top[:n_top], *random]
    prompt = load_prompt("explain")
    system, user = prompt.fill(strong=_listed(top[:n_top], marks=True), random=_listed(random, marks=False))
    version = prompt.version
    text, reason, malformed = _pattern(writer.complete([Completion(user, system, version, max_tokens)])[0])
    if malformed:
        again = load_prompt("explain_again")
        system, user = again.fill(system=system, user=user)
        version = f"{version}, {again.version}"
        text, reason, _ = _pattern(writer.complete([Completion(user, system, version, max_tokens)])[0])
    return Explanation(text, "llm", reason, (), writer.name, version, **_made_from(shown))


def _both_sides(examples: ExplainSet) -> tuple[list[Example], list[Example]]:
    """Top texts and all others of a set to explain from."""
    known = require(examples, ExplainSet).examples
    top, others = [e for e in known if e.stratum == "top"], [e for e in known if e.stratum != "top"]
    if min(len(top), len(others)) < MIN_TEXTS:
        raise UserError(
            f"{len(top)} top texts and {len(others)} others to explain from",
            allowed=f"{MIN_TEXTS} or more of each",
            suggestion="Keep more texts, or use a larger corpus",
        )
    return top, others


def _made_from(examples: list[Example]) -> dict[str, tuple[str, ...]]:
    return {
        "example_ids": tuple(e.id for e in examples),
        "example_hashes": tuple(text_hash(e.text) for e in examples),
    }


def _listed(examples: list[Example], *, marks: bool) -> str:
    """One numbered line per text; the controls are escaped like the marked texts, but without their spans."""
    lines = (highlight(e if marks else Example(e.id, e.text, e.score, e.stratum, e.decile)) for e in examples)
    return "\n".join(f"{i}. {' '.join(line.split())}" for i, line in enumerate(lines, 1))


def _pattern(answer: Answer) -> tuple[str, str, bool]:
    """The described pattern, or the reason why there is none and whether the answer was malformed."""
    if not answer.answered:
        return "", answer.reason or "no answer", False
    found = [line for line in _PATTERN.findall(answer.text) if line]
    if len(found) != 1:
        return "", f"the answer has {len(found)} lines with a pattern instead of one", True
    if _NONE.fullmatch(found[0]):
        return "", "the writer found no common pattern", False
    return found[0], "", False
