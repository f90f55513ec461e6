"""Tables of a run as the page shows them: which columns, how formatted, by what sorted and filtered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from neurosae.plots import LABELS, selector_label
from neurosae.report import drawings
from neurosae.report.texts import folded, visible
from neurosae.report.wording import NOTHING, estimate, is_number, number, verdict
from neurosae.runs.scorecard import OUTCOMES
from neurosae.runs.verdicts import faring

Row = Mapping[Any, Any]
SORTED_BY = 60
"""Characters of a text that it is sorted by."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes
    ----------
    title : str
    shown : callable
        Row to what stands in the cell; escaped unless it is `Markup`.
    key : str
        Column of the table to sort by.
    filter : bool
        Whether a menu offers its values.
    wide : bool
        Whether it holds prose.
    """

    title: str
    shown: Callable[[Row], Any]
    key: str
    filter: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, what it is sorted by, and its class."""

    shown: Any
    sort: str
    look: str


@dataclass(frozen=True)
class TableView:
    """A table ready for the template; `menus` holds the values of every column that can be filtered by."""

    name: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    menus: dict[int, list[str]]


def view(name: str, caption: str, table: pd.DataFrame, columns: Sequence[Column | None]) -> TableView:
    """A table with these columns, as far as it has them."""
    kept = [column for column in columns if column is not None and column.key in table]
    records = table.to_dict("records")
    rows = [[_cell(column, record) for column in kept] for record in records]
    menus = {
        i: sorted({str(row[i].shown) for row in rows})
        for i, column in enumerate(kept)
        if column.filter and len(rows) > 1
    }
    return TableView(name, caption, kept, rows, menus)


def _cell(column: Column, record: Row) -> Cell:
    value = record.get(column.key)
    numeric = is_number(value)
    missing = value is None or value is pd.NA or (isinstance(value, float) and not numeric)
    look = "wide" if column.wide else "number" if numeric or missing else ""
    return Cell(column.shown(record), "" if missing else visible(value)[:SORTED_BY], look)


def text(title: str, key: str, *, filter: bool = False, wide: bool = False) -> Column:
    """A text as it is."""

    def shown(row: Row) -> Any:
        value = row.get(key)
        return "" if value is None or (isinstance(value, float) and not is_number(value)) else folded(value)

    return Column(title, shown if wide else lambda row: str(row.get(key, "")), key, filter, wide)


def figure(title: str, key: str, digits: int = 2, *, sign: bool = False) -> Column:
    """A number."""
    return Column(title, lambda row: number(row.get(key), digits, sign=sign), key)


def with_interval(title: str, key: str, low: str, high: str, digits: int = 2, *, sign: bool = False) -> Column:
    """A number and its 95 % interval."""

    def shown(row: Row) -> Any:
        middle, _, bounds = estimate(row, key, low, high, digits, sign=sign).partition(" ")
        return Markup('{} <span class="bounds">{}</span>').format(middle, bounds) if bounds else middle

    return Column(title, shown, key)


def p(title: str, key: str) -> Column:
    """A p-value."""

    def shown(row: Row) -> str:
        value = row.get(key)
        return NOTHING if not is_number(value) else "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0")

    return Column(title, shown, key)


_REPRESENTATION = Column(
    "features", lambda row: LABELS.get(str(row["representation"]), str(row["representation"])), "representation", True
)
_SELECTOR = Column("selector", lambda row: selector_label(row["selector"]), "selector", True)


def badge(text: Any) -> Markup:
    """A verdict as a badge: sign, word and colour."""
    look, sign, word = verdict(text)
    return Markup('<span class="badge {}"><span aria-hidden="true">{}</span> {}</span>').format(look, sign, word)


def claims(table: pd.DataFrame, outcome: str | None, name: str) -> TableView:
    """The claims for one outcome, each with its interval drawn."""
    margin = OUTCOMES[outcome].margin if outcome in OUTCOMES else 0.02
    label = OUTCOMES[outcome].label if outcome in OUTCOMES else "held-out AUROC"
    bounds = table[["ci_low", "ci_high"]].abs().to_numpy(dtype=float)
    reach = 1.05 * float(pd.Series(bounds.ravel()).max()) if len(table) else 0.0

    def drawn(row: Row) -> Markup:
        return drawings.forest(row["delta"], row["ci_low"], row["ci_high"], reach, margin)

    def said(row: Row) -> Markup:
        reason = row.get("reason")
        parts = [faring(row["verdict"]), reason if isinstance(reason, str) else ""]
        more = "; ".join(part for part in parts if part).replace("_", " ")
        return Markup("{}<small>{}</small>").format(str(row["claim"]).replace("_", " "), more)

    columns = [
        Column("claim", said, "claim", wide=True),
        Column("verdict", lambda row: badge(row["verdict"]), "verdict"),
        with_interval("difference [95 %]", "delta", "ci_low", "ci_high", 3, sign=True),
        Column(f"±{number(reach, 2)}; band: equal" if reach > 0 else "interval", drawn, "delta"),
        p("p (Holm)", "p_holm"),
        figure("cells", "n_cells", 0),
        figure("contrasts", "n_contrasts", 0),
    ]
    return view(name, f"Differences in {label}", table, columns)


def variants(table: pd.DataFrame) -> TableView:
    """Every variant of the grid."""
    many = [name for name in ("ensemble", "block", "pooling") if table[name].nunique() > 1]
    shown = table.assign(role=["yardstick" if control else "method" for control in table["control"].astype(bool)])
    columns = [
        figure("rank", "rank", 0),
        _REPRESENTATION,
        _SELECTOR,
        figure("k", "k", 0),
        *(text(name, name, filter=True) for name in many),
        with_interval("AUROC [95 %]", "auroc", "auroc_ci_low", "auroc_ci_high"),
        p("p", "auroc_p"),
        with_interval("accuracy [95 %]", "balanced_accuracy", "balanced_accuracy_ci_low", "balanced_accuracy_ci_high"),
        figure("new domain", "new_domain_auroc"),
        figure("stability", "stability"),
        text("role", "role", filter=True),
    ]
    return view("variants-table", f"All {len(table)} variants, best held-out AUROC first", shown, columns)


def scorecard(table: pd.DataFrame) -> TableView:
    """Every outcome of every variant; a dash where a stage has not measured it, and the reasons it gives."""
    given = [name for name in table if str(name).endswith("_reason")]
    reasons = ["; ".join(dict.fromkeys(filter(None, row))) for row in table[given].fillna("").astype(str).to_numpy()]
    table = table.assign(reasons=reasons) if any(reasons) else table
    columns = [
        figure("rank", "rank", 0),
        _REPRESENTATION,
        _SELECTOR,
        figure("k", "k", 0),
        with_interval("AUROC", "auroc", "auroc_ci_low", "auroc_ci_high"),
        figure("new domain", "new_domain_auroc"),
        figure("stability", "stability"),
        with_interval("retrieval AP", "discovery_ap", "discovery_low", "discovery_high"),
        figure("nDCG", "discovery_ndcg"),
        with_interval("grade of texts, 0–3", "target_score", "target_low", "target_high"),
        p("p (labels)", "target_p"),
        p("p (random features)", "target_p_random"),
        with_interval("causal shift, nats", "causal_shift", "causal_low", "causal_high", sign=True),
        figure("norm", "causal_norm", 0),
        p("p (directions)", "causal_p_random"),
        text("why a dash", "reasons", wide=True),
    ]
    return view("scorecard-table", "Every outcome of every variant", table, columns)


def confounds(table: pd.DataFrame) -> TableView:
    """What else might tell the sides apart, the verdict first."""
    filled = table.assign(test=table["test"].fillna("")) if "test" in table else table
    columns = [
        text("measure", "measure"),
        text("verdict", "verdict", wide=True),
        figure("target mean", "target"),
        figure("foil mean", "foil"),
        figure("difference", "difference", sign=True),
        p("p", "p"),
        figure("accuracy", "value"),
        figure("n", "n", 0),
        text("test", "test"),
    ]
    return view("confounds-table", "What else might tell the sides apart", filled, columns)


def reliability(table: pd.DataFrame) -> TableView:
    """Reliability of what selectors choose, and of whole maps."""
    columns = [
        text("of", "kind", filter=True),
        _REPRESENTATION,
        Column("selector", lambda row: selector_label(row.get("selector") or ""), "selector"),
        figure("block", "block", 0),
        figure("k", "k", 0),
        with_interval("reliability [95 %]", "reliability", "low", "high"),
        figure("its features, mean", "features_mean"),
        figure("items", "n_items", 0),
        text("reason", "reason", wide=True),
    ]
    filled = table.assign(selector=table["selector"].fillna("").astype(str)) if "selector" in table else table
    kept = filled.loc[:, [bool((filled[name].notna() & (filled[name] != "")).any()) for name in filled]]
    return view("reliability-table", "Reliability over items", kept, columns)


def models(name: str, table: pd.DataFrame) -> TableView:
    """Which model RDM explains a geometry."""
    columns = [
        text("model", "model"),
        with_interval("score [95 %]", "score", "low", "high", 3),
        p("p", "p"),
        p("p (Holm)", "p_holm"),
    ]
    return view(f"rsa-{name}", "Which model explains the geometry?", table, columns)


def plain(name: str, caption: str, table: pd.DataFrame, titles: Mapping[str, str] | None = None) -> TableView:
    """Any table: columns as they are, numbers with three significant digits, empty columns left out."""
    titles = titles or {}
    kept = [column for column in table.columns if not table[column].isna().all() and not (table[column] == "").all()]

    def column(key: str) -> Column:
        def shown(row: Row) -> Any:
            value = row.get(key)
            if isinstance(value, bool | str):
                return folded(value) if isinstance(value, str) else "yes" if value else "no"
            if not is_number(value):
                return NOTHING if value is None or isinstance(value, float) else str(value)
            whole = float(value) == int(value)
            return number(value, 0) if whole else number(value, 2 if abs(value) >= 1 else 3)

        prose = table[key].map(lambda value: isinstance(value, str) and len(value) > 40).any()
        return Column(titles.get(key, key.replace("_", " ")), shown, key, wide=bool(prose))

    return view(name, caption, table, [column(str(key)) for key in kept])
