"""Where does a contrast show? Every block, aligned position and feature tested, then a localizer checked held out.

Examples
--------
python -m experiments.contrast_map --concept success --out success_map
python -m experiments.contrast_map --concept valence --contrast interaction --height-control fwe --out valence_map
python -m experiments.contrast_map --concept valence --modulator arousal --covariates tokens surprisal --out arousal_map
python -m experiments.contrast_map --concept success --sae --pooling mean --out success_latents
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
from neurosae import models, plots, stimuli
from neurosae.console import Parser, Summary
from neurosae.errors import UserError
from neurosae.files import atomic_path, write_json, write_text
from neurosae.inference import pairs_needed
from neurosae.representations import Bench, Source
from neurosae.responses import ALIGNMENTS, POOLINGS, Responses
from neurosae.sae import loading
from neurosae.sites import Site
from neurosae.stimuli import StimulusSet
from neurosae.univariate import MEASURES, ContrastMap, compute_contrast, covariate_table, localize, region_profile
from neurosae.univariate.compute import HEIGHT_CONTROLS

_STEP = 5  # blocks between two of the default ones
_POWER = 0.8


def parser() -> Parser:
    """Command-line options; every long name is also a key of --config."""
    p = shared.command("contrast_map", __doc__)
    what = p.add_argument_group("what")
    what.add_argument("--concept", default="success", help="a stimulus set: name or YAML file")
    what.add_argument("--contrast", help="a contrast of the file (default: the first; none with --modulator)")
    what.add_argument(
        "--modulator", help="test the slope on this rating of the stimulus file instead (default: test the contrast)"
    )
    what.add_argument(
        "--covariates", nargs="+", default=[], help=f"nuisance columns: {', '.join(MEASURES)}, ratings (default: none)"
    )
    where = p.add_argument_group("where")
    where.add_argument("--blocks", nargs="+", help="block numbers, or all (default: every fifth and the last)")
    where.add_argument("--pooling", choices=POOLINGS, help="one value per stimulus (default: a window of positions)")
    where.add_argument("--align", default="target", choices=ALIGNMENTS, help="of the window")
    where.add_argument("--width", type=int, default=16, help="of the window, in tokens")
    where.add_argument(
        "--sae",
        nargs="?",
        const=loading.DEFAULT,
        help="latents of an SAE, the bundled one without a name (default: neurons)",
    )
    how = p.add_argument_group("how")
    how.add_argument(
        "--height-control",
        default="fdr",
        choices=[*HEIGHT_CONTROLS, "none"],
        help="which error over all tests --alpha limits",
    )
    how.add_argument("--alpha", type=float, default=0.05, help="level of corrected p")
    how.add_argument("--one-sided", action="store_true", help="only target above foil counts")
    how.add_argument("--permutations", type=int, default=1000, help="for fwe and clusters")
    how.add_argument("--k", type=int, default=32, help="features of the localized region")
    how.add_argument("--peaks", type=int, default=20, help="tests to list")
    how.add_argument("--seed", type=int, default=0, help="of permutations and halves")
    p.output.add_argument("--out", type=Path, required=True, help="folder for tables (CSV, Parquet) and figures")
    shared.add_model(p)
    return p


def run(options: argparse.Namespace) -> Summary:
    """Test, localize, print, write."""
    for name, least in (("width", 1), ("permutations", 1), ("k", 1), ("peaks", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise UserError(
                f"{getattr(options, name)} is too small", where=f"--{name}", allowed=f"integers from {least}"
            )
    concept = stimuli.load(options.concept)
    concept.contrast(options.contrast)  # what is wrong shows before anything is read
    heard, bench = _listen(options, concept)
    columns = _covariates(options, concept, heard, bench)
    found = compute_contrast(
        heard,
        concept,
        options.contrast,
        covariates=columns,
        modulator=options.modulator,
        pooling=options.pooling,
        align=options.align,
        width=options.width,
        height_control=None if options.height_control == "none" else options.height_control,
        alpha=options.alpha,
        two_sided=not options.one_sided,
        n_permutations=options.permutations,
        seed=options.seed,
    )
    peaks = found.peaks(options.peaks)
    tables = {"peaks": peaks, "cells": found.cells()}
    parts = [
        describe(found, concept.name, options),
        _plain(peaks),
        power(found, options),
    ]
    if found.null_LWB is not None and found.n_LW.size > 1 and (len(found.features_F) > 1 or found.shared_axis):
        tables["clusters"] = found.clusters().table
        parts += ["Clusters of the mean variance explained, block x position", _plain(tables["clusters"])]
    if not options.modulator:
        held_out, sentences = _localizer(options, concept, heard, columns)
        tables, parts = tables | held_out, parts + sentences
    text = "\n\n".join(parts)
    print(text)
    _write(options, found, tables, text)
    _draw(options, found, tables)
    return summary(found, concept.name, tables, options)


def summary(found: ContrastMap, name: str, tables: dict[str, pd.DataFrame], options: argparse.Namespace) -> Summary:
    """How much is significant, where most of it, and what of it is there on held-out items."""
    n, n_tests = int(found.significant.sum()), int(found.valid.sum())
    peaks = tables["peaks"]
    sentences = [
        f"{n:,} of {n_tests:,} tests of '{name}' ({found.contrast}) are significant "
        f"({found.height_control or 'uncorrected'} p <= {found.alpha:g})."
    ]
    if n and len(peaks):
        first = peaks.iloc[0]
        sentences.append(f"The strongest: feature {first['feature']} in block {first['block']}, t = {first['t']:.1f}.")
    if "held_out" in tables:
        each = [
            f"{row['outcome']} {shared.with_interval(row['value'], row['ci_low'], row['ci_high'])} (p = {row['p']:.2g})"
            for row in tables["held_out"].to_dict("records")
        ]
        sentences.append(f"A region of {len(tables['region'])} features, on held-out items: {'; '.join(each)}.")
    return Summary(
        sentences,
        {"n_significant": n, "n_tests": n_tests, **{key: t.to_dict("records") for key, t in tables.items()}},
        options.out,
        {
            "summary.txt": "what is above",
            "map.png": "blocks x positions",
            "peaks.csv": "the strongest tests",
            "held_out.csv": "the region on held-out items",
            "map.parquet": "every test",
        },
        [shared.next_command("generalise", options, "generalised", "does it hold for other stimuli")],
    )


def describe(found: ContrastMap, name: str, options: argparse.Namespace) -> str:
    """What was tested, and how much of it is significant, in a few sentences."""
    n_blocks, width, n_features = found.t.shape
    masked = int((~found.tested_LW).sum())
    control = f"{found.height_control or 'uncorrected'} p <= {found.alpha:g}"
    beside = f", beside {', '.join(found.covariates)}" if found.covariates else ""
    slope = (
        "The slope is within stimuli that were written together. Whatever else differs between them with the rating is "
        "in it, conditions included; --contrast takes out those of a contrast.\n"
    )
    return (
        f"{name}, {found.contrast} ({found.design}{beside}): {n_blocks} blocks x {width} positions x {n_features:,} "
        f"features, {masked} of {n_blocks * width} cells masked for too few stimuli.\n"
        f"{slope if options.modulator and not options.contrast and found.design == 'families' else ''}"
        f"{int(found.significant.sum()):,} of {int(found.valid.sum()):,} tests are significant ({control}, "
        f"{'two-sided' if found.two_sided else 'one-sided'}). The strongest:"
    )


def power(found: ContrastMap, options: argparse.Namespace) -> str:
    """How many stimuli an effect like the strongest and the median significant one would need."""
    sizes = np.abs(found.d[found.significant & (found.se > 0)])
    if not len(sizes):
        return "No test with a finite effect size is significant: no size of an effect to plan with."
    paired = found.design in ("pairs", "interaction")
    n_tests = int(found.valid.sum())
    needed = [
        pairs_needed(float(d), _POWER, found.alpha, n_tests, "pairs" if paired else "unpaired")
        for d in (np.median(sizes), sizes.max())
    ]
    unit = {"pairs": "pairs", "interaction": "families"}.get(found.design, "stimuli in each of two groups")
    if options.modulator:  # d is that of two equal groups
        needed, unit = [2 * n for n in needed], "stimuli"
    return (
        f"For {_POWER:.0%} power among {n_tests:,} tests (Bonferroni), an effect of the median size of the significant "
        f"ones (d = {np.median(sizes):.2f}) would need {needed[0]} {unit}, the largest (d = {sizes.max():.2f}) "
        f"{needed[1]}. Sizes of significant effects are selected, hence optimistic."
    )


def _listen(options: argparse.Namespace, concept: StimulusSet) -> tuple[dict[Site, Responses], Bench]:
    """Neurons of all blocks from one forward pass, or latents of the SAE's block."""
    source = Source(
        options.model,
        options.device,
        options.dtype,
        options.sae or loading.DEFAULT,
        device_map=options.device_map,
    )
    bench = Bench(concept, source, progress=True)
    if options.sae:
        site = loading.site_of(bench.sae)
        if options.blocks and options.blocks != [str(site.block)]:
            raise UserError(f"The SAE reads block {site.block}", where="--blocks", suggestion="Leave --blocks out")
        return {site: bench.latents(site)}, bench
    n_blocks = bench.language_model.n_blocks
    numbers = range(n_blocks) if options.blocks == ["all"] else sorted({*range(0, n_blocks, _STEP), n_blocks - 1})
    if options.blocks and options.blocks != ["all"]:
        numbers = [_block(name, n_blocks) for name in options.blocks]
    sites = [Site(block) for block in sorted(set(numbers))]
    bench.listen(sites)
    return {site: bench.neurons(site) for site in sites}, bench


def _block(name: str, n_blocks: int) -> int:
    site = Site.parse(name).check(n_blocks)
    if site != Site(site.block):
        raise UserError(f"{site} is not the residual stream after a block", where="--blocks", allowed="numbers, or all")
    return site.block


def _covariates(
    options: argparse.Namespace, concept: StimulusSet, heard: dict[Site, Responses], bench: Bench
) -> pd.DataFrame:
    return covariate_table(
        concept,
        options.covariates,
        responses=next(iter(heard.values())),
        surprisal=lambda texts: models.surprisal(bench.language_model, texts),
    )


def _localizer(
    options: argparse.Namespace, concept: StimulusSet, heard: dict[Site, Responses], covariates: pd.DataFrame
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """What regions found on half of the items do on the other half; or why that cannot be asked."""
    about: dict[str, Any] = {"k": options.k, "pooling": options.pooling or "mean", "seed": options.seed}
    window: dict[str, Any] = {"align": options.align, "width": options.width, "covariates": covariates}
    try:
        localized = localize(heard, concept, options.contrast, **about, **window)
        profile = region_profile(heard, concept, options.contrast, **about, covariates=covariates)
    except UserError as error:
        return {}, [f"No region was tested on held-out items. {error}"]
    region, summary = localized.region.table, localized.summary()
    blocks = ", ".join(f"{n} in block {block}" for block, n in region["block"].value_counts().sort_index().items())
    sentence = (
        f"A region of {len(region)} features, found on half of the items ({blocks}), does this on the "
        f"{len(localized.held_out_S)} held-out stimuli"
        + (" (response beside the covariates; decoding and RSA without them):" if len(covariates.columns) else ":")
    )
    return {"region": region, "held_out": summary, "profile": profile}, [sentence, _plain(summary)]


def _plain(table: pd.DataFrame) -> str:
    return table.to_string(index=False, float_format="{:.3g}".format, na_rep="-") if len(table) else "none"


def _write(options: argparse.Namespace, found: ContrastMap, tables: dict[str, pd.DataFrame], text: str) -> None:
    """Tables as CSV, every valid test as Parquet, the summary, and the settings."""
    for name, table in tables.items():
        write_text(options.out / f"{name}.csv", table.to_csv(index=False))
    with atomic_path(options.out / "map.parquet") as temporary:
        frame = found.to_frame()
        frame[found.valid.ravel()].to_parquet(temporary)
    write_text(options.out / "summary.txt", text + "\n")
    write_json(options.out / "settings.json", vars(options))


def _draw(options: argparse.Namespace, found: ContrastMap, tables: dict[str, pd.DataFrame]) -> None:
    """Figures of the map, its strongest feature, all tests, and the regions."""
    axes = {"volcano": plots.volcano(found)}
    if found.n_LW.size > 1:
        axes["map"] = plots.contrast_map(found)
    if found.n_LW.size > 1 and len(tables["peaks"]) and found.shared_axis:
        axes["strongest_feature"] = plots.contrast_map(found, int(tables["peaks"]["feature"].iloc[0]))
    if len(tables.get("profile", ())) > 1:
        axes["block_profile"] = plots.block_profile(tables["profile"])
    for name, ax in axes.items():
        plots.save(ax.figure, options.out / name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
