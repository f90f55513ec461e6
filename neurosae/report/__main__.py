"""The HTML report of a run, made anew from what the run has saved; needs no language model and no network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from neurosae import console
from neurosae.console import Parser, Summary
from neurosae.report.loading import load_run
from neurosae.report.page import PAGE, write_page

_DESCRIPTION = """Write the HTML report of a run anew, from what the run has saved.

Examples
--------
python -m neurosae.report results/success/2023229b3e8b
python -m neurosae.report results/reference --out report.html
"""


def parser() -> Parser:
    """Command-line options."""
    p = Parser("python -m neurosae.report", _DESCRIPTION)
    p.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a run, or of --concept all")
    p.add_argument("--out", type=Path, metavar="FILE", help=f"where to (default: RUN_DIR/{PAGE})")
    return p


def run(options: argparse.Namespace) -> Summary:
    """Read and write."""
    found = load_run(options.run_dir)
    place = write_page(found, options.out)
    sentences = [f"Wrote {place}: one file, which loads nothing from anywhere."]
    if found.absent:
        sentences.append(f"The folder lacks {', '.join(found.absent)}; the report says so in their place.")
    return Summary(sentences, {"report": str(place), "missing": found.absent})


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return console.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
