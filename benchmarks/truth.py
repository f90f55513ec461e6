"""What is true of the methods: level of the tests, coverage of the intervals, and who finds planted features.

``python -m benchmarks.truth`` draws data whose truth is known and writes three tables, `level.csv`, `coverage.csv` and
`selectors.csv`. A test fails where its false alarms are too many to be compatible with the nominal .05, at .05 divided
by the number of checks. Everything depends on `--seed` and `--datasets` only, bitwise the same for any `--jobs`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.truth_level import ALPHA, level_and_coverage
from benchmarks.truth_planted import KS, recall_and_precision

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.truth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", type=int, default=1000, help="per kind of noise (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "truth", help="folder (default: %(default)s)")
    parser.add_argument("--write-docs", action="store_true", help=f"renew the tables of {PAGE.name}")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.datasets < 2:
        parser.error("--datasets: integers from 2")
    started = time.perf_counter()
    found = tables(options.datasets, options.jobs, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, table in found.items():
        table.to_csv(options.out / f"{name}.csv", index=False, float_format="%.4g")
    markdown = as_markdown(found)
    if options.write_docs:
        write_page(markdown, PAGE)
    if options.json:
        print(json.dumps({name: table.to_dict("records") for name, table in found.items()}))
    else:
        print("\n\n".join(f"{name}\n\n{table}" for name, table in markdown.items()))
        print(f"\n{(time.perf_counter() - started) / 60:.1f} min")
    return 0


if __name__ == "__main__":
    sys.exit(main())
