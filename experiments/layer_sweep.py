"""Where in the model does a concept emerge? Contrast, geometry and decoding in every block, from one forward pass.

The token embeddings, which know words but no context, are the control. Prints where the concept emerges and peaks;
writes tables (CSV, Parquet), sweep.json and figures. Responses are kept in the cache: a second run reads nothing anew.

Examples
--------
python -m experiments.layer_sweep --concept success
python -m experiments.layer_sweep --concept valence --contrast interaction --pooling last --out valence_sweep
python -m experiments.layer_sweep --concept success --blocks 0 5 10 15 20 25 29 --positions end
python -m experiments.layer_sweep --concept my_concepts/patience.yaml --sae smollm2-135m-b15-9k
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments import options as shared
from experiments import sweep_report as report
from neurosae import stimuli
from neurosae.console import Parser, Summary
from neurosae.decoding import Design, make_design
from neurosae.decoding.selection import ALL
from neurosae.errors import UserError
from neurosae.files import atomic_path, write_json, write_text
from neurosae.representations import EMBEDDINGS, Bench, Source, bag_of_words
from neurosae.responses import ALIGNMENTS, POOLINGS, Responses
from neurosae.rsa.models import ModelRDM, length_model
from neurosae.sae import loading
from neurosae.sites import Site
from neurosae.stimuli import StimulusSet
from neurosae.stimuli.contrasts import Contrast
from neurosae.sweep import (
    EMBEDDING,
    SELECTIONS,
    BlockDecoding,
    contrast_by_block,
    decode_by_block,
    emergence,
    region_by_block,
    rsa_by_block,
    sweep_positions,
)

_LIBRARIES = ("torch", "transformers", "scikit-learn", "numpy", "scipy", "pandas")
_LEAST = {
    "width": 1, "k": 1, "region": 1, "folds": 2, "repeats": 1, "permutations": 19, "seed": 0, "batch_size": 1
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A contrast of a stimulus set, ready to be swept."""

    concept: StimulusSet
    contrast: Contrast
    rows_S: np.ndarray
    design: Design
    controls: tuple[ModelRDM, ...]
    options: argparse.Namespace


def parser() -> Parser:
    """Command-line options; every long name is also a key of --config."""
    p = shared.command("layer_sweep", __doc__)
    what = p.add_argument_group("what")
    what.add_argument("--concept", default="success", help="a stimulus set: name or YAML file")
    what.add_argument("--contrast", help="a contrast of the file (default: the first)")
    where = p.add_argument_group("where")
    where.add_argument("--blocks", nargs="+", default=["all"], help="block numbers, or all")
    where.add_argument("--pooling", default="mean", choices=POOLINGS, help="of tokens")
    where.add_argument("--sae", nargs="+", default=[], help="the same for latents of these SAEs (default: none)")
    where.add_argument(
        "--positions", nargs="?", const="target", choices=ALIGNMENTS,
        help="also every position of a window aligned to this, without a value to the target span (default: no window)",
    )  # fmt: skip
    where.add_argument("--width", type=int, default=16, help="of the window, in tokens")
    how = p.add_argument_group("how")
    how.add_argument("--k", type=int, default=8, help="features that selectors choose")
    how.add_argument("--region", type=int, default=32, help="features of the localized regions")
    how.add_argument("--folds", type=int, default=5, help="of cross-validation")
    how.add_argument("--repeats", type=int, default=10, help="of the folds")
    how.add_argument("--permutations", type=int, default=200, help="of decoding; contrast and RSA take 1000")
    how.add_argument("--alpha", type=float, default=0.05, help="level of corrected p")
    how.add_argument("--seed", type=int, default=0, help="of folds, permutations and resamples")
    how.add_argument("--jobs", type=int, default=2, help="processes; changes no result")
    how.add_argument("--batch-size", type=int, default=32, help="texts per forward pass: bounds memory")
    p.output.add_argument(
        "--out", type=Path, help="folder for tables and figures (default: results/layer_sweep/CONCEPT)"
    )
    shared.add_model(p)
    return p


def run(options: argparse.Namespace) -> Summary:
    """Read once, sweep, print, write, draw."""
    _check(options)
    task = prepare(options)
    neurons, latents = listen(task)
    tables, decoded = sweep(task, neurons, "raw")
    if latents:
        of_latents, _ = sweep(task, latents, "sae")
        tables = {name: pd.concat([table, of_latents[name]], ignore_index=True) for name, table in tables.items()}
    tables["decoding"] = pd.concat([tables["decoding"], words_alone(task)], ignore_index=True)
    design = task.design
    found = emergence(
        decoded.decision_LS,
        design.labels_S,
        design.groups_S,
        decoded.blocks_L,
        n_splits=options.folds,
        seed=options.seed,
    )
    tables |= {"curve": found.curve, "increments": found.increments}
    if options.positions:
        tables["positions"] = _positions(task, neurons)
    said = report.statements(tables, found, options.alpha)
    sentences = report.sentences(tables, said, options.alpha)
    shown = report.by_block(tables).to_string(index=False, float_format="{:.3f}".format)
    print(f"{_title(task)}\n\n{shown}")
    folder = options.out or Path("results", "layer_sweep", task.concept.name)
    _write(folder, task, tables, said, "\n".join([_title(task), "", *sentences, "", shown]))
    report.draw(folder, _title(task), tables, found, options.alpha)
    return Summary(
        sentences,
        said,
        folder,
        {
            "sweep.png": "contrast, geometry and decoding over the blocks",
            "positions.png": "decoding, block x position",
            "summary.txt": "what is said here, and one row per block",
            "decoding.csv": "held-out AUROC, chance, new domains",
            "increments.csv": "block against block, and against the embeddings",
            "sweep.json": "what was found, settings, versions",
        },
        [shared.next_command("contrast_map", options, "map", "in which features, at which token", sae=False)],
    )


def prepare(options: argparse.Namespace) -> Task:
    """Contrast, folds and permutations, and the models that could pass for the concept."""
    concept = stimuli.load(options.concept)
    contrast = concept.contrast(options.contrast)
    rows_S, is_target = contrast.labels(concept.table)
    table = concept.table.iloc[rows_S]
    domains = table["domain"].astype(str).to_numpy() if table["domain"].notna().all() else None
    design = make_design(
        np.where(is_target > 0, 1, -1),
        concept.groups()[rows_S],
        concept.blocks(contrast, rows_S),
        concept.design(contrast),
        domains_S=domains,
        n_splits=options.folds,
        n_repeats=options.repeats,
        n_permutations=options.permutations,
        seed=options.seed,
    )
    controls = []
    if domains is not None and len(np.unique(domains)) > 1:
        controls.append(ModelRDM("domain", (domains[:, None] != domains).astype(np.float64)))
    texts = table["text"].tolist()
    if len({len(text.split()) for text in texts}) > 1:
        controls.append(length_model(texts))
    return Task(concept, contrast, rows_S, design, tuple(controls), options)


def listen(task: Task) -> tuple[dict[int, Responses], dict[int, Responses]]:
    """Neurons of the token embeddings and all blocks from one forward pass; latents of the SAEs."""
    options = task.options
    source = Source(
        options.model, options.device, options.dtype, batch_size=options.batch_size, device_map=options.device_map
    )
    bench = Bench(task.concept, source, progress=True)
    blocks = _blocks(options.blocks, bench.language_model.n_blocks)
    read = {name: loading.declared_site(name, options.model) for name in options.sae}
    for name, site in read.items():
        if site != Site(site.block) or sum(site == other for other in read.values()) > 1:
            raise UserError(
                f"{name} reads {site}", where="--sae", allowed="residual streams after blocks, one SAE for each"
            )
    sites = {EMBEDDING: EMBEDDINGS} | {block: Site(block) for block in blocks}
    everywhere = list(dict.fromkeys([*sites.values(), *read.values()]))
    bench.listen(everywhere)
    latents = {}
    for name, site in read.items():
        encoding = Bench(task.concept, replace(source, sae=name))
        encoding.listen(everywhere)
        latents[site.block] = encoding.latents(site)
    return {block: bench.neurons(site) for block, site in sites.items()}, latents


def sweep(
    task: Task, heard: Mapping[int, Responses], representation: str
) -> tuple[dict[str, pd.DataFrame], BlockDecoding]:
    """Contrast, RSA and decoding of every block of one representation."""
    options, design = task.options, task.design
    pooled = {block: _pooled(task, responses) for block, responses in heard.items()}
    contrast = contrast_by_block(pooled, design, alpha=options.alpha, seed=options.seed)
    region = region_by_block(
        heard, task.concept, task.contrast, k=options.region, pooling=options.pooling, seed=options.seed
    )
    selections = {ALL: 0} | {name: options.k for name in SELECTIONS if name != ALL}
    decoded = decode_by_block(
        pooled, design, selections, alpha=options.alpha, seed=options.seed, n_jobs=options.jobs, progress=True
    )
    tables = {
        "contrast": contrast,
        "region": region,
        "rsa": rsa_by_block(pooled, design, task.controls, seed=options.seed),
        "decoding": decoded.table,
    }
    return {name: table.assign(representation=representation) for name, table in tables.items()}, decoded


def words_alone(task: Task) -> pd.DataFrame:
    """All words of the texts, decoded in the same way: the baseline that knows no language model."""
    counts = bag_of_words(task.concept.table["text"].iloc[task.rows_S].tolist()).dense()
    found = decode_by_block(
        {EMBEDDING: counts}, task.design, {ALL: 0}, alpha=task.options.alpha, seed=task.options.seed
    )
    return found.table.assign(representation="bag_of_words")


def _positions(task: Task, heard: Mapping[int, Responses]) -> pd.DataFrame:
    options = task.options
    table, _ = sweep_positions(
        heard,
        task.concept,
        task.design,
        task.contrast,
        align=options.positions,
        width=options.width,
        alpha=options.alpha,
        seed=options.seed,
        n_jobs=options.jobs,
    )
    return table.assign(align=options.positions)


def _check(options: argparse.Namespace) -> None:
    """Refuse numbers out of their range before anything is read."""
    for name, least in _LEAST.items():
        if getattr(options, name) < least:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} is {getattr(options, name)}", where=flag, allowed=f"integers from {least}")
    if not 0 < options.alpha < 1:
        raise UserError(f"--alpha is {options.alpha}", where="--alpha", allowed="between 0 and 1")


def _blocks(names: Sequence[str], n_blocks: int) -> list[int]:
    """Numbers of blocks, ascending."""
    if list(names) == ["all"]:
        return list(range(n_blocks))
    sites = {Site.parse(name).check(n_blocks) for name in names}
    odd = [str(site) for site in sites if site != Site(site.block)]
    if odd:
        raise UserError(
            f"{odd[0]} is not the residual stream after a block", where="--blocks", allowed="numbers, or all"
        )
    return sorted(site.block for site in sites)


def _pooled(task: Task, responses: Responses) -> np.ndarray:
    """Stimuli of the contrast x features; each must have a value."""
    pooled = responses.pool(task.options.pooling)
    missing = task.rows_S[~pooled.valid_S[task.rows_S]]
    if len(missing):
        raise UserError(
            f"{len(missing)} stimuli have no value under pooling '{task.options.pooling}', the first is "
            f"{task.concept.table['id'].iloc[missing[0]]}: {pooled.reason_S[missing[0]]}",
            where="--pooling",
            suggestion="Add target spans to the stimulus file, or pool over all tokens",
        )
    return pooled.dense()[task.rows_S]


def _title(task: Task) -> str:
    n_groups = len(np.unique(task.design.groups_S))
    return (
        f"{task.concept.name}, contrast {task.contrast.name}: {len(task.rows_S)} stimuli in {n_groups} groups "
        f"({task.design.design}), {task.options.model.split('/')[-1]}, {task.options.pooling} over tokens"
    )


def _write(
    folder: Path, task: Task, tables: Mapping[str, pd.DataFrame], statements: Mapping[str, Any], text: str
) -> None:
    """Every table twice, the summary, and all that the results depend on."""
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False))
        with atomic_path(folder / f"{name}.parquet") as temporary:
            table.to_parquet(temporary)
    write_text(folder / "summary.txt", text + "\n")
    libraries = {name: version(name) for name in ("neurosae", *_LIBRARIES)} | {"python": platform.python_version()}
    settings = {name: value for name, value in vars(task.options).items() if name not in ("out", "config")}
    about = {"title": _title(task), "stimuli_sha256": task.concept.sha256, "settings": settings, "versions": libraries}
    write_json(folder / "sweep.json", about | dict(statements))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
