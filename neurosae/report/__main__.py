"""Write the HTML report of a run anew, from what the run has saved.

Examples
--------
python -m neurosae.report results/success/2023229b3e8b
python -m neurosae.report results/reference --out report.html
python -m neurosae.report results/all/5d0f6c1c0a3e
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from neurosae.errors import UserError
from neurosae.report.page import write_report


def parser() -> argparse.ArgumentParser:
    """Options of the command."""
    p = argparse.ArgumentParser(
        prog="python -m neurosae.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder of a run, or of --concept all")
    p.add_argument("--out", type=Path, metavar="FILE", help="default: RUN_DIR/report.html")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit code 2 on bad input, with one message."""
    options = parser().parse_args(arguments)
    try:
        print(write_report(options.run_dir, options.out))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
