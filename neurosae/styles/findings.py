"""What was found, in sentences, from the tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

ALPHA = 0.05


def of_active_latents(comparisons: pd.DataFrame, baseline: str, controls: Sequence[str]) -> str:
    """Which styles change the number of active latents per token of the shared question, and do the controls?

    Parameters
    ----------
    comparisons : DataFrame
        From `compare_styles`, with `pool` and `wordings_apart`.
    baseline : str
    controls : sequence of str
    """
    rows = comparisons[(comparisons["pool"] == "question") & (comparisons["measure"] == "active")]
    parts = []
    for style in dict.fromkeys([*rows["against"], *rows["style"]]):
        if style == baseline:
            continue
        change = _difference(rows, style, baseline)
        said = f"{style} {change['difference']:+.2f} [{change['low']:.2f}, {change['high']:.2f}]"
        if change["p_fwe"] >= ALPHA:
            said += " (not significant)"
        elif not change["wordings_apart"]:
            said += " (not in every wording)"
        parts.append(said)
    moved = [control for control in controls if _difference(rows, control, baseline)["p_fwe"] < ALPHA]
    warning = (
        f" What says nothing ({_listed(moved)}) moves it as well: such a difference alone is no effect of what is said."
        if moved
        else ""
    )
    return (
        f"Active latents per token of the same question, against {baseline} (95 % over topics, in these wordings): "
        f"{', '.join(parts)}.{warning}"
    )


def of_separators(separators: pd.DataFrame, controls: Sequence[str]) -> str:
    """How many perfect separators survive a held-out wording, between styles that say something."""
    parts = []
    for pool, rows in separators.groupby("pool", sort=False):
        told = ~(rows["fires_in"].isin(controls) | rows["silent_in"].isin(controls))
        parts.append(
            f"in the {pool} {rows.loc[told, 'found'].sum():.1f} found and {rows.loc[told, 'survived'].sum()} survive "
            f"({rows.loc[told, 'survived_by_chance'].sum():.1f} by chance)"
        )
        significant = rows[rows["p_fwe"] < ALPHA]
        if len(significant):
            names = _listed(list(dict.fromkeys(significant["fires_in"])))
            parts[-1] += f", more than chance only for what fires in {names}"
    return (
        "Perfect separators of two styles, controls left out, checked on wordings held out: " + "; ".join(parts) + "."
    )


def of_controls(controls_table: pd.DataFrame) -> str:
    """How much of what a style changes goes beyond each control."""
    rows = controls_table[controls_table["pool"] == "question"]
    parts = []
    for style, of_style in rows.groupby("style", sort=False):
        if style in set(rows["control"]):
            continue
        beyond = ", ".join(
            f"{row.beyond} beyond {row.control}, {row.beyond_and_apart} of them in every wording"
            for row in of_style.itertuples()
        )
        first = of_style.iloc[0]
        share = f"{first['changed'] or 'none'} of {first['tested']:,} latents"
        parts.append(f"{style} changes {share}" + (f" ({beyond})" if first["changed"] else ""))
    return f"On the tokens of the same question, max-T: {'; '.join(parts)}."


def of_separation(separation: pd.DataFrame) -> str:
    """Neurons against latents, in new topics and in new wordings."""
    rows = separation[separation["pool"] == "question"]
    measured = rows[rows["valid"]]
    if measured.empty:
        return f"Separation was not measured: {rows['reason'].iloc[0]}."
    where = {"topic": "in new topics", "wording": "in a wording never seen"}
    said = [
        " and ".join(f"{row.knn_accuracy:.2f} ({row.space}{_p_of(row)})" for row in here.itertuples())
        + f" {where[str(new)]}"
        for new, here in measured.groupby("new")
    ]
    return (
        f"Neighbours tell the style from the question's tokens with accuracy {', '.join(said)}; chance is "
        f"{measured['chance'].iloc[0]:.2f}."
    )


def of_answers(relations: pd.DataFrame, verdict: str) -> str:
    """Whether quality goes with active latents once length is held."""
    row = relations[(relations["first"] == "active") & (relations["second"] == "quality")].iloc[0]
    if row["reason"]:
        return f"No relation between active latents and quality: {row['reason']}. {verdict}"
    said = "go together" if row["p_holm"] < ALPHA else "are not shown to go together"
    return (
        f"Active latents and the quality of {row['n']} answers {said} with lengths held: partial r "
        f"{row['partial']:+.2f} [{row['low']:.2f}, {row['high']:.2f}] (p {row['p_holm']:.2g}, Holm). {verdict}"
    )


def _p_of(row: Any) -> str:
    return f", p {row.p:.2g}" if row.new == "wording" else ""


def _difference(rows: pd.DataFrame, style: str, against: str) -> dict[str, Any]:
    """One row of a table of pairs, whichever way round it stands there."""
    here = rows[(rows["style"] == style) & (rows["against"] == against)]
    if len(here):
        return dict(here[["difference", "low", "high", "p_fwe", "wordings_apart"]].iloc[0])
    there = rows[(rows["style"] == against) & (rows["against"] == style)].iloc[0]
    return dict(there) | {"difference": -there["difference"], "low": -there["high"], "high": -there["low"]}


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
