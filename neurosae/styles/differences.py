"""Latents that differ between two styles, and how much of that filler or white space of the same length does too."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from neurosae.inference import max_t
from neurosae.styles.crossing import Crossing
from neurosae.styles.firing import firing_rates
from neurosae.styles.pools import Pool

Array = NDArray[np.float64]
ALPHA = 0.05


def style_differences(
    pool: Pool, pairs: Sequence[tuple[str, str]] | None = None, *, n: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Test every latent for a difference between two styles.

    Parameters
    ----------
    pool : Pool
    pairs : sequence of (style, against), optional
        All pairs by default.
    n, seed : int, default 1000 and 0
        Sign flips of topics.

    Returns
    -------
    DataFrame
        One row per pair and latent that does not fire equally everywhere, the largest |t| first: `style`, `against`,
        `latent`, `effect` (mean activation over tokens, wordings and topics, `style` less `against`), `t`, `d`, `p`,
        `p_fwe` (paired over topics; max-T over the latents of the pair), `rate`, `rate_against` (share of prompts in
        which it fires), `wordings_apart` (whether each wording of one style lies beyond each of the other; if wordings
        were exchangeable that had probability 2 / C(2V, V), .029 for four).

    Raises
    ------
    UserError
        A style that does not exist.
    """
    crossing = pool.crossing
    by_topic = _mean_over_wordings(pool.mean_SF, crossing)
    by_wording_CVF = _mean_over_topics(pool.mean_SF, crossing)
    rates_CF = firing_rates(pool.maximum_SF, crossing).mean(axis=1)
    chosen = [(a, b) for b, a in itertools.combinations(crossing.styles, 2)] if pairs is None else pairs
    tables = []
    for name, against in chosen:
        a, b = crossing.style(name), crossing.style(against)
        n_topics = len(crossing.topics)
        rows = np.concatenate([np.arange(n_topics) + c * n_topics for c in (a, b)])
        test = max_t(
            by_topic[rows], np.repeat([1, -1], n_topics), np.tile(np.arange(n_topics), 2), "pairs", n=n, seed=seed
        )
        first_VF, second_VF = by_wording_CVF[a], by_wording_CVF[b]
        apart_F = (first_VF.min(0) > second_VF.max(0)) | (second_VF.min(0) > first_VF.max(0))
        valid = np.flatnonzero(test.observed.valid)
        columns = {
            "effect": test.observed.effect,
            "t": test.observed.t,
            "d": test.observed.d,
            "p": test.p,
            "p_fwe": test.p_fwe,
            "rate": rates_CF[a],
            "rate_against": rates_CF[b],
            "wordings_apart": apart_F,
        }
        order = valid[np.argsort(-np.abs(test.observed.t[valid]), kind="stable")]
        found = {column: value[order] for column, value in columns.items()}
        tables.append(pd.DataFrame({"style": name, "against": against, "latent": order, **found}))
    return pd.concat(tables, ignore_index=True)


def beyond_controls(
    differences: pd.DataFrame, baseline: str, controls: Sequence[str], *, alpha: float = ALPHA
) -> pd.DataFrame:
    """How much of what a style changes does a control of the same length change as well?

    Parameters
    ----------
    differences : DataFrame
        From `style_differences` of all pairs.
    baseline : str
        The plain style.
    controls : sequence of str
        Styles that say nothing, such as filler and white space.
    alpha : float, default 0.05
        Of `p_fwe`.

    Returns
    -------
    DataFrame, one row per style but the baseline and control
        `style`, `control`; `changed` (latents that differ from the baseline), `apart` (of these, those in which each
        wording of the style lies beyond each of the baseline), `apart_of_all` (of all `tested` latents); of the changed
        ones, `shared` (the control changes them in the same direction),
        `beyond` (they also differ from the control, in the direction of the change) and `beyond_and_apart`.
    """
    signed, tested = {}, {}
    for (style, against), rows in differences.groupby(["style", "against"], sort=False):
        table = rows.set_index("latent")
        direction = np.sign(table.loc[table["p_fwe"] < alpha, "effect"])
        signed[style, against], signed[against, style] = direction, -direction
        tested[style, against] = tested[against, style] = table["wordings_apart"]
    styles = [style for style in dict.fromkeys([*differences["against"], *differences["style"]]) if style != baseline]
    found = []
    for style, control in itertools.product(styles, controls):
        if style == control:
            continue
        changed = signed[style, baseline]
        apart = tested[style, baseline]
        beyond = signed[style, control].reindex(changed.index) == changed
        found.append(
            {
                "style": style,
                "control": control,
                "changed": len(changed),
                "apart": int(apart[changed.index].sum()),
                "apart_of_all": int(apart.sum()),
                "tested": len(apart),
                "shared": int((signed[control, baseline].reindex(changed.index) == changed).sum()),
                "beyond": int(beyond.sum()),
                "beyond_and_apart": int((beyond & apart[changed.index]).sum()),
            }
        )
    return pd.DataFrame(found)


def _mean_over_wordings(mean_SF: sp.csr_array, crossing: Crossing) -> sp.csr_array:
    """Style by topic [C I, F], sparse."""
    _, n_wordings, n_topics = crossing.shape
    cell_S = crossing.style_S * n_topics + crossing.topic_S
    member = sp.csr_array((np.full(len(cell_S), 1 / n_wordings), (cell_S, np.arange(len(cell_S)))))
    return sp.csr_array(member @ mean_SF)


def _mean_over_topics(mean_SF: sp.csr_array, crossing: Crossing) -> Array:
    """Style by wording [C, V, F]."""
    n_styles, n_wordings, n_topics = crossing.shape
    cell_S = crossing.wording_S
    member = sp.csr_array((np.full(len(cell_S), 1 / n_topics), (cell_S, np.arange(len(cell_S)))))
    return np.asarray((member @ mean_SF).toarray()).reshape(n_styles, n_wordings, -1)
