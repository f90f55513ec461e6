"""Does a decision that holds for some stimuli hold for others? Items, levels of other factors, blocks, and controls.

Prints how reliable the effects are over items, the cross-decoding table (train at one level of a crossed factor, test
at another), the block-to-block matrix of neurons, and the controls; writes each as CSV and Parquet, and figures.

Examples
--------
python -m experiments.generalise --concept valence --contrast valence --out generalised
python -m experiments.generalise --concept success --across domain --blocks 5 15 25 --controls --out generalised
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments import options as shared
from neurosae import plots, stimuli
from neurosae.capture import capture
from neurosae.console import Parser, Summary
from neurosae.decoding import Design, decode, make_design
from neurosae.decoding.ensembles import ENSEMBLES
from neurosae.decoding.generalisation import (
    block_transfer,
    cross_decode,
    crossed_factors,
    crossed_levels,
    shuffled_like,
)
from neurosae.decoding.reliability import map_reliability
from neurosae.decoding.transfer import WITHOUT_PROFILES
from neurosae.errors import UserError
from neurosae.files import atomic_path, write_text
from neurosae.models import untrained_like
from neurosae.representations import Bench
from neurosae.responses import POOLINGS, Responses
from neurosae.sae import loading
from neurosae.sae.encoding import encode
from neurosae.sae.loading import declared_site
from neurosae.sites import Site

_NEURONS, _LATENTS = "raw", "sae"
_STEPS = 6  # default blocks: about so many steps from the first to the last


@dataclass(frozen=True)
class _Task:
    """A contrast of a stimulus set, ready to be decoded."""

    bench: Bench
    rows: np.ndarray
    design: Design
    site: Site
    options: argparse.Namespace

    @property
    def method(self) -> dict[str, Any]:
        """What every decoder of this command shares."""
        return {name: getattr(self.options, name) for name in ("selector", "k", "ensemble", "seed")}

    def pooled(self, responses: Responses) -> Any:
        """Stimuli of the contrast x features."""
        pooled = responses.pool(self.options.pooling)
        if not pooled.valid_S[self.rows].all():
            first = self.rows[np.argmin(pooled.valid_S[self.rows])]
            raise UserError(f"Stimulus {first} has no value: {pooled.reason_S[first]}", where="--pooling")
        return pooled.values_SF[self.rows]


def parser() -> Parser:
    """Command-line options."""
    p = shared.command("generalise", __doc__)
    what = p.add_argument_group("what")
    what.add_argument("--concept", required=True, help="a stimulus set, or a path to one")
    what.add_argument("--contrast", help="one of its contrasts (default: the first)")
    what.add_argument(
        "--across", nargs="+", help="crossed factors or domain, template, wording (default: all factors, else domain)"
    )
    what.add_argument(
        "--blocks", type=int, nargs="+", help="blocks of the transfer matrix (default: seven, evenly spaced)"
    )
    what.add_argument("--controls", action="store_true", help="untrained model, untrained SAE and shuffled SAE")
    what.add_argument("--sae", default=loading.DEFAULT, help="a bundled name, a path, a hub name")
    shared.add_model(p)
    decoder = p.add_argument_group("decoder")
    decoder.add_argument("--selector", default="t", choices=WITHOUT_PROFILES, help="how features are found")
    decoder.add_argument("--k", type=int, default=8, help="features to select")
    decoder.add_argument("--ensemble", default="logistic_l2", choices=list(ENSEMBLES), help="how they are weighed")
    decoder.add_argument("--pooling", default="mean", choices=POOLINGS, help="over the tokens of a stimulus")
    how = p.add_argument_group("how")
    how.add_argument("--folds", type=int, default=5, help="of the cross-validation")
    how.add_argument("--repeats", type=int, default=10, help="of all folds, shuffled anew")
    how.add_argument("--permutations", type=int, default=100, help="of labels, for chance and p")
    how.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    how.add_argument("--batch-size", type=int, default=32, help="texts per forward pass: bounds memory")
    p.output.add_argument("--out", type=Path, required=True, help="folder for tables and figures")
    return p


def run(options: argparse.Namespace) -> Summary:
    """Capture once, then every table in turn."""
    for name, least in (("k", 1), ("folds", 2), ("repeats", 1), ("permutations", 1), ("seed", 0), ("batch_size", 1)):
        if getattr(options, name) < least:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} is {getattr(options, name)}", where=flag, allowed=f"integers from {least}")
    task, sites = _prepare(options)
    design = task.bench.stimuli.design(options.contrast)
    groups = len(np.unique(task.design.groups_S))
    print(f"{_title(task)}: {len(task.rows)} stimuli in {groups} groups, design {design}, ", end="")
    print(
        f"{options.selector}, k = {options.k}, {options.ensemble}; p from {options.permutations} permutations at most"
    )
    tables = {"reliability": _reliability(task, sites), "cross_decoding": _cross_decoding(task)}
    if len(sites) > 1:
        tables["block_transfer"] = _block_transfer(task, sites)
    if options.controls:
        tables["controls"] = _controls(task)
    return _summary(task, tables)


def _summary(task: _Task, tables: dict[str, pd.DataFrame]) -> Summary:
    """The same and other contexts of every factor and of the blocks, and how reliable the effects are."""
    options, reliability = task.options, tables["reliability"]
    sentences = []
    if len(reliability):
        low, high = reliability["reliability"].min(), reliability["reliability"].max()
        sentences.append(f"Effects of '{_title(task)}' have a reliability over items of {low:.2f} to {high:.2f}.")
    if len(tables["cross_decoding"]):
        for (factor, name), rows in tables["cross_decoding"].groupby(["factor", "representation"], sort=False):
            sentences.append(f"Across {factor}, {plots.LABELS[str(name)]}: {_aurocs(rows)}.")
    if "block_transfer" in tables:
        sentences.append(f"Across blocks, neurons: {_aurocs(tables['block_transfer'])}.")
    return Summary(
        sentences,
        {name: table.to_dict("records") for name, table in tables.items()},
        options.out,
        {
            "figures": "one matrix per factor and representation",
            "reliability.csv": "split-half reliability and noise ceiling",
            "cross_decoding_summary.csv": "same and other levels",
            "block_transfer_summary.csv": "same and other blocks",
            "controls.csv": "untrained and shuffled controls",
        },
        [shared.next_command("contrast_map", options, "map", "where in the model it shows", sae=False)],
    )


def _aurocs(rows: pd.DataFrame) -> str:
    """AUROC in the same and in other contexts, and their difference."""
    each = rows.to_dict("records")
    said = [f"{row['contexts']} {shared.with_interval(row['auroc'], row['ci_low'], row['ci_high'])}" for row in each]
    return f"AUROC {', '.join(said)}"


def _prepare(options: argparse.Namespace) -> tuple[_Task, list[Site]]:
    """One forward pass for all blocks; folds and permutations."""
    chosen = stimuli.load(options.concept)
    contrast = chosen.contrast(options.contrast)
    rows, is_target = contrast.labels(chosen.table)
    for factor in options.across or ():
        crossed_levels(chosen, factor, contrast)  # what is wrong shows before anything is read
    design = make_design(
        np.where(is_target > 0, 1, -1),
        chosen.groups()[rows],
        chosen.blocks(contrast, rows),
        chosen.design(contrast),
        n_splits=options.folds,
        n_repeats=options.repeats,
        n_permutations=options.permutations,
        seed=options.seed,
    )
    bench = Bench(chosen, shared.source(options))
    site = declared_site(options.sae, options.model)
    if site != Site(site.block):
        raise UserError(f"The SAE reads {site}; this command compares residual streams", where="--sae")
    loading.check_width(bench.sae, bench.language_model)
    n_blocks = bench.language_model.n_blocks
    blocks = options.blocks or [*range(0, n_blocks - 1, max(1, n_blocks // _STEPS)), n_blocks - 1]
    sites = [Site(block).check(n_blocks) for block in sorted(set(blocks))]
    bench.listen([*sites, site])
    return _Task(bench, rows, design, site, options), sites


def _reliability(task: _Task, sites: Sequence[Site]) -> pd.DataFrame:
    """Split-half reliability of the effect map of the neurons of each block, and of the latents."""
    read = [(_NEURONS, site, task.bench.neurons(site)) for site in sites]
    read.append((_LATENTS, task.site, task.bench.latents(task.site)))
    design, options = task.design, task.options
    table = []
    for name, site, responses in read:
        X_SF = task.pooled(responses)
        try:
            found = map_reliability(
                X_SF,
                design.labels_S,
                design.groups_S,
                design.blocks_S,
                design.design,
                n_permutations=options.permutations,
                seed=options.seed,
            )
        except UserError as error:  # sets whose items cannot be halved can still be decoded
            print(f"\nNo reliability over items: {error}")
            return pd.DataFrame()
        row = {"representation": name, "block": site.block, "n_features": found.n_features, "n_items": found.n_items}
        row |= {"half": found.half, "reliability": found.reliability, "ceiling": found.ceiling, "p": found.p}
        table.append(row)
    _write(task, "reliability", pd.DataFrame(table))
    _show("Reliability over items of the effects of all features (ceiling: best correlation of any model)", table)
    return pd.DataFrame(table)


def _cross_decoding(task: _Task) -> pd.DataFrame:
    """Every crossed factor, with neurons and with latents of the SAE's block."""
    chosen, contrast = task.bench.stimuli, task.options.contrast
    across = task.options.across or _crossed(task)
    if not across:
        print("\nNeither a factor nor large enough domains are crossed with this contrast: no cross-decoding")
        return pd.DataFrame()
    cells, summaries = [], []
    for factor in across:
        levels_S = crossed_levels(chosen, factor, contrast)
        for name, responses in ((_NEURONS, task.bench.neurons(task.site)), (_LATENTS, task.bench.latents(task.site))):
            found = cross_decode(task.pooled(responses), task.design, levels_S, **task.method)
            about = {"factor": factor, "representation": name, "block": task.site.block}
            cells.append(found.cells.assign(**about))
            summaries.append(pd.DataFrame([about] * len(found.summary)).join(found.summary))
            ax = plots.transfer_map(found.cells, factor, f"{_title(task)}, {plots.LABELS[name]}")
            plots.save(ax.figure, task.options.out / "figures" / f"cross_decoding-{factor}-{name}")
    return _report(task, "cross_decoding", cells, summaries, "Cross-decoding: train at one level, test at another")


def _crossed(task: _Task) -> tuple[str, ...]:
    """Every crossed factor; else domains, if each has a group of stimuli for every fold."""
    chosen, contrast = task.bench.stimuli, task.options.contrast
    domain_S = chosen.table["domain"].iloc[task.rows]
    sizes = pd.Series(task.design.groups_S).groupby(domain_S.to_numpy()).nunique()
    usable = domain_S.notna().all() and len(sizes) > 1 and sizes.min() >= task.options.folds
    return crossed_factors(chosen, contrast) or (("domain",) if usable else ())


def _block_transfer(task: _Task, sites: Sequence[Site]) -> pd.DataFrame:
    """Neurons of every block to every block."""
    responses = {site: task.bench.neurons(site) for site in sites}
    found = block_transfer(responses, task.rows, task.design, pooling=task.options.pooling, **task.method)
    ax = plots.transfer_map(found.cells, "block", f"{_title(task)}, {plots.LABELS[_NEURONS]}")
    plots.save(ax.figure, task.options.out / "figures" / "block_transfer")
    return _report(
        task, "block_transfer", [found.cells], [found.summary], "Block to block: the same neurons, other depths"
    )


def _title(task: _Task) -> str:
    chosen = task.bench.stimuli
    return " / ".join(dict.fromkeys([chosen.name, chosen.contrast(task.options.contrast).name]))


def _report(
    task: _Task, name: str, cells: Sequence[pd.DataFrame], summaries: Sequence[pd.DataFrame], title: str
) -> pd.DataFrame:
    """Write cells and summary; print the matrix (or matrices) of AUROCs and the summary, which is returned."""
    table, summary = pd.concat(cells, ignore_index=True), pd.concat(summaries, ignore_index=True)
    _write(task, name, table)
    _write(task, f"{name}_summary", summary)
    print(f"\n{title}\nHeld-out AUROC, rows: training, columns: test")
    for each in cells:
        about = [str(each[key].iloc[0]) for key in ("factor", "representation") if key in each]
        names = list(dict.fromkeys(each["train"]))
        matrix = each.pivot(index="train", columns="test", values="auroc").loc[names, names]
        print("\n" + " ".join(about) + ("\n" if about else "") + matrix.to_string(float_format="{:.2f}".format))
    _show(
        f"In the same and in other contexts (95 % interval; p from {task.options.permutations} permutations)", summary
    )
    return summary


def _controls(task: _Task) -> pd.DataFrame:
    """Held-out AUROC of neurons and latents beside what training cannot have put there."""
    bench, site = task.bench, task.site
    neurons = bench.neurons(site)
    sample_TD = torch.from_numpy(neurons.values[neurons.tokens["clean"].to_numpy(dtype=bool)])
    untrained = untrained_like(bench.language_model, task.options.seed)
    shuffled = shuffled_like(bench.sae, sample_TD, task.options.seed)
    heard = capture(untrained, bench.stimuli.table, [site], chat=bench.stimuli.chat, batch_size=task.options.batch_size)
    representations = {
        "neurons": neurons,
        "neurons of an untrained model": heard[site],
        "latents": bench.latents(site),
        "latents of a shuffled SAE": encode(shuffled, neurons, "shuffled"),
        "latents of an untrained SAE": bench.latents(site, trained=False),
    }
    table = []
    for name, responses in representations.items():
        method = task.method | {"ks": [task.options.k]}
        del method["k"]
        (found,) = decode(task.pooled(responses), task.design, **method, n_permutations=task.options.permutations)
        active = float((responses.values != 0).sum() / responses.values.shape[0])
        row = {"representation": name, "block": site.block, "active_per_token": active, "auroc": found.auroc.mean}
        table.append(row | {key: getattr(found.auroc, key) for key in ("ci_low", "ci_high", "p")})
    _write(task, "controls", pd.DataFrame(table))
    _show("Controls: held-out AUROC (95 % interval, permutation p)", table)
    return pd.DataFrame(table)


def _show(title: str, table: Any) -> None:
    formats = {"p": "{:.2g}".format}
    shown = pd.DataFrame(table).to_string(index=False, float_format="{:.3f}".format, formatters=formats)
    print(f"\n{title}\n\n{shown}")


def _write(task: _Task, name: str, table: pd.DataFrame) -> None:
    write_text(task.options.out / f"{name}.csv", table.to_csv(index=False))
    with atomic_path(task.options.out / f"{name}.parquet") as temporary:
        table.to_parquet(temporary, index=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
