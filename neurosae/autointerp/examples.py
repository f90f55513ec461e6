"""Which texts an explanation is made from, and which others it is scored on: two sets that share no text.

Texts come with a score, the decision of an ensemble for its target. The strongest ones are the *top*; beside them stand
random controls and a sample of every decile of the rest. Of near-duplicates only the strongest is kept, so that no text
can be in one set while its twin is in the other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components

from neurosae.errors import UserError

Stratum = Literal["top", "decile", "random"]
STRATA: tuple[Stratum, ...] = ("top", "decile", "random")
DECILES = 10
SHINGLE = 3  # words
NEAR = 0.5
"""Share of common runs of three words (Jaccard) from which on two texts are near-duplicates."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_ESCAPED = re.compile(r"([\\<>])")
_MARK_OR_ESCAPE = re.compile(r"\\([\\<>])|<<|>>")


def words(text: str) -> list[str]:
    """Words of a text in lower case.

    Examples
    --------
    >>> words("The crew's raft - twice! - held.")
    ['the', "crew's", 'raft', 'twice', 'held']
    """
    return _WORD.findall(text.lower())


def text_hash(text: str) -> str:
    """Hash of a text's words; spaces, case and punctuation do not count.

    Examples
    --------
    >>> text_hash("The lamp went out.") == text_hash("the  lamp went out")
    True
    """
    return hashlib.blake2b(" ".join(words(text) or [text]).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Example:
    """One text and how strongly an ensemble takes it for its target.

    Attributes
    ----------
    id : str
    text : str
    score : float
        Decision of the ensemble for the target condition.
    stratum : {"top", "decile", "random"}
        Among the strongest; drawn from one decile of the rest; drawn from the whole rest.
    decile : int
        1 (weakest) to 10 (strongest): where the score lies among all texts of the corpus.
    spans : tuple of (start, stop, contribution)
        Characters of every token and what it adds to the score; empty if not known.
    """

    id: str
    text: str
    score: float
    stratum: Stratum
    decile: int
    spans: tuple[tuple[int, int, float], ...] = ()


@dataclass(frozen=True)
class Evidence:
    """Texts of a corpus that were kept for explaining one ensemble.

    Attributes
    ----------
    examples : tuple of Example
        In any order.

    Raises
    ------
    UserError
        A score that is not finite, an empty text, an id that occurs twice, an unknown stratum or decile.
    """

    examples: tuple[Example, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for example in self.examples:
            if not np.isfinite(example.score):
                raise UserError(f"Text {example.id} has the score {example.score}", allowed="finite scores")
            if not example.text.strip():
                raise UserError(f"Text {example.id} is empty")
            if example.id in seen:
                raise UserError(f"Two texts have the id {example.id}")
            if example.stratum not in STRATA or not 1 <= example.decile <= DECILES:
                raise UserError(f"Text {example.id} is in '{example.stratum}', decile {example.decile}")
            seen.add(example.id)


def gather(
    texts: Sequence[str],
    scores: ArrayLike,
    *,
    ids: Sequence[str] | None = None,
    spans: Sequence[tuple[tuple[int, int, float], ...]] | None = None,
    n_top: int = 50,
    n_random: int = 50,
    per_decile: int = 20,
    seed: int = 0,
) -> Evidence:
    """Keep the top, a sample of every decile and random controls of a corpus whose texts all have a score.

    Parameters
    ----------
    texts : S texts
    scores : array [S]
        Decision of the ensemble for its target.
    ids : S str, optional
        Default: "0", "1", ...
    spans : S tuples, optional
        See `Example`.
    n_top : int, default 50
        Strongest texts.
    n_random : int, default 50
        Drawn from all the others.
    per_decile : int, default 20
        Drawn from every decile, of those not yet drawn.
    seed : int, default 0
        Of the draws, which depend on the text and the seed only, not on the order of the texts.

    Raises
    ------
    UserError
        Unequal lengths, scores that are not finite, fewer texts than `n_top` and `n_random` ask for.

    Examples
    --------
    >>> evidence = gather([f"text {i}" for i in range(400)], range(400), n_top=2, n_random=3, per_decile=1)
    >>> [(e.text, e.decile) for e in evidence.examples if e.stratum == "top"], len(evidence.examples)
    ([('text 399', 10), ('text 398', 10)], 15)
    """
    names = [str(i) for i in range(len(texts))] if ids is None else [str(i) for i in ids]
    score_S = np.asarray(scores, dtype=np.float64)
    if score_S.shape != (len(texts),) or len(names) != len(texts) or len(spans or texts) != len(texts):
        raise UserError(f"{len(texts)} texts, scores of shape {score_S.shape}, {len(names)} ids: one each is needed")
    if not np.isfinite(score_S).all():
        raise UserError(f"Text {names[int(np.argmin(np.isfinite(score_S)))]} has no finite score")
    if len(texts) < n_top + n_random or min(n_top, n_random, per_decile) < 0:
        raise UserError(
            f"{len(texts)} texts for {n_top} top texts and {n_random} random controls",
            suggestion="Ask for fewer, or use a larger corpus",
        )
    key_S = [_key(text, seed) for text in texts]
    order = sorted(range(len(texts)), key=lambda s: (-score_S[s], key_S[s]))
    decile_S = np.empty(len(texts), dtype=np.intp)
    decile_S[order] = DECILES - np.arange(len(texts)) * DECILES // len(texts)
    rest = sorted(order[n_top:], key=lambda s: key_S[s])
    drawn: dict[Stratum, list[int]] = {"top": order[:n_top], "random": rest[:n_random], "decile": []}
    for decile in range(1, DECILES + 1):
        drawn["decile"] += [s for s in rest[n_random:] if decile_S[s] == decile][:per_decile]
    return Evidence(
        tuple(
            Example(names[s], texts[s], float(score_S[s]), stratum, int(decile_S[s]), spans[s] if spans else ())
            for stratum, chosen in drawn.items()
            for s in chosen
        )
    )


@dataclass(frozen=True)
class ExplainSet:
    """Texts that an explanation may be made from; none of them is ever scored.

    Attributes
    ----------
    examples : tuple of Example
        Strongest first.
    """

    examples: tuple[Example, ...]

    def of(self, stratum: Stratum) -> tuple[Example, ...]:
        """Those of a stratum, strongest first."""
        return tuple(example for example in self.examples if example.stratum == stratum)


@dataclass(frozen=True)
class ScoreSet:
    """Texts that an explanation is scored on; no explainer takes them.

    Attributes
    ----------
    examples : tuple of Example
        Strongest first.
    """

    examples: tuple[Example, ...]


class Split(NamedTuple):
    """The two sets, and how many near-duplicates were left out of both."""

    explain: ExplainSet
    score: ScoreSet
    n_near_duplicates: int


def split(evidence: Evidence, seed: int = 0) -> Split:
    """Divide texts into a set to explain from and a set to score on.

    Neighbours in score (within the top, the random controls, each decile) are parted by a draw, so that both sets have
    about the same scores. The draw depends on the texts and the seed only, not on their order.

    Parameters
    ----------
    evidence : Evidence
    seed : int, default 0

    Examples
    --------
    >>> evidence = gather([f"{n} boats" for n in "abcdefgh"], range(8), n_top=4, n_random=4, per_decile=0)
    >>> explain, score, _ = split(evidence)
    >>> len(explain.examples), len(score.examples)
    (4, 4)
    """
    key = {example.id: _key(example.text, seed) for example in evidence.examples}
    ranked = sorted(evidence.examples, key=lambda e: (e.stratum != "top", -e.score, key[e.id]))
    groups = near_duplicates([example.text for example in ranked])
    kept = [ranked[i] for i in sorted(np.unique(groups, return_index=True)[1])]
    parts: tuple[list[Example], list[Example]] = ([], [])
    for _, members in groupby(sorted(kept, key=lambda e: (_drawn_from(e), -e.score, key[e.id])), _drawn_from):
        queue = list(members)
        for i in range(0, len(queue), 2):
            scored, *explained = sorted(queue[i : i + 2], key=lambda e: key[e.id])
            parts[0].extend(explained)
            parts[1].append(scored)
    explain, score = (tuple(sorted(part, key=lambda e: (-e.score, key[e.id]))) for part in parts)
    return Split(ExplainSet(explain), ScoreSet(score), len(ranked) - len(kept))


def near_duplicates(texts: Sequence[str], threshold: float = NEAR) -> NDArray[np.intp]:
    """Groups of texts that are connected by near-duplicates.

    Two texts are near-duplicates if they share at least a part of their runs of three words (intersection over union;
    the text itself where it is shorter).

    Parameters
    ----------
    texts : S texts
    threshold : float, default 0.5

    Returns
    -------
    array of int [S]
        Equal for texts of one group.

    Examples
    --------
    >>> near_duplicates(["The old red bridge held.", "the old  red bridge held", "Rain fell on the town."]).tolist()
    [0, 0, 1]
    """
    if not len(texts):
        return np.zeros(0, dtype=np.intp)
    shingles = [_shingles(text) for text in texts]
    number = {shingle: i for i, shingle in enumerate(sorted({s for found in shingles for s in found}))}
    ends = np.cumsum([0, *(len(found) for found in shingles)])
    columns = np.array([number[shingle] for found in shingles for shingle in sorted(found)])
    has_SN = sp.csr_array((np.ones(len(columns)), columns, ends), shape=(len(texts), len(number)))
    common = (has_SN @ has_SN.T).tocoo()
    size_S = np.diff(ends)
    union = size_S[common.row] + size_S[common.col] - common.data
    near = common.data >= threshold * union
    graph = sp.coo_array((near[near], (common.row[near], common.col[near])), shape=common.shape)
    return connected_components(graph, directed=False)[1].astype(np.intp)


Set = TypeVar("Set", ExplainSet, ScoreSet)


def require(examples: object, kind: type[Set]) -> Set:
    """The set itself, if it is of the kind that is needed.

    Raises
    ------
    UserError
        The other set, or anything else: what was explained is not to be scored.
    """
    if not isinstance(examples, kind):
        raise UserError(
            f"This needs a {kind.__name__}, not a {type(examples).__name__}",
            suggestion="`split` gives both; explain from the one and score on the other",
        )
    return examples


def highlight(example: Example, share: float = 0.5) -> str:
    r"""The text with ``<<...>>`` around what drives the score.

    Parameters
    ----------
    example : Example
    share : float, default 0.5
        Tokens are marked whose contribution is positive and at least this share of the largest of the text.

    Returns
    -------
    str
        Neighbouring tokens share a mark, spaces stay outside; ``\``, ``<`` and ``>`` of the text itself are escaped
        with a backslash, so that a mark is never ambiguous (`plain` gives the text back).

    Examples
    --------
    >>> print(highlight(Example("a", "She won > 2 medals", 1.0, "top", 10, ((3, 7, 2.0), (11, 18, 0.5)))))
    She <<won>> \> 2 medals
    """
    text = example.text
    largest = max((contribution for _, _, contribution in example.spans), default=0.0)
    marked = np.zeros(len(text), dtype=bool)
    for start, stop, contribution in example.spans:
        if contribution > 0 and contribution >= share * largest:
            inside = text[start:stop]
            marked[start + len(inside) - len(inside.lstrip()) : start + len(inside.rstrip())] = True
    pieces = []
    for is_marked, places in groupby(range(len(text)), key=lambda i: bool(marked[i])):
        piece = _ESCAPED.sub(r"\\\1", "".join(text[i] for i in places))
        pieces.append(f"<<{piece}>>" if is_marked else piece)
    return "".join(pieces)


def plain(highlighted: str) -> str:
    r"""The text that `highlight` marked.

    Examples
    --------
    >>> plain(r"She <<won>> \> 2 medals")
    'She won > 2 medals'
    """
    return _MARK_OR_ESCAPE.sub(lambda match: match[1] or "", highlighted)


def token_spans(text: str, tokens: Iterable[str], contributions: Iterable[float]) -> tuple[tuple[int, int, float], ...]:
    """Characters of every token in a text, in reading order.

    A token that is only part of a character (bytes of an emoji) stands nowhere in the text and is left out.

    Examples
    --------
    >>> token_spans("She won", ["She", " won"], [0.0, 2.0])
    ((0, 3, 0.0), (3, 7, 2.0))
    """
    spans, cursor = [], 0
    for token, contribution in zip(tokens, contributions, strict=True):
        start = text.find(token, cursor)
        if token and start >= 0:
            cursor = start + len(token)
            spans.append((start, cursor, float(contribution)))
    return tuple(spans)


def _drawn_from(example: Example) -> tuple[str, int]:
    return example.stratum, example.decile if example.stratum == "decile" else 0


def _shingles(text: str) -> set[str]:
    found = words(text) or [text]
    return {" ".join(found[i : i + SHINGLE]) for i in range(max(1, len(found) - SHINGLE + 1))}


def _key(text: str, seed: int) -> str:
    """What a text is drawn by: a hash of the seed and the text itself."""
    return hashlib.blake2b(text.encode(), key=str(seed).encode(), digest_size=16).hexdigest()
