"""Cards of single features: what each does on the stimuli, which texts drive it, and what it says by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from neurosae.autointerp.examples import token_spans
from neurosae.capture import TEXT
from neurosae.decoding.reliability import feature_reliability
from neurosae.errors import UserError
from neurosae.inference import test_contrast
from neurosae.inference.heldout import auroc
from neurosae.responses import Pooling, Responses
from neurosae.rsa.results import Reason
from neurosae.stimuli import LabelledContrast

Array = NDArray[np.float64]
BINS = 20
RANDOM = "random"


@dataclass
class Choice:
    """A feature that selectors chose when they saw all stimuli."""

    representation: str
    block: int
    feature: int
    direction: int
    chosen_by: list[str] = field(default_factory=list)
    share_of_folds: dict[str, float] = field(default_factory=dict)

    @property
    def votes(self) -> int:
        """Selectors that chose it, the random draw not counted."""
        return sum(name != RANDOM for name in self.chosen_by)


def choices(cells: Sequence[dict[str, Any]]) -> list[Choice]:
    """The union of the features of several variants, in order of appearance.

    Parameters
    ----------
    cells : sequence of dict
        As `neurosae.runs.RunFolder.cells` reads them.
    """
    found: dict[tuple[str, int, int], Choice] = {}
    for cell in cells:
        share = dict(zip(cell["selection"]["feature"], cell["selection"]["share"], strict=True))
        for feature, direction in zip(cell["features"]["feature"], cell["features"]["direction"], strict=True):
            key = (cell["representation"], cell["block"], feature)
            choice = found.setdefault(key, Choice(*key, direction=int(direction)))
            choice.chosen_by.append(cell["selector"])
            choice.share_of_folds[cell["selector"]] = float(share.get(feature, 0.0))
    return list(found.values())


def effects(X_SK: Array, sides: LabelledContrast) -> list[dict[str, Any]]:
    """How well each feature tells the sides apart, over all stimuli: descriptive, as the features were chosen on them.

    Returns
    -------
    list of K dict
        `auroc`, `d` (Cohen's, within pairs d_z), `t`, `reliability` (over items; None with `reliability_reason`),
        `reason` (why the test means nothing, if it does).
    """
    test = test_contrast(X_SK, sides.labels_S, blocks_S=sides.blocks_S, design=sides.design)
    auroc_K = auroc(X_SK.T, np.tile(sides.labels_S, (X_SK.shape[1], 1)))
    reliability_K: list[float | None] = [None] * X_SK.shape[1]
    why = ""
    try:
        reliability_K = [
            float(value) for value in feature_reliability(X_SK, sides.labels_S, sides.groups_S).reliability
        ]
    except UserError as error:
        why = error.what
    return [
        {
            "auroc": float(auroc_K[k]),
            "d": float(test.d[k]),
            "t": float(test.t[k]),
            "reliability": reliability_K[k],
            "reliability_reason": why,
            "reason": "" if test.valid[k] else Reason(test.reason[k]).name.lower(),
        }
        for k in range(X_SK.shape[1])
    ]


def histogram(value_S: Array, sides: LabelledContrast, sparse: bool, bins: int = BINS) -> dict[str, Any]:
    """Pooled activation by side.

    Parameters
    ----------
    value_S : array [S]
    sides : LabelledContrast
    sparse : bool
        Whether stimuli at exactly 0 are silent: they are counted apart, and by no bin.
    bins : int, default 20

    Returns
    -------
    dict
        `edges` (bins + 1; empty if every stimulus is silent), and by side: `counts` (per bin), `n` (stimuli), `silent`.
        Counts and silent stimuli sum to n.
    """
    active_S = value_S != 0 if sparse else np.ones(len(value_S), dtype=bool)
    edges = np.histogram_bin_edges(value_S[active_S], bins) if active_S.any() else np.zeros(0)
    of = {name: sides.labels_S == sign for name, sign in zip(sides.names, (1, -1), strict=True)}
    return {
        "edges": edges.round(6).tolist(),
        "counts": {
            name: np.histogram(value_S[on_S & active_S], edges)[0].tolist() if len(edges) else []
            for name, on_S in of.items()
        },
        "n": {name: int(on_S.sum()) for name, on_S in of.items()},
        "silent": {name: int((on_S & ~active_S).sum()) for name, on_S in of.items()},
    }


@dataclass(frozen=True, eq=False)
class Heard:
    """Texts as one representation hears them: what the strongest of a feature are looked up in.

    Attributes
    ----------
    responses : Responses
    texts : list of str
        In the order of the responses' stimuli.
    value_SF : array or sparse array [S, F]
        Pooled; rows of texts without a value are no candidates.
    valid_S : bool array [S]
    """

    responses: Responses
    texts: list[str]
    value_SF: Any
    valid_S: NDArray[np.bool_]

    @classmethod
    def of(cls, responses: Responses, texts: Sequence[str], pooling: Pooling) -> Heard:
        """Pool the responses."""
        pooled = responses.pool(pooling)
        values: Any = pooled.values_SF
        return cls(responses, list(texts), values.tocsc() if sp.issparse(values) else values, pooled.valid_S)

    def column(self, feature: int) -> Array:
        """Pooled values [S] of a feature."""
        return _dense(self.value_SF[:, [feature]])

    def strongest(
        self, feature: int, among: ArrayLike, n: int, *, sign: int = 1, baseline: float = 0.0
    ) -> list[dict[str, Any]]:
        """Texts with the largest pooled value of a feature, the strongest first; texts at 0 of a latent are left out.

        Parameters
        ----------
        feature : int
        among : int array
            Rows to look at.
        n : int
        sign : {1, -1}
            -1 looks for the smallest.
        baseline : float
            Taken from the activation of every token (not from the pooled value).

        Returns
        -------
        list of dict
            `row`, `text`, `value` (pooled) and `tokens`: [start, end, activation] in characters of the text.
        """
        value_S, among = self.column(feature), np.asarray(among)
        usable = among[self.valid_S[among]]
        if sp.issparse(self.value_SF):
            usable = usable[value_S[usable] != 0]
        order = usable[np.argsort(-sign * value_S[usable], kind="stable")][:n]
        return [
            {
                "row": int(row),
                "text": self.texts[row],
                "value": round(float(value_S[row]), 4),
                "tokens": self._spans(int(row), feature, baseline),
            }
            for row in order
        ]

    def mean_token(self, feature: int) -> float:
        """Mean activation over all clean tokens."""
        clean_T = np.flatnonzero(self.responses.tokens["clean"].to_numpy(dtype=bool))
        return float(_dense(self.responses.values[clean_T][:, [feature]]).mean()) if len(clean_T) else 0.0

    def _spans(self, row: int, feature: int, baseline: float) -> list[list[float]]:
        tokens = self.responses.tokens
        first, stop = np.searchsorted(tokens["stimulus"].to_numpy(), [row, row + 1])
        of_text = tokens.iloc[first:stop]
        is_text = (of_text["role"] == TEXT).to_numpy()
        active_T = _dense(self.responses.values[first:stop][:, [feature]]) - baseline
        # What lies beyond the usual norm takes no part in any statistic, and would outshine all other tokens.
        active_T = np.where(of_text["clean"].to_numpy(dtype=bool), active_T, 0.0)
        spans = token_spans(self.texts[row], of_text["token"][is_text], active_T[is_text])
        return [[start, stop, round(value, 4)] for start, stop, value in spans]


def _dense(column: Any) -> Array:
    return np.asarray(column.toarray() if sp.issparse(column) else column, dtype=np.float64).ravel()
