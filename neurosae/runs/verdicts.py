"""Verdicts: from an effect, its interval and its corrected p to one word, and from that word to a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from neurosae.inference import holm

ALPHA = 0.05
NOT_TESTED = "not tested"
WORDS = {
    "supported": "better than",
    "opposite": "worse than",
    "equivalent": "equivalent to",
    "undecided": "undecided against",
    NOT_TESTED: "not compared with",
}
"""Kinds of verdicts, and how the family named first fares then."""


@dataclass(frozen=True)
class Verdict:
    """How one family of methods fares against another.

    Attributes
    ----------
    kind : str
        A key of `WORDS`, or why there is no test.
    delta, low, high : float
        Difference and its 95 % interval; NaN without a test.

    Examples
    --------
    >>> Verdict("supported", 0.1234, 0.05, 0.2).faring("t")
    'better than t: +0.123 [+0.050, +0.200]'
    """

    kind: str
    delta: float = np.nan
    low: float = np.nan
    high: float = np.nan

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> Verdict:
        """The verdict of a row that `with_verdicts` has judged."""
        return cls(row["verdict"], row["delta"], row["ci_low"], row["ci_high"])

    def phrase(self, reference: str) -> str:
        """In words: 'better than t'."""
        return f"{WORDS[self.kind]} {reference}"

    def faring(self, reference: str) -> str:
        """The same with the effect and its interval, where there is one."""
        if self.kind == NOT_TESTED:
            return self.phrase(reference)
        return f"{self.phrase(reference)}: {self.delta:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def with_verdicts(table: pd.DataFrame, margin: float, untested: str = NOT_TESTED) -> pd.DataFrame:
    """Add Holm's p over the tests that were made, and the kind of every verdict.

    *equivalent* where the interval lies inside +-`margin`; else *supported* or *opposite* where the corrected p is
    below .05 and the interval excludes 0; else *undecided*.

    Parameters
    ----------
    table : DataFrame
        Columns delta, ci_low, ci_high, p; a row without p was not tested.
    margin : float
        Differences up to which two families count as equivalent.
    untested : str, default 'not tested'
        What is said where there is no test.

    Returns
    -------
    DataFrame
        With the columns p_holm and verdict.

    Examples
    --------
    >>> rows = pd.DataFrame({"delta": [0.1, np.nan], "ci_low": [0.05, np.nan], "ci_high": [0.2, np.nan]})
    >>> with_verdicts(rows.assign(p=[0.01, np.nan]), margin=0.02)["verdict"].tolist()
    ['supported', 'not tested']
    """
    tested = table["p"].notna().to_numpy()
    adjusted = np.full(len(table), np.nan)
    adjusted[tested] = holm(table["p"].to_numpy()[tested])
    low, high = (table[name].to_numpy(dtype=np.float64) for name in ("ci_low", "ci_high"))
    verdict = np.full(len(table), "undecided", dtype=object)
    verdict[(adjusted < ALPHA) & (low > 0)] = "supported"
    verdict[(adjusted < ALPHA) & (high < 0)] = "opposite"
    verdict[(low >= -margin) & (high <= margin)] = "equivalent"
    verdict[~tested] = untested
    return table.assign(p_holm=adjusted, verdict=verdict)


def beside(table: pd.DataFrame, families: Sequence[str], against: Mapping[tuple[str, str], Verdict]) -> pd.DataFrame:
    """Add how the family of each row fares against every reference: a column each, and behind the verdict.

    Parameters
    ----------
    table : DataFrame
        Judged claims.
    families : sequence of str
        The family that each claim names first.
    against : mapping of (family, reference) to Verdict
    """
    references = list(dict.fromkeys(reference for _, reference in against))
    columns = {
        f"against_{reference}": [against[family, reference].faring(reference) for family in families]
        for reference in references
    }
    told = [", ".join(against[family, name].phrase(name) for name in references) for family in families]
    sentences = [
        f"{kind}; {family} {text}" for kind, family, text in zip(table["verdict"], families, told, strict=True)
    ]
    return table.assign(**columns, verdict=sentences)


def kind(verdict: str) -> str:
    """The kind in a verdict that `beside` has added to.

    >>> kind("supported; RSA worse than t")
    'supported'
    """
    return str(verdict).partition(";")[0].strip()


def faring(verdict: str) -> str:
    """What `beside` has added to a verdict.

    >>> faring("supported; RSA worse than t")
    'RSA worse than t'
    """
    return str(verdict).partition(";")[2].strip()
