"""Say what kind of dictionary an SAE is: latents specific to the conditions of a stimulus set, known members with a
latent of their own, how often a corpus mentions them, and how separate conditions are, in numbers and as maps.

Examples
--------
python -m experiments.describe_sae --concept success --out described
python -m experiments.describe_sae my-sae --concept valence --corpus corpus.parquet --umap --out described
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from experiments import options as shared
from neurosae import plots, stimuli
from neurosae.capture import capture
from neurosae.console import Parser, Summary
from neurosae.corpora import read_texts, shipped_texts
from neurosae.dictionary import members
from neurosae.dictionary.census import census, telling_words, without
from neurosae.dictionary.completeness import (
    DEDICATED,
    RARE,
    background_rates,
    completeness,
    frequency_relation,
    read_background,
    read_mentions,
    summary,
)
from neurosae.dictionary.maps import Separation, cosine_distances, separation, umap_positions
from neurosae.dictionary.members import MemberList
from neurosae.dictionary.specificity import exclusive_latents, specificity
from neurosae.errors import UserError
from neurosae.files import write_text
from neurosae.models import LanguageModel
from neurosae.responses import POOLINGS, Pooled
from neurosae.sae import loading
from neurosae.sae.encoding import encode
from neurosae.sae.loading import site_of
from neurosae.stimuli import StimulusSet

_PREFERRING = 30  # latents per condition that stand out in the map of decoder directions


def parser() -> Parser:
    """Command-line options."""
    p = shared.command("describe_sae", __doc__)
    what = p.add_argument_group("what")
    what.add_argument("sae", nargs="?", default=loading.DEFAULT, help="a bundled name, a path, a hub name")
    what.add_argument("--concept", default="success", help="a stimulus set: name or YAML file")
    what.add_argument("--pooling", default="mean", choices=POOLINGS, help="over a stimulus' tokens")
    known = p.add_argument_group("what it knows")
    known.add_argument(
        "--members",
        nargs="+",
        default=["all"],
        help=f"member lists: {', '.join(members.available())}, YAML files, or all (default)",
    )
    known.add_argument("--untrained", action="store_true", help="look for members in an untrained SAE of that L0, too")
    known.add_argument(
        "--background", type=int, help="ordinary texts that tell which latents are rare (default: all that ship)"
    )
    words = p.add_argument_group("how often a corpus mentions it")
    words.add_argument("--corpus", help="text to count words in (default: nothing is counted)")
    words.add_argument("--texts", type=int, help="count in the first so many texts only (default: all)")
    words.add_argument(
        "--keywords", nargs="+", help="words to count (default: those that differ most between conditions)"
    )
    shared.add_model(p, default=None)
    p.output.add_argument("--out", type=Path, required=True, help="folder for tables (CSV) and figures")
    p.output.add_argument("--umap", action="store_true", help="draw maps too; needs the extra 'maps'")
    p.output.add_argument("--map-latents", type=int, default=3000, help="latents in the map of decoder directions")
    return p


@dataclass(frozen=True)
class _Concept:
    """A stimulus set as both representations see it, without stimuli that have no value."""

    stimuli: StimulusSet
    labels: np.ndarray
    neurons: Any
    latents: Any


def run(options: argparse.Namespace) -> Summary:
    """Measure, print short tables, write everything."""
    for name in ("texts", "background"):
        if (value := getattr(options, name)) is not None and value < 2:
            raise UserError(f"{value} texts", where=f"--{name}", allowed="2 or more")
    for name in ("keywords", "texts"):
        if getattr(options, name) is not None and options.corpus is None:
            raise UserError(f"--{name} needs --corpus", where=f"--{name}", suggestion="Add --corpus, or leave it out")
    lists = members.load_all(options.members)
    if options.corpus:
        next(iter(read_texts(options.corpus)), None)  # a missing file is told before the work, not after
    sae, language_model = loading.load_pair(options.sae, **shared.model_of(options))
    concept = _read_concept(options, sae, language_model)
    print(f"{options.sae}: {sae.cfg.d_sae:,} latents at {site_of(sae)} of {language_model.name}")

    table = specificity(concept.latents, concept.labels, blocks_S=_blocks(concept.stimuli.groups()))
    _specificity(options, concept, table)
    found = _find_members(options, sae, language_model, lists)
    telling = telling_words(concept.stimuli.table["text"].tolist(), concept.labels.tolist())
    counts = _count(options, [m for each in lists for m in each.members], telling)
    complete = _members(options, found, counts, sae.cfg.d_sae)
    _keywords(options, telling, counts)
    separate = _separations(options, concept, table, sae)
    return _summary(options, table, complete, separate)


def _summary(
    options: argparse.Namespace, specific: pd.DataFrame, complete: pd.DataFrame, separate: pd.DataFrame
) -> Summary:
    """What is exclusive, known and separate, in a sentence each."""
    exclusive = exclusive_latents(specific)
    counts = ", ".join(
        f"{row['condition']} {row['exclusive']} (by chance {row['expected']:.1f})"
        for row in exclusive.to_dict("records")
    )
    trained = complete[complete["sae"] == "trained"]
    known = ", ".join(
        f"{row['list']} {row['dedicated']} of {row['members']} "
        f"({shared.with_interval(row['share'], row['ci_low'], row['ci_high'])})"
        for row in trained.to_dict("records")
    )
    distances = ", ".join(f"{row['space']} {row['silhouette']:.2f}" for row in separate.to_dict("records"))
    return Summary(
        [
            f"Latents that fire in one condition of '{options.concept}' only: {counts}.",
            f"Members with a latent of their own, on held-out sentences: {known}.",
            f"Separation of the conditions (silhouette, 1 is perfect): {distances}.",
        ],
        {
            "exclusive": exclusive.to_dict("records"),
            "completeness": complete.to_dict("records"),
            "separation": separate.to_dict("records"),
        },
        options.out,
        {
            "figures": "firing rates; completeness and maps where asked for",
            "specificity.csv": "every latent that fires",
            "exclusive.csv": "latents of one condition only, and the number by chance",
            "completeness.csv": "member lists",
            "members.csv": "every member and its latent",
            "separation.csv": "separation of conditions",
        },
        [f"python -m experiments.evaluate_sae {options.sae}   # how good the SAE is, and its largest latents"],
    )


def _read_concept(options: argparse.Namespace, sae: Any, language_model: LanguageModel) -> _Concept:
    stimulus_set = stimuli.load(options.concept)
    site = site_of(sae)
    neurons = capture(language_model, stimulus_set.table, [site], chat=stimulus_set.chat)[site]
    pooled: list[Pooled] = [each.pool(options.pooling) for each in (neurons, encode(sae, neurons, options.sae))]
    keep = pooled[0].valid_S
    if not keep.all():
        print(f"Left out: {int((~keep).sum())} stimuli ({', '.join(sorted(set(pooled[0].reason_S[~keep])))})")
    kept = stimulus_set.subset(keep)
    labels = kept.table[list(kept.factors)].agg("/".join, axis=1).to_numpy(dtype=object)
    return _Concept(kept, labels, *(each.values_SF[np.flatnonzero(keep)] for each in pooled))


def _blocks(groups_S: np.ndarray) -> np.ndarray:
    """Groups as blocks in which conditions may be shuffled; stimuli without others share one block."""
    alone_S = np.bincount(groups_S)[groups_S] == 1
    return np.where(alone_S, -1, groups_S)


def _specificity(options: argparse.Namespace, concept: _Concept, table: pd.DataFrame) -> None:
    """How many latents are exclusive, against chance, and the best ones."""
    exclusive = exclusive_latents(table)
    columns = ["condition", "latent", "rate", "mean", "auroc", "exclusive", "p_exclusive", "gini"]
    best = table[table["valid"]].sort_values("auroc", ascending=False, kind="stable")
    best = best.groupby("condition", observed=True, sort=False).head(5).sort_values("condition", kind="stable")
    _show(f"Latents that fire in one condition of '{concept.stimuli.name}' only, and the number by chance", exclusive)
    _show("Most specific latents, by AUROC (the best of many: optimistic)", best[columns])
    _write(options, "specificity", table[table["reason"] != "silent"])
    _write(options, "exclusive", exclusive)
    ax = plots.firing_rates(table, str(table["condition"].cat.categories[0]))
    plots.save(ax.figure, options.out / "figures" / "firing_rates")


def _find_members(
    options: argparse.Namespace, sae: Any, language_model: LanguageModel, lists: Sequence[MemberList]
) -> pd.DataFrame:
    """The latent of every member, in the SAE and, if asked for, in its untrained control."""
    site = site_of(sae)
    background = read_background(language_model, ordinary_texts(lists, options.background), site)
    saes = {"trained": sae}
    if options.untrained:
        saes["untrained"] = loading.untrained_like(sae, torch.from_numpy(background[0]))
    mentions = {each.name: read_mentions(language_model, each, site) for each in lists}
    tables = []
    for kind, each in saes.items():
        rates_2F = background_rates(each, background)
        tables += [completeness(each, read, rates_2F).assign(list=name, sae=kind) for name, read in mentions.items()]
    return pd.concat(tables, ignore_index=True)


def ordinary_texts(lists: Sequence[MemberList], n: int | None) -> list[str]:
    """The first n (None: all) of the texts that ship, without those that mention a member."""
    return without(shipped_texts(), [member for each in lists for member in each.members])[:n]


def _count(options: argparse.Namespace, names: list[str], telling: pd.DataFrame) -> pd.DataFrame | None:
    """Census of the members and the concept's words in one pass over the corpus."""
    if options.corpus is None:
        return None
    words = options.keywords or telling["word"].tolist()
    return census(itertools.islice(read_texts(options.corpus), options.texts), [*names, *words])


def _members(
    options: argparse.Namespace, table: pd.DataFrame, counts: pd.DataFrame | None, n_latents: int
) -> pd.DataFrame:
    """Completeness of each list, with the frequency of its members where a corpus was counted."""
    if counts is not None:
        found = counts.set_index("keyword").loc[table["member"], ["count", "per_million"]]
        table = table.assign(count=found["count"].to_numpy(), per_million=found["per_million"].to_numpy())
    rows = []
    for (kind, name), group in table.groupby(["sae", "list"], sort=False):
        row: dict[str, Any] = {"sae": kind, "list": name, "n_latents": n_latents, **summary(group)}
        if counts is not None:
            relation = frequency_relation(group["f1"].to_numpy(), group["per_million"].to_numpy())
            row.update({f"frequency_{key}": relation[key] for key in ("rho", "p", "valid", "reason")})
        rows.append(row)
    shown = pd.DataFrame(rows)
    _show(
        f"Members with a latent of their own (F1 from {DEDICATED:g} on held-out sentences, at most {RARE:g} of the "
        "tokens of ordinary text)",
        shown.drop(columns="frequency_reason", errors="ignore"),
    )
    _write(options, "completeness", shown)
    _write(options, "members", table)
    if counts is not None:
        table = table[table["sae"] == "trained"]
        relation = frequency_relation(table["f1"].to_numpy(), table["per_million"].to_numpy())
        title = f"Spearman rho {relation['rho']:.2f} over all {relation['n']} members, {n_latents:,} latents"
        ax = plots.completeness_by_frequency(table, title)
        plots.save(ax.figure, options.out / "figures" / "completeness")
    return shown


def _keywords(options: argparse.Namespace, telling: pd.DataFrame, counts: pd.DataFrame | None) -> None:
    """The words that tell the conditions apart, and how often the corpus has the concept's words."""
    _write(options, "telling_words", telling)
    if not options.keywords:
        _show("Words that differ most between conditions (share of texts; the best of many)", telling)
    if counts is not None:
        words = options.keywords or telling["word"].tolist()
        shown = counts[counts["keyword"].isin(words)]
        _show(f"Census of {options.corpus}", shown)
        _write(options, "census", counts)


def _separations(options: argparse.Namespace, concept: _Concept, table: pd.DataFrame, sae: Any) -> pd.DataFrame:
    """How separate the conditions are for neurons, latents and decoder directions; maps of the same distances."""
    groups = concept.stimuli.groups()
    latents, preferred = _shown_latents(table, sae.cfg.d_sae, options.map_latents)
    directions = sae.W_dec[latents.tolist()].detach().float().cpu().numpy()
    of_decoder = cosine_distances(directions, centred=False)
    some = np.flatnonzero(preferred != "")
    points = {
        "neurons": (cosine_distances(concept.neurons), concept.labels),
        "latents": (cosine_distances(concept.latents), concept.labels),
        "decoder": (of_decoder, preferred),
    }
    measured: dict[str, Separation] = {
        name: separation(distance, labels, groups) for name, (distance, labels) in points.items() if name != "decoder"
    }
    measured["decoder"] = separation(of_decoder[np.ix_(some, some)], preferred[some])
    shown = pd.DataFrame([{"space": name, **asdict(each)} for name, each in measured.items()])
    _show("Separation of conditions in the original space (cosine; decoder: of the latents that prefer each)", shown)
    _write(options, "separation", shown)
    if options.umap:
        titles = {
            "neurons": "Stimuli, neurons",
            "latents": "Stimuli, SAE latents",
            "decoder": f"Decoder directions, {_PREFERRING} best latents of each",
        }
        figure, axes = plt.subplots(1, 3, figsize=(15, 5.4), layout="constrained")
        for (name, (distance, labels)), ax in zip(points.items(), axes, strict=True):
            plots.point_map(umap_positions(distance), labels, titles[name], measured[name], ax)
        plots.save(figure, options.out / "figures" / "maps")
    return shown


def _shown_latents(table: pd.DataFrame, n_latents: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents of the map and the condition each prefers: the best of each condition, and others drawn at random."""
    best = table[table["valid"]].sort_values("auroc", ascending=False, kind="stable").drop_duplicates("latent")
    best = best.groupby("condition", observed=True, sort=False).head(_PREFERRING)
    others = np.setdiff1d(np.arange(n_latents), best["latent"])
    n_others = min(len(others), max(0, most - len(best)))
    drawn = np.random.default_rng(0).choice(others, n_others, replace=False)
    preferred = [*best["condition"].astype(str), *[""] * n_others]
    return np.concatenate([best["latent"].to_numpy(), drawn]), np.array(preferred, dtype=object)


def _show(title: str, table: pd.DataFrame) -> None:
    print(f"\n{title}\n\n{table.to_string(index=False, float_format=lambda value: f'{value:.3g}')}")


def _write(options: argparse.Namespace, name: str, table: pd.DataFrame) -> None:
    write_text(options.out / f"{name}.csv", table.to_csv(index=False))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
