"""How far to trust a judge: its grades against the gold corpus, which language models graded by a written rule.

Examples
--------
python -m experiments.calibrate_judge --judge embeddings --concept success
python -m experiments.calibrate_judge --judge local --concept all --limit 200
python -m experiments.calibrate_judge --judge anthropic --concept success --dry-run
python -m experiments.calibrate_judge --judge anthropic --concept all --budget 0.50 --out results/judges
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments import options as shared
from neurosae.autointerp.anthropic_judge import AnthropicJudge
from neurosae.autointerp.calibration import Calibration, calibrate, chosen_rows, requests
from neurosae.autointerp.judges import JUDGES, Completion, GradeRequest, Judge, JudgeSettings, load_judge
from neurosae.console import Parser, Summary
from neurosae.discovery import gold
from neurosae.errors import UserError, unknown_name
from neurosae.files import atomic_path, write_json


def add_judge(p: argparse._ActionsContainer, default: str = "embeddings", names: Sequence[str] = tuple(JUDGES)) -> None:
    """Add the options of `judge_settings`, ``--judge`` and ``--dry-run`` included."""
    p.add_argument("--judge", default=default, help=f"one of {', '.join(names)}")
    p.add_argument("--judge-model", help="model of the judge (default: the judge's own)")
    p.add_argument("--base-url", help="Messages API to talk to, also a local gateway (default: ANTHROPIC_BASE_URL)")
    p.add_argument("--concurrency", type=int, default=16, help="requests in flight at once")
    p.add_argument("--deadline", type=float, default=60.0, help="seconds for one attempt")
    p.add_argument("--budget", type=float, help="US dollars; stops before they are exceeded (default: no limit)")
    p.add_argument(
        "--price",
        type=float,
        nargs=2,
        metavar=("INPUT", "OUTPUT"),
        help="dollars per million tokens (default: as known)",
    )
    p.add_argument("--dry-run", action="store_true", help="price the run and send nothing")


def judge_settings(options: argparse.Namespace) -> JudgeSettings:
    """What the options of `add_judge` ask for; with the journal in ``--out``, a resumed run keeps its budget."""
    return JudgeSettings(
        model=options.judge_model,
        base_url=options.base_url,
        concurrency=options.concurrency,
        deadline=options.deadline,
        budget=options.budget,
        price=tuple(options.price) if options.price else None,
        journal=options.out / "journal.jsonl" if options.out else None,
        dry_run=options.dry_run,
    )


def parser() -> Parser:
    """Command-line options."""
    p = shared.command("calibrate_judge", __doc__, "Answers that were paid for are kept.")
    add_judge(p.add_argument_group("judge"))
    what = p.add_argument_group("what")
    what.add_argument("--concept", default="all", help="a graded concept, or all")
    what.add_argument("--limit", type=int, help="at most so many of the held-out sentences (default: all)")
    what.add_argument("--draws", type=int, default=1000, help="resamples and shufflings")
    what.add_argument("--seed", type=int, default=0, help="of the sentences, resamples and shufflings")
    p.output.add_argument(
        "--out", type=Path, help="folder for calibration.json, figures.csv and the journal (default: only shown)"
    )
    return p


def run(options: argparse.Namespace) -> Summary:
    """Ask, compare, print, and write if asked for."""
    corpus = gold.load()
    if options.concept not in (*corpus.concepts, "all"):
        raise unknown_name("graded concept", options.concept, (*corpus.concepts, "all"), where="--concept")
    for name, least in (("draws", 100), ("seed", 0)):
        if getattr(options, name) < least:
            raise UserError(f"{getattr(options, name)} is too small", where=f"--{name}", allowed=f"{least} or more")
    concepts = corpus.concepts if options.concept == "all" else (options.concept,)
    rows = chosen_rows(corpus, options.limit, options.seed)
    judge = load_judge(options.judge, judge_settings(options))
    if options.dry_run:
        quote = price(judge, [request for concept in concepts for request in requests(corpus, concept, rows)])
        return Summary([quote], {"judge": judge.name, "quote": quote})
    found = [calibrate(judge, corpus, c, limit=options.limit, n=options.draws, seed=options.seed) for c in concepts]
    print("\n\n".join(as_text(calibration) for calibration in found))
    if isinstance(judge, AnthropicJudge):
        print(f"\n{judge.spending}")
    if options.out:
        write(options.out, found)
    return Summary(
        [calibration.verdict for calibration in found],
        {"judge": judge.name, "calibrations": records(found)},
        options.out,
        {"calibration.json": "figures, confusion and verdicts", "figures.csv": "the figures as a table"},
        [f"python -m experiments.explain --concept success --judge {options.judge} --out explained"],
    )


def price(judge: Judge, asked: Sequence[GradeRequest | Completion]) -> str:
    """What requests would cost, in words."""
    if isinstance(judge, AnthropicJudge):
        return f"{judge.name}: {judge.quote(asked)}"
    return f"{judge.name}: {len(asked)} requests on this machine, at no cost"


def as_text(calibration: Calibration) -> str:
    """Figures and confusion as plain text."""
    lines = [f"{calibration.judge} on '{calibration.concept}', {calibration.n} sentences"]
    for name, figure in calibration.figures.iterrows():
        if np.isnan(figure["value"]):
            lines.append(f"  {name:<9} none: {figure['reason']}")
            continue
        interval = f"[{figure['low']:.2f}, {figure['high']:.2f}]" if np.isfinite(figure["low"]) else figure["reason"]
        chance = f"[{figure['chance_low']:.2f}, {figure['chance_high']:.2f}]"
        lines.append(f"  {name:<9} {figure['value']:5.2f} {interval}   chance {chance}   p {figure['p']:.3g}")
    lines.append(f"  unanswered {calibration.unanswered:.1%}" + _reasons(calibration.reasons))
    lines += [
        "  gold grade (rows) by the judge's:",
        *("  " + x for x in calibration.confusion.to_string().splitlines()),
    ]
    return "\n".join(lines)


def _reasons(reasons: dict[str, int]) -> str:
    return "".join(f"\n    {count} x {reason}" for reason, count in list(reasons.items())[:5])


def records(found: Sequence[Calibration]) -> list[dict[str, Any]]:
    """Everything about each judged concept, for JSON."""
    table: list[dict[str, Any]] = []
    for calibration in found:
        figures = calibration.figures.astype(object).where(calibration.figures.notna(), None)
        confusion = calibration.confusion.to_numpy().tolist()
        about = {name: value for name, value in vars(calibration).items() if name not in ("figures", "confusion")}
        table.append({**about, "figures": figures.to_dict("index"), "confusion": confusion})
    return table


def write(folder: Path, found: Sequence[Calibration]) -> None:
    """``calibration.json`` and ``figures.csv``."""
    write_json(folder / "calibration.json", records(found))
    tables = [c.figures.reset_index().assign(judge=c.judge, concept=c.concept) for c in found]
    with atomic_path(folder / "figures.csv") as temporary:
        pd.concat(tables, ignore_index=True).to_csv(temporary, index=False, lineterminator="\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
