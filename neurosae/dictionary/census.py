"""Keyword census: how often could a corpus have taught a concept at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer

from neurosae.errors import UserError

_WORD = re.compile(r"\w+")


def census(texts: Iterable[str], keywords: Iterable[str]) -> pd.DataFrame:
    """Count keywords in a stream of texts; one pass, in constant memory.

    Parameters
    ----------
    texts : iterable of str
    keywords : iterable of str
        Whole words: "gold" is not found in "golden". A keyword of several words matches these words in a row, whatever
        stands between them (a space, a hyphen, a line break). A keyword with a capital letter is matched as written
        ("March" is not "march"), one without in any case. Where several match at one word the longest counts, and the
        one with capitals before the one without; its words are not looked at again ("New York" is not "York").

    Returns
    -------
    DataFrame, one row per different keyword in the order given
        `keyword`, `count`, `texts` (that hold it), `per_million` (per million words), `n_texts`, `n_words`. A word is a
        run of letters, digits and underscores.

    Raises
    ------
    UserError
        A keyword without a word, no keyword, no word in the texts.

    Examples
    --------
    >>> census(["Gold and tin.", "New York, golden New York"], ["gold", "New York", "york"])[["keyword", "count"]]
        keyword  count
    0      gold      1
    1  New York      2
    2      york      0
    """
    names = list(dict.fromkeys(keywords))
    candidates = _by_first_word(names)
    count, holding = np.zeros(len(names), int), np.zeros(len(names), int)
    n_texts = n_words = 0
    for text in texts:
        words = _WORD.findall(text)
        n_texts, n_words = n_texts + 1, n_words + len(words)
        found = np.array(_find(words, candidates), dtype=int)
        np.add.at(count, found, 1)
        holding[np.unique(found)] += 1
    if not n_words:
        raise UserError("The texts hold no word", where="corpus")
    return pd.DataFrame(
        {
            "keyword": names,
            "count": count,
            "texts": holding,
            "per_million": 1e6 * count / n_words,
            "n_texts": n_texts,
            "n_words": n_words,
        }
    )


def without(texts: Iterable[str], keywords: Iterable[str]) -> list[str]:
    """The texts that hold none of the keywords, matched as in `census`.

    Examples
    --------
    >>> without(["We march on.", "It rained in March."], ["March"])
    ['We march on.']
    """
    candidates = _by_first_word(list(keywords))
    return [text for text in texts if not _find(_WORD.findall(text), candidates)]


def telling_words(texts: Sequence[str], labels: Sequence[str], n: int = 5) -> pd.DataFrame:
    """Find the words that set the conditions of a stimulus set apart.

    Parameters
    ----------
    texts, labels : sequences of S str
    n : int, default 5
        Words per condition at most; fewer where fewer are more frequent there.

    Returns
    -------
    DataFrame
        `condition`, `word` (lower case, two letters or more), `share` of the condition's texts that hold it,
        `share_elsewhere`, and `z` of the difference of the two shares with a pooled variance (its square is
        chi-squared of the fourfold table). Best first; the best of many, so z is no test.
    """
    vectorizer = CountVectorizer(binary=True)
    held_SW = vectorizer.fit_transform(texts).toarray().astype(bool)
    words, conditions = vectorizer.get_feature_names_out(), np.asarray(labels)
    parts = []
    for condition in dict.fromkeys(labels):
        inside = conditions == condition
        share, elsewhere, pooled = held_SW[inside].mean(0), held_SW[~inside].mean(0), held_SW.mean(0)
        error = np.sqrt(pooled * (1 - pooled) * (1 / inside.sum() + 1 / (~inside).sum()))
        z = np.divide(share - elsewhere, error, out=np.zeros(len(words)), where=error > 0)
        table = pd.DataFrame(
            {"condition": condition, "word": words, "share": share, "share_elsewhere": elsewhere, "z": z}
        )
        parts.append(table[table["z"] > 0].sort_values("z", ascending=False, kind="stable").head(n))
    return pd.concat(parts, ignore_index=True)


Candidate = tuple[tuple[str, ...], bool, int]  # words, whether case counts, which keyword


def _by_first_word(keywords: Sequence[str]) -> dict[str, list[Candidate]]:
    """Keywords by their first word in one case, in the order in which they are tried."""
    if not keywords:
        raise UserError("There is no keyword", where="keywords")
    candidates: dict[str, list[Candidate]] = {}
    for number, keyword in enumerate(keywords):
        words = _WORD.findall(keyword)
        if not words:
            raise UserError(f"'{keyword}' holds no word", where="keywords")
        exact = keyword != keyword.lower()
        shown = tuple(words if exact else (word.casefold() for word in words))
        candidates.setdefault(words[0].casefold(), []).append((shown, exact, number))
    for group in candidates.values():
        group.sort(key=lambda candidate: (-len(candidate[0]), not candidate[1]))
    return candidates


def _find(words: Sequence[str], candidates: dict[str, list[Candidate]]) -> list[int]:
    """Numbers of the keywords in a text, in reading order."""
    found: list[int] = []
    free = 0  # first word that is no part of a match yet
    for start, word in enumerate(words):
        if start < free or (group := candidates.get(word.casefold())) is None:
            continue
        for shown, exact, number in group:
            here = words[start : start + len(shown)]
            if shown == tuple(here if exact else (w.casefold() for w in here)):
                found.append(number)
                free = start + len(shown)
                break
    return found
