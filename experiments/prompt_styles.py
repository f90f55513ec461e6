"""What do latents make of a style? The same questions asked plainly, after filler or white space, of a novice, an
expert, a guru: active latents, latents unique to a style, perfect separators checked on held-out wordings, the
difference of any two styles, maps, and whether any of it goes with better answers.

Two pools of tokens are reported apart: the question that all styles share, and the whole prompt, where a style has
latents of its own merely because it has words of its own. Filler and white space are the controls for length.

Examples
--------
python -m experiments.prompt_styles
python -m experiments.prompt_styles --difference expert novice --difference guru padding --umap
python -m experiments.prompt_styles --model meta-llama/Llama-3.1-8B-Instruct --sae L15R-8x --judge anthropic --budget 1
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments import calibrate_judge
from experiments import options as shared
from neurosae import plots, stimuli
from neurosae import styles as prompt_styles
from neurosae.autointerp.anthropic_judge import AnthropicJudge
from neurosae.autointerp.judges import JUDGES, GradeRequest, Judge, load_judge
from neurosae.console import Parser, Summary
from neurosae.dictionary.maps import require_umap, umap_positions
from neurosae.errors import UserError, unknown_name
from neurosae.files import atomic_path, write_json, write_text
from neurosae.inference.bootstrap import MIN_GROUPS
from neurosae.models import LanguageModel
from neurosae.sae import loading
from neurosae.sites import Site
from neurosae.stimuli import StimulusSet
from neurosae.styles import MEASURES, POOLS, Crossing, Pool, findings
from neurosae.styles.answers import CONCEPT, DEFINITION, LIKELIHOOD, RULE, Judged, QualityJudge
from neurosae.styles.spaces import of_row, style_distances, style_separation

PER_POOL: Mapping[str, str] = {
    "means": "measures of every style",
    "comparisons": "every two styles, paired over topics",
    "unique": "latents that fire in one style only",
    "separators": "perfect separators, found and surviving",
    "separating_latents": "which latents these are",
    "controls": "what filler and white space of that length change too",
    "firing": "where the latents fire that tell a style best",
    "separation": "neurons against latents, in the original space",
}


_LISTED = 100  # latents of a difference at least


def parser() -> Parser:
    """Command-line options; every long name is also a key of --config."""
    p = shared.command("prompt_styles", __doc__)
    what = p.add_argument_group("what")
    what.add_argument("--set", default="expertise", help="styles x wordings x topics: a stimulus set or YAML file")
    what.add_argument("--sae", default=loading.DEFAULT, help="a bundled name, a path, a hub name")
    what.add_argument("--block", type=int, help="block of the neurons beside the latents (default: the SAE's)")
    what.add_argument("--topics", type=int, help="use so many of the topics (default: all)")
    what.add_argument("--baseline", default="standard", help="the plain style")
    what.add_argument("--controls", nargs="+", default=["padding", "spaces"], help="styles that say nothing")
    what.add_argument(
        "--difference",
        nargs=2,
        action="append",
        metavar=("STYLE", "AGAINST"),
        help="write how two styles differ as JSON; may be repeated (default: the set's target and each other style)",
    )
    what.add_argument("--umap", action="store_true", help="draw maps too (needs the extra 'maps')")
    answers = p.add_argument_group("answers")
    answers.add_argument("--answers", type=int, default=12, help="topics that are answered in every style; 0: none")
    answers.add_argument("--answer-tokens", type=int, default=40, help="at most so many tokens each, greedily")
    calibrate_judge.add_judge(answers, LIKELIHOOD, (LIKELIHOOD, *JUDGES))
    how = p.add_argument_group("how")
    how.add_argument("--permutations", type=int, default=1000, help="sign flips of topics, shufflings of wordings")
    how.add_argument("--bootstrap", type=int, default=2000, help="resamples of topics")
    how.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    how.add_argument("--batch-size", type=int, default=32, help="prompts per forward pass: bounds memory")
    p.output.add_argument("--out", type=Path, default=Path("results/prompt_styles"), help="folder of everything")
    shared.add_model(p)
    return p


def run(options: argparse.Namespace) -> Summary:
    """Read, compare, judge; print and write."""
    for name, least in (("permutations", 1), ("bootstrap", 100), ("answer_tokens", 1), ("seed", 0), ("batch_size", 1)):
        if (value := getattr(options, name)) < least:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{value} is too small", where=flag, allowed=f"integers from {least}")
    chosen = stimuli.load(options.set)
    crossing = prompt_styles.cross(chosen, options.topics)
    target = chosen.target
    wanted = options.difference or [[target, style] for style in crossing.styles if style != target]
    _check_styles(options, crossing, wanted)
    judge = _judge(options)
    if options.umap:
        require_umap()
    if options.dry_run:
        return _priced(options, crossing, judge)
    sae, language_model = loading.load_pair(options.sae, **shared.model_of(options))
    if options.block is not None:
        Site(options.block).check(language_model.n_blocks)
    pools = prompt_styles.read_pools(
        language_model, sae, crossing, chosen.chat, block=options.block, batch_size=options.batch_size, progress=True
    )
    tables = _compare(options, pools)
    for style, against in wanted:
        _write_difference(options, tables["differences"], style, against)
    said = [_opening(options, language_model, crossing, tables)]
    said += [
        findings.of_active_latents(tables["comparisons"], options.baseline, options.controls),
        findings.of_separators(tables["separators"], options.controls),
        findings.of_controls(tables["controls"]),
        findings.of_separation(tables["separation"]),
    ]
    if options.answers:
        judged = _answers(options, language_model, chosen, pools, judge, tables)
        said.append(
            findings.of_answers(tables["relations"], judged.verdict) if "relations" in tables else judged.verdict
        )
    _print(tables)
    _write(options, tables)
    _draw(options, pools, tables)
    write_text(options.out / "summary.txt", "\n".join(said) + "\n")
    return Summary(
        said,
        {name: table.to_dict("records") for name, table in tables.items() if name in ("comparisons", "controls")},
        options.out,
        {
            "summary.txt": "what is above",
            "figures/active.png": "active latents per token, by style",
            "figures/separators.png": "perfect separators in held-out wordings",
            "figures/firing_question.png": "firing shares and purity",
            **{f"difference_{a}_{b}.json": f"latents in which {a} differs from {b}" for a, b in wanted},
            **{f"{name}.csv": f"{about} (also .parquet)" for name, about in PER_POOL.items()},
            "differences.parquet": "every latent, every two styles",
            "answers.csv": "the answers and their quality (also .parquet)",
            "relations.csv": "active latents, lengths and quality (also .parquet)",
        },
        ["python -m experiments.prompt_styles --difference guru expert --umap"],
    )


def _check_styles(options: argparse.Namespace, crossing: Crossing, wanted: Sequence[Sequence[str]]) -> None:
    crossing.style(options.baseline, "--baseline")
    for control in options.controls:
        crossing.style(control, "--controls")
    if options.baseline in options.controls:
        raise UserError(f"'{options.baseline}' is the baseline", where="--controls", allowed="other styles")
    for pair in wanted:
        for style in pair:
            crossing.style(style, "--difference")
        if pair[0] == pair[1]:
            raise UserError(f"'{pair[0]}' does not differ from itself", where="--difference", allowed="two styles")
    if options.answers and not MIN_GROUPS <= options.answers <= len(crossing.topics):
        allowed = f"0, or {MIN_GROUPS} to {len(crossing.topics)}"
        raise UserError(f"Answers to {options.answers} topics", where="--answers", allowed=allowed)


def _judge(options: argparse.Namespace) -> Judge | None:
    """The judge, or None for the likelihood; what it cannot start without is said before anything is computed."""
    if options.judge not in (LIKELIHOOD, *JUDGES):
        raise unknown_name("judge", options.judge, (LIKELIHOOD, *JUDGES), where="--judge")
    if options.judge == LIKELIHOOD or not options.answers:
        return None
    about = calibrate_judge.judge_settings(options)
    return load_judge(options.judge, replace(about, device=options.device, dtype=options.dtype))


def _priced(options: argparse.Namespace, crossing: Crossing, judge: Judge | None) -> Summary:
    """What judging would cost; the answers are not written yet and count with their longest length."""
    if judge is None:
        return Summary(["Nothing is sent: answers are judged on this machine, at no cost."], {"cost": 0})
    text = f"Question: {crossing.table['text'].iloc[0]}\nAnswer:{' word' * options.answer_tokens}"
    asked = [GradeRequest(text, CONCEPT, DEFINITION, RULE)] * (2 * options.answers * len(crossing.styles))
    quote = calibrate_judge.price(judge, asked)
    return Summary([quote], {"judge": judge.name, "quote": quote})


def _compare(options: argparse.Namespace, pools: Mapping[str, Pool]) -> dict[str, pd.DataFrame]:
    """All tables about latents, the pools below each other."""
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in (*PER_POOL, "differences")}
    n, draws, seed = options.permutations, options.bootstrap, options.seed
    for name, pool in pools.items():
        crossing = pool.crossing
        values = prompt_styles.per_topic(pool)
        tested = {measure: value for measure, value in values.items() if measure != "tokens"}
        rates_CVF = prompt_styles.firing_rates(pool.maximum_SF, crossing)
        differences = prompt_styles.style_differences(pool, n=n, seed=seed)
        comparisons = prompt_styles.compare_styles(tested, crossing.styles, n=draws, seed=seed)
        by_wording = prompt_styles.per_wording(pool)
        tables = {
            "means": prompt_styles.style_means(values, crossing.styles, n=draws, seed=seed),
            "comparisons": comparisons.assign(
                wordings_apart=prompt_styles.apart_in_wordings(comparisons, by_wording, crossing.styles)
            ),
            "unique": prompt_styles.unique_latents(pool.maximum_SF, crossing),
            "separators": prompt_styles.separators(rates_CVF, crossing.styles, n=n, seed=seed),
            "separating_latents": prompt_styles.separating_latents(rates_CVF, crossing.styles),
            "controls": prompt_styles.beyond_controls(differences, options.baseline, options.controls),
            "firing": prompt_styles.firing_table(pool.maximum_SF, crossing, n=draws, seed=seed),
            "separation": style_separation(style_distances(pool), crossing, n=n, seed=seed),
            "differences": differences,
        }
        for key, table in tables.items():
            found[key].append(table.assign(pool=name)[["pool", *table.columns]])
    return {name: pd.concat(each, ignore_index=True) for name, each in found.items()}


def _answers(
    options: argparse.Namespace,
    language_model: LanguageModel,
    chosen: StimulusSet,
    pools: Mapping[str, Pool],
    judge: Judge | None,
    tables: dict[str, pd.DataFrame],
) -> Judged:
    """Write answers, have them judged blind, and relate their quality to active latents and lengths."""
    crossing = pools["question"].crossing
    answers = prompt_styles.write_answers(
        language_model, crossing, chosen.chat, options.answers, n_tokens=options.answer_tokens
    )
    rate: QualityJudge = (
        prompt_styles.likelihood(language_model, chosen.chat) if judge is None else prompt_styles.graded(judge)
    )
    name = f"likelihood:{language_model.name}" if judge is None else judge.name
    judged = prompt_styles.judge_blind(answers, rate, name, n=options.bootstrap, seed=options.seed)
    rows = answers["row"].to_numpy()
    measured = judged.answers.assign(
        active=pools["question"].measures_S["active"].to_numpy()[rows],
        prompt_tokens=pools["prompt"].measures_S["tokens"].to_numpy()[rows],
    )
    columns = ["topic", "active", "prompt_tokens", "answer_tokens", "quality"]
    rated = measured.dropna(subset=["quality"])
    tables["answers"] = measured
    if rated["topic"].nunique() >= MIN_GROUPS:
        tables["relations"] = prompt_styles.relations(rated[columns], n=options.bootstrap, seed=options.seed)
    complete = rated.groupby("topic").filter(lambda group: len(group) == len(crossing.styles))
    if complete["topic"].nunique() >= MIN_GROUPS:
        values = {
            name: complete.pivot(index="style", columns="topic", values=name).loc[list(crossing.styles)].to_numpy(float)
            for name in ("quality", "answer_tokens")
        }
        draws = {"n": options.bootstrap, "seed": options.seed}
        tables["answer_means"] = prompt_styles.style_means(values, crossing.styles, **draws)
        tables["answer_comparisons"] = prompt_styles.compare_styles(values, crossing.styles, **draws)
    if isinstance(judge, AnthropicJudge):
        print(judge.spending)
    about = {name: getattr(judged, name) for name in ("auc", "low", "high", "n_unanswered", "verdict")}
    write_json(options.out / "judge.json", {"judge": name, **about})
    return judged


def _opening(
    options: argparse.Namespace, language_model: LanguageModel, crossing: Crossing, tables: Mapping[str, pd.DataFrame]
) -> str:
    n_styles, n_wordings, n_topics = crossing.shape
    unique = tables["unique"].set_index(["style", "pool"])[["unique", "in_every_wording"]].astype(int)
    told = [style for style in crossing.styles if style not in (options.baseline, *options.controls)]
    counts = []
    for style in told:
        of_pools = [
            f"{of['unique']} in the {pool} ({of['in_every_wording']} in every wording)"
            for pool, of in unique.loc[style].iterrows()
        ]
        counts.append(f"{style} {', '.join(of_pools)}")
    return (
        f"{len(crossing.table):,} prompts ({n_styles} styles x {n_wordings} wordings x {n_topics} topics) through "
        f"{language_model.name} and {options.sae}. Latents that fire in one style only: {'; '.join(counts)}."
    )


def _write_difference(options: argparse.Namespace, differences: pd.DataFrame, style: str, against: str) -> None:
    """The significant latents of two styles, and at least the strongest, as JSON, in both pools."""
    pools: dict[str, Any] = {}
    for pool, rows in differences.groupby("pool", sort=False):
        here = rows[(rows["style"] == style) & (rows["against"] == against)]
        if not len(here):  # the table holds each pair once
            here = rows[(rows["style"] == against) & (rows["against"] == style)]
            here = here.rename(columns={"rate": "rate_against", "rate_against": "rate"})
            here = here.assign(effect=-here["effect"], t=-here["t"], d=-here["d"])
        columns = ["latent", "effect", "t", "d", "p", "p_fwe", "rate", "rate_against", "wordings_apart"]
        pools[str(pool)] = {
            "tokens": POOLS[str(pool)],
            "n_tested": len(here),
            "n_significant": (n_significant := int((here["p_fwe"] < findings.ALPHA).sum())),
            "latents": here[columns].head(max(n_significant, _LISTED)).to_dict("records"),
        }
    write_json(
        options.out / f"difference_{style}_{against}.json",
        {"style": style, "against": against, "sae": options.sae, "permutations": options.permutations, "pools": pools},
    )


def _print(tables: Mapping[str, pd.DataFrame]) -> None:
    """The tables that fit a screen; separators and controls have a row per pair of styles."""
    titles = dict(PER_POOL) | {"relations": "active latents, lengths and quality within topics, others held"}
    titles |= {"answer_means": "answers of every style"}
    for name in ("means", "unique", "separation", "answer_means", "relations"):
        if name in tables:
            body = tables[name].to_string(index=False, float_format=lambda value: f"{value:.3g}")
            print(f"\n{titles[name].capitalize()}\n\n{body}")


def _write(options: argparse.Namespace, tables: Mapping[str, pd.DataFrame]) -> None:
    """CSV and Parquet of every table; of every latent and pair Parquet only."""
    for name, table in tables.items():
        with atomic_path(options.out / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
        if name != "differences":
            write_text(options.out / f"{name}.csv", table.to_csv(index=False))


def _draw(options: argparse.Namespace, pools: Mapping[str, Pool], tables: Mapping[str, pd.DataFrame]) -> None:
    folder = options.out / "figures"
    for measure in ("active", "strongest", "strength"):
        ax = plots.style_means(tables["means"], measure, MEASURES[measure])
        plots.save(ax.figure, folder / measure)
    of_question = tables["comparisons"][tables["comparisons"]["pool"] == "question"]
    ax = plots.style_differences(of_question, "active", MEASURES["active"], options.baseline)
    plots.save(ax.figure, folder / "active_differences")
    figure, axes = plt.subplots(1, len(pools), figsize=(6.4 * len(pools), 4.8), layout="constrained")
    for ax, (name, pool) in zip(axes, pools.items(), strict=True):
        plots.style_separators(tables["separators"][tables["separators"]["pool"] == name], name, ax)
        shown = plots.style_firing(tables["firing"][tables["firing"]["pool"] == name], pool.crossing.styles)
        plots.save(shown.figure, folder / f"firing_{name}")
    plots.save(figure, folder / "separators")
    if "answers" in tables:
        scale = "log p/token" if options.judge == LIKELIHOOD else "grade, 0 to 3"
        labels = (MEASURES["active"], f"quality of the answer, {scale}")
        ax = plots.style_relation(tables["answers"], "active", "quality", labels)
        plots.save(ax.figure, folder / "quality")
    if options.umap:
        _draw_maps(options, pools, tables["separation"])


def _draw_maps(options: argparse.Namespace, pools: Mapping[str, Pool], measured: pd.DataFrame) -> None:
    """Prompts in the plane; what is said about separation was measured before, in new wordings."""
    figure, axes = plt.subplots(len(pools), 2, figsize=(10, 5.6 * len(pools)), layout="constrained")
    told = {(row["pool"], row["space"]): of_row(row) for _, row in measured[measured["new"] == "wording"].iterrows()}
    for row, (name, pool) in zip(axes, pools.items(), strict=True):
        labels = np.array(pool.crossing.styles)[pool.crossing.style_S]
        for ax, (space, distance) in zip(row, style_distances(pool).items(), strict=True):
            title = f"{space}, tokens of the {name}"
            plots.point_map(umap_positions(distance, seed=options.seed), labels, title, told[name, space], ax)
    plots.save(figure, options.out / "figures" / "maps")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
