"""Which way of finding the features that carry a concept deserves trust? All of them, on the same stimuli and folds.

Every variant (representation x selector x k x ensemble) selects its features on training stimuli only and is scored on
held-out ones; chance comes from permuted labels. Finished variants are on disk at once: the same command continues an
interrupted run and ends with the same tables.

Later stages ask more of the variants: `discover`, which graded sentences drive them; `explain`, what these have in
common; `steer`, whether the features push the endings of held-out pairs. The scorecard puts it all side by side, and
`evidence` keeps what a report shows: stimuli, maps over blocks, RDMs, cards of features, steered texts.

Examples
--------
python -m experiments.combinatorial --concept success
python -m experiments.combinatorial --concept success --stages select,discover
python -m experiments.combinatorial --concept my_concept.yaml --selector t rsa_discriminative --k 4 8
python -m experiments.combinatorial --concept all --jobs 2
python -m experiments.combinatorial --concept valence --contrast factuality --dry-run
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments import options as options_of
from experiments import reporting, run_summary
from neurosae import models
from neurosae.autointerp.judges import JUDGES, JudgeSettings, load_judge
from neurosae.console import Parser, Summary
from neurosae.decoding.ensembles import ENSEMBLES
from neurosae.decoding.selection import SELECTORS
from neurosae.decoding.variants import DEFAULT_SELECTORS, REPRESENTATIONS, Grid
from neurosae.errors import UserError
from neurosae.responses import POOLINGS
from neurosae.runs import RunFolder
from neurosae.runs.comparison import across_contrasts
from neurosae.runs.scorecard import OUTCOMES
from neurosae.sae import loading
from neurosae.sites import Site
from neurosae.stimuli import concepts, load
from neurosae.study import stages
from neurosae.study.contrast_run import ContrastRun, Settings
from neurosae.study.work import GOLD, STAGES, StageSettings


def parser() -> Parser:
    """Command-line options; every long name is also a key of --config."""
    p = options_of.command("combinatorial", __doc__, "Every finished variant is on disk.")
    what = p.add_argument_group("what")
    what.add_argument("--concept", default="success", help="a name in stimuli/, a YAML file, or 'all'")
    what.add_argument(
        "--contrast", help="a contrast of the file, or 'all' (default: the first; all with --concept all)"
    )
    what.add_argument(
        "--sae", default=loading.DEFAULT, help="a bundled name, a file or folder in any known format, a name on the hub"
    )
    what.add_argument("--stages", nargs="+", default=list(STAGES), help="any of these")
    options_of.add_model(p)
    judge = p.add_argument_group("judge of the stage 'explain'")
    judge.add_argument("--judge", default=GOLD, choices=[GOLD, *JUDGES], help="gold: the grades of the sentences")
    judge.add_argument("--judge-model", help="model of the judge (default: the judge's own)")
    judge.add_argument("--base-url", help="Messages API of the Anthropic judge (default: ANTHROPIC_BASE_URL)")
    judge.add_argument("--budget", type=float, help="US dollars that the Anthropic judge may spend (default: no limit)")
    judge.add_argument(
        "--price",
        type=float,
        nargs=2,
        metavar=("INPUT", "OUTPUT"),
        help="US dollars per million tokens (default: the known one)",
    )
    grid = p.add_argument_group("grid")
    grid.add_argument(
        "--block", "--blocks", type=int, nargs="+", help="blocks whose neurons are read (default: the SAE's)"
    )
    grid.add_argument("--pooling", nargs="+", default=["mean"], help=f"of {', '.join(POOLINGS)}")
    grid.add_argument("--representation", nargs="+", default=["raw", "sae"], help=f"of {', '.join(REPRESENTATIONS)}")
    grid.add_argument("--selector", nargs="+", default=list(DEFAULT_SELECTORS), help=f"of {', '.join(SELECTORS)}")
    grid.add_argument("--k", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="numbers of selected features")
    grid.add_argument("--ensemble", nargs="+", default=["logistic_l2"], help=f"of {', '.join(ENSEMBLES)}")
    grid.add_argument("--no-controls", action="store_true", help="leave out the controls at k = 8")
    how = p.add_argument_group("how")
    how.add_argument("--folds", type=int, default=5, help="of the cross-validation")
    how.add_argument("--repeats", type=int, default=10, help="of all folds, shuffled anew")
    how.add_argument("--permutations", type=int, default=100, help="of labels, for chance and p")
    how.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    how.add_argument("--jobs", type=int, default=2, help="cells computed at once; changes no result")
    how.add_argument("--batch-size", type=int, default=32, help="texts per forward pass: bounds memory")
    how.add_argument("--fresh", action="store_true", help="start over instead of continuing")
    how.add_argument("--dry-run", action="store_true", help="print the grid, forward passes and expected minutes only")
    p.output.add_argument("--out", type=Path, default=Path("results"), help="folder of the runs")
    return p


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line over configuration file over defaults."""
    return options_of.read(parser(), arguments)


def settings(options: argparse.Namespace) -> Settings:
    """What every contrast of this command shares."""
    for name, least in (("folds", 2), ("repeats", 1), ("permutations", 0), ("seed", 0), ("batch_size", 1)):
        if getattr(options, name) < least:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} is {getattr(options, name)}", where=flag, allowed=f"integers from {least}")
    if options.jobs == 0:
        raise UserError("--jobs is 0", where="--jobs", allowed="1 or more, or -1 for all cores")
    models.resolve_device(options.device)
    sae_site = loading.declared_site(options.sae, options.model)
    if _needs_sae(options) and sae_site != Site(sae_site.block):
        raise UserError(f"The SAE reads {sae_site}; the runner compares residual streams", where="--sae")
    grid = Grid(
        blocks=tuple(options.block or [sae_site.block]),
        sae_block=sae_site.block,
        representations=tuple(options.representation),
        selectors=tuple(options.selector),
        ks=tuple(sorted(set(options.k))),
        ensembles=tuple(options.ensemble),
        poolings=tuple(options.pooling),
        controls=not options.no_controls,
    )
    return Settings(
        grid=grid,
        source=options_of.source(options),
        n_splits=options.folds,
        n_repeats=options.repeats,
        n_permutations=options.permutations,
        seed=options.seed,
        jobs=options.jobs,
        progress=not options.quiet,
    )


def _needs_sae(options: argparse.Namespace) -> bool:
    return any(name in ("sae", "untrained_sae") for name in options.representation)


def runs(options: argparse.Namespace, shared: Settings) -> list[ContrastRun]:
    """One run per concept and contrast."""
    everything = options.concept == "all"
    chosen = []
    for stimuli in concepts() if everything else [load(options.concept)]:
        contrast = options.contrast or ("all" if everything else None)
        for contrast_name in list(stimuli.contrasts) if contrast == "all" else [stimuli.contrast(contrast).name]:
            chosen.append(ContrastRun(stimuli, contrast_name, shared))
    return chosen


def run(options: argparse.Namespace) -> Summary:
    """Do what the options ask for."""
    names, shared = stages.chosen(options.stages), settings(options)
    chosen = runs(options, shared)
    everything = options.concept == "all"
    if options.dry_run:
        return run_summary.of_plans([f"{each.plan()}\n{stages.plan(each, names)}" for each in chosen], chosen)
    later, claims, summaries = stage_settings(options, names), [], []
    for contrast_run in chosen:
        folder = RunFolder(options.out / contrast_run.stimuli.name, contrast_run.configuration(), fresh=options.fresh)
        tables = contrast_run.compute(folder)
        findings = stages.run_stages(contrast_run, folder, tables, names, later)
        reporting.print_and_draw(contrast_run, folder, tables, findings)
        claims.append(findings.claims)
        summaries.append(run_summary.of_contrast(contrast_run, folder, tables, findings, options))
    if everything:
        across = across_outcomes(pd.concat(claims, ignore_index=True))
        configuration: dict[str, Any] = {"runs": [contrast_run.configuration() for contrast_run in chosen]}
        folder = RunFolder(options.out / "all", configuration)
        folder.create()
        reporting.write_and_print_across(folder, across)
        return run_summary.of_several(summaries, folder, across)
    return summaries[0] if len(summaries) == 1 else run_summary.of_several(summaries, None, None)


def stage_settings(options: argparse.Namespace, names: Sequence[str]) -> StageSettings:
    """How the later stages work; a judge that cannot start is refused before anything is computed."""
    if options.judge == GOLD or "explain" not in names:
        return StageSettings()
    about = JudgeSettings(
        model=options.judge_model,
        base_url=options.base_url,
        budget=options.budget,
        price=tuple(options.price) if options.price else None,
        journal=options.out / "judge_journal.jsonl" if options.judge == "anthropic" else None,
        device=options.device,
    )
    return StageSettings(judge=load_judge(options.judge, about))


def across_outcomes(claims: pd.DataFrame) -> pd.DataFrame:
    """`neurosae.runs.comparison.across_contrasts` for every outcome by itself, with its own margin."""
    tables = []
    for name, outcome in OUTCOMES.items():
        part = claims[claims["outcome"] == name]
        if len(part):
            table = across_contrasts(part, margin=outcome.margin)
            table.insert(0, "outcome", name)
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says; what is finished is never lost."""
    return options_of.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
