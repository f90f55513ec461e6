"""What is true of the methods: level of the tests, coverage of the intervals, and who finds planted features.

``python -m benchmarks.truth`` draws data whose truth is known and writes three tables, `level.csv`, `coverage.csv` and
`selectors.csv`. A test fails where its false alarms are too many to be compatible with the nominal .05, at .05 divided
by the number of checks. Everything depends on `--seed` and `--datasets` only, bitwise the same for any `--jobs`.

Examples
--------
python -m benchmarks.truth --write-docs
python -m benchmarks.truth --datasets 50 --out truth
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.truth_level import ALPHA, level_and_coverage
from benchmarks.truth_planted import KS, recall_and_precision
from neurosae import console
from neurosae.console import Parser, Summary
from neurosae.errors import UserError
from neurosae.files import write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "choosing_a_selector.md"
MARKS = {"too often": "**{}**", "too narrow": "**{}**", "too seldom": "{} ↓", "too wide": "{} ↑", "nominal": "{}"}
"""How a share is set by its verdict: bold is bad, an arrow is conservative."""


def tables(n_datasets: int, n_jobs: int, seed: int) -> dict[str, pd.DataFrame]:
    """All three tables; every signal is planted in a tenth as many data sets (two at least)."""
    level, coverage = level_and_coverage(n_datasets, n_jobs, seed)
    return {
        "level": level,
        "coverage": coverage,
        "selectors": recall_and_precision(max(2, n_datasets // 10), n_jobs, seed),
    }


def as_markdown(found: dict[str, pd.DataFrame]) -> dict[str, str]:
    """The tables for readers: shares by kind of noise, recall by signal; and what failed."""
    level, coverage = (table.assign(cell=_marked(table)) for table in (found["level"], found["coverage"]))
    markdown = {
        "level": _pivot(level, ["test", "design", "error"], "kind"),
        "coverage": _pivot(coverage, ["interval", "design"], "kind"),
    }
    for k in KS:
        table = found["selectors"].query("k == @k")
        half = (table["recall_high"] - table["recall_low"]) / 2
        cells = [f"{mean:.2f} ±{width:.2f}" for mean, width in zip(table["recall"], half, strict=True)]
        markdown[f"recall {k}"] = _pivot(table.assign(cell=cells), ["method"], "signal")
    return markdown | {"failures": _failures(level, coverage)}


def _marked(table: pd.DataFrame) -> list[str]:
    return [
        MARKS[verdict].format(f"{share:.3f}") for verdict, share in zip(table["verdict"], table["share"], strict=True)
    ]


def _pivot(table: pd.DataFrame, rows: list[str], column: str) -> str:
    """One line for every combination of `rows`, one cell for every value of `column`, in the order of the table."""
    columns = list(dict.fromkeys(table[column]))
    lines = [[*rows, *columns], ["---"] * (len(rows) + len(columns))]
    for names, part in table.groupby(rows, sort=False):
        cells = part.set_index(column)["cell"]
        lines.append([*map(str, names), *(str(cells.get(value, "–")) for value in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _failures(level: pd.DataFrame, coverage: pd.DataFrame) -> str:
    """How many checks there were, and how many failed where the labels are exchangeable and where not."""
    checks = pd.concat([level, coverage])
    n_failed = checks["verdict"].isin(["too often", "too narrow"]).groupby(checks["kind"], sort=False).sum()
    by_kind = ", ".join(f"{kind} {count}" for kind, count in n_failed.items())
    return (
        f"{len(checks)} checks with {checks['n'].iloc[0]} data sets each, every one held to "
        f"{ALPHA} / {len(checks)} = {ALPHA / len(checks):.2g}. Failed, by kind of noise: {by_kind}."
    )


def write_page(markdown: dict[str, str], page: Path) -> None:
    """Replace what stands between the comments ``<!-- NAME -->`` and ``<!-- end -->``."""
    text = page.read_text(encoding="utf-8")
    for name, table in markdown.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, rf"\g<1>{table}\n\g<2>", text, flags=re.S)
    page.write_text(text, encoding="utf-8")


def parser() -> Parser:
    """Command-line options."""
    p = Parser("python -m benchmarks.truth", __doc__)
    p.add_argument("--datasets", type=int, default=1000, help="per kind of noise")
    p.add_argument("--jobs", type=int, default=2, help="data sets computed at once; changes no result")
    p.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    p.output.add_argument(
        "--out", type=Path, default=ROOT / "results" / "truth", help="folder of the tables (default: results/truth)"
    )
    p.output.add_argument("--write-docs", action="store_true", help=f"renew the tables of {PAGE.name}")
    return p


def run(options: argparse.Namespace) -> Summary:
    """Draw, measure, write."""
    if options.datasets < 2:
        raise UserError(f"{options.datasets} data sets", where="--datasets", allowed="integers from 2")
    found = tables(options.datasets, options.jobs, options.seed)
    for name, table in found.items():
        write_text(options.out / f"{name}.csv", table.to_csv(index=False, float_format="%.4g"))
    markdown = as_markdown(found)
    if options.write_docs:
        write_page(markdown, PAGE)
    failures = markdown.pop("failures")
    print("\n\n".join(f"{name}\n\n{table}" for name, table in markdown.items()))
    return Summary(
        [failures],
        {name: table.to_dict("records") for name, table in found.items()},
        options.out,
        {
            "level.csv": "false alarms of every test",
            "coverage.csv": "how often an interval holds the truth",
            "selectors.csv": "planted features that every method finds",
        },
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return console.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
