"""What drives an ensemble? Fits a variant to a concept, searches a corpus, and says whether the concept comes out.

On the gold corpus every text has a grade: average precision and nDCG stand beside chance, ensembles of random features
and a bag of words. The ensemble is fitted on all stimuli of the contrast; the corpus is never used for fitting.

Examples
--------
python -m experiments.discover --concept success --out discovered
python -m experiments.discover --concept golden_gate_bridge --representation raw --selector t --out discovered
python -m experiments.discover --concept valence --corpus texts.jsonl --texts 10000 --out discovered
"""

from __future__ import annotations

import argparse
import itertools
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from experiments import options as shared
from neurosae import stimuli
from neurosae.console import Parser, Summary
from neurosae.corpora import read_texts
from neurosae.decoding.ensembles import ENSEMBLES
from neurosae.decoding.fitted import FittedEnsemble, fit_ensemble
from neurosae.decoding.selection import SELECTORS
from neurosae.decoding.variants import ALL, PCA, Variant
from neurosae.discovery import gold
from neurosae.discovery.gold import GoldCorpus
from neurosae.discovery.ranking import Retrieval, compare, retrieval
from neurosae.discovery.search import RANDOM, TOP, Discovery, discover, word_scores
from neurosae.errors import UserError
from neurosae.files import atomic_path, write_json, write_text
from neurosae.representations import Bench
from neurosae.sae import loading

GOLD = "gold"
_REPRESENTATIONS = ("sae", "raw", "untrained_sae", "embeddings")
_POOLINGS = ("mean", "max", "last", "prompt_end")
_SHOWN = 10


def parser() -> Parser:
    """Command-line options."""
    p = shared.command("discover", __doc__, "What was read of the corpus is kept.")
    what = p.add_argument_group("what")
    what.add_argument("--concept", required=True, help="a stimulus set, or a path to one")
    what.add_argument("--contrast", help="one of its contrasts (default: the first)")
    what.add_argument("--corpus", default=GOLD, help="gold, a file or folder of texts, or hf:NAME")
    what.add_argument("--texts", type=int, help="at most so many texts of the corpus (default: all)")
    variant = p.add_argument_group("the ensemble")
    variant.add_argument("--representation", default="sae", choices=_REPRESENTATIONS, help="whose features")
    variant.add_argument(
        "--selector", default="rsa_category", choices=[*SELECTORS, ALL, PCA], help="how they are found"
    )
    variant.add_argument("--k", type=int, default=8, help="features to select")
    variant.add_argument("--ensemble", default="logistic_l2", choices=list(ENSEMBLES), help="how weighed")
    variant.add_argument("--pooling", default="mean", choices=_POOLINGS, help="over the tokens of a stimulus")
    variant.add_argument("--block", type=int, help="where neurons are read (default: the block of the SAE)")
    variant.add_argument("--sae", default=loading.DEFAULT, help="a bundled name, a path, a hub name")
    shared.add_model(p)
    how = p.add_argument_group("how")
    how.add_argument("--random", type=int, default=3, help="ensembles of random features beside it")
    how.add_argument("--top", type=int, default=50, help="strongest sentences to keep")
    how.add_argument("--per-decile", type=int, default=5, help="sentences from every tenth of the scores")
    how.add_argument("--n-random", type=int, default=50, help="random control sentences")
    how.add_argument("--resamples", type=int, default=2000, help="of the bootstrap intervals")
    how.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    how.add_argument("--batch-size", type=int, default=32, help="sentences per forward pass: bounds memory")
    p.output.add_argument("--out", type=Path, required=True, help="folder for tables, the ensemble and the state")
    return p


def run(options: argparse.Namespace) -> Summary:
    """Fit, search, print and write."""
    for name, least in (("random", 0), ("resamples", 1), ("seed", 0), ("texts", 1)):
        if (value := getattr(options, name)) is not None and value < least:
            raise UserError(f"--{name} is {value}", where=f"--{name}", allowed=f"integers from {least}")
    corpus = gold.load() if options.corpus == GOLD else None
    bench, ensembles = _fit(options)
    concept = gold.concept_of(ensembles[0].concept, ensembles[0].target) if corpus else None
    found = discover(
        bench,
        ensembles,
        _texts(options, corpus),
        top=options.top,
        per_decile=options.per_decile,
        n_random=options.n_random,
        sample=max(2000, len(corpus.table)) if corpus else 2000,
        split=corpus is None,
        batch_size=options.batch_size,
        seed=options.seed,
        resume=options.out / "state",
        progress=True,
    )
    ensembles[0].save(options.out / "ensemble.json")
    _head(ensembles[0], found)
    grades_S = corpus.grades(concept)[found.sample["sentence"]] if corpus and concept else None
    texts = _with_grades(found, grades_S)
    _show(texts, grades_S is not None)
    _write(options.out, "texts", texts)
    _write(options.out, "tokens", found.tokens)
    table = pd.DataFrame()
    if grades_S is not None:
        table = _retrieved(options, bench, found, grades_S)
        _write(options.out, "retrieval", table)
        print(f"\nDoes the ranking retrieve '{concept}'? ({_grading(corpus, concept)})\n")
        print(table.drop(columns=["n", "n_relevant"]).to_string(index=False, float_format="{:.3f}".format))
    write_json(options.out / "discovery.json", _about(options, found))
    return _summary(options, found, texts, table, concept)


def _summary(
    options: argparse.Namespace, found: Discovery, texts: pd.DataFrame, retrieved: pd.DataFrame, concept: str | None
) -> Summary:
    """How much was read, and whether the concept came out."""
    name = _label(found, 0)
    sentences = [f"{name} ranked {found.n_sentences:,} sentences of {found.n_texts:,} texts."]
    if len(retrieved):
        rows = retrieved[retrieved["metric"] == "average_precision"].set_index("ranking").to_dict("index")
        first, words = rows[name], rows["bag of words"]
        precision = shared.with_interval(first["value"], first["low"], first["high"])
        sentences.append(
            f"Its average precision for '{concept}' is {precision}; chance is {first['chance']:.2f}, "
            f"the words of the stimuli reach {words['value']:.2f}."
        )
    strongest = texts[(texts["ensemble"] == 0) & (texts["set"] == TOP)]["text"].head(1)
    sentences += [f"The strongest sentence: {textwrap.shorten(str(text), 160)}" for text in strongest]
    return Summary(
        sentences,
        {
            "ensemble": name,
            "n_sentences": found.n_sentences,
            "retrieval": retrieved.to_dict("records"),
            "strongest": strongest.tolist(),
        },
        options.out,
        {
            "texts.csv": "strongest, random and graded steps of sentences",
            "tokens.csv": "which tokens drive them",
            "retrieval.csv": "average precision and nDCG beside chance and rivals",
            "ensemble.json": "the fitted ensemble",
        },
        [shared.next_command("explain", options, "explained", "what they have in common")],
    )


def _fit(options: argparse.Namespace) -> tuple[Bench, list[FittedEnsemble]]:
    """The ensemble asked for, then ensembles of random features."""
    chosen = stimuli.load(options.concept)
    contrast = chosen.contrast(options.contrast).name
    bench = Bench(chosen, shared.source(options), progress=True)
    block = loading.declared_site(options.sae, options.model).block
    if options.block is not None and options.representation == "raw":
        block = options.block
    k = 0 if options.selector == ALL else options.k
    variant = Variant(options.representation, options.selector, k, options.ensemble, block, options.pooling)
    random = replace(variant, selector="random", k=options.k)
    return bench, [
        fit_ensemble(bench, contrast, variant, seed=options.seed),
        *(fit_ensemble(bench, contrast, random, seed=options.seed + draw) for draw in range(options.random)),
    ]


def _texts(options: argparse.Namespace, corpus: GoldCorpus | None) -> Iterable[str]:
    texts = read_texts(options.corpus) if corpus is None else iter(corpus.table["text"])
    return itertools.islice(texts, options.texts)


def _with_grades(found: Discovery, grades_S: np.ndarray | None) -> pd.DataFrame:
    texts = found.texts.assign(name=[_label(found, e) for e in found.texts["ensemble"]])
    if grades_S is None:
        return texts
    return texts.assign(grade=texts["sentence"].map(dict(zip(found.sample["sentence"], grades_S, strict=True))))


def _label(found: Discovery, ensemble: int) -> str:
    return found.ensembles[0].variant.name if ensemble == 0 else f"random features, draw {ensemble - 1}"


def _head(ensemble: FittedEnsemble, found: Discovery) -> None:
    print(f"{ensemble.name}: target '{ensemble.target}', fitted on {len(ensemble.train_ids)} stimuli")
    print(f"features {', '.join(map(str, ensemble.features_K[:16]))}{' ...' * (len(ensemble.features_K) > 16)}")
    print(
        f"{found.n_sentences} sentences of {found.n_texts} texts; left out: {found.n_too_long} too long, "
        f"{found.n_without_value} without a clean token"
    )
    if found.overlap_reason:
        print(f"Overlap with the SAE's training text is not known: {found.overlap_reason}")
    else:
        share = found.sample["in_sae_training"].mean()
        print(f"In the SAE's training text: {100 * share:.1f} % of {len(found.sample)} sampled sentences")


def _show(texts: pd.DataFrame, graded: bool) -> None:
    """The strongest sentences, and some at random for comparison."""
    for which, title in ((TOP, "Strongest for the target"), (RANDOM, "At random")):
        rows = texts[(texts["ensemble"] == 0) & (texts["set"] == which)]
        if which == RANDOM:  # these are sorted by score: a spread of them, not the first
            rows = rows.iloc[:: max(1, len(rows) // (_SHOWN // 2))]
        print(f"\n{title}\n")
        for row in rows.head(_SHOWN).itertuples():
            grade = f"  grade {row.grade}" if graded else ""
            seen = "  (in the SAE's training text)" if row.in_sae_training else ""
            print(textwrap.indent(textwrap.fill(str(row.text), 108), "    "))
            print(f"    score {row.score:+.2f}{grade}{seen}")


def _retrieved(options: argparse.Namespace, bench: Bench, found: Discovery, grades_S: np.ndarray) -> pd.DataFrame:
    """Metrics of every ranking, and how much better the ensemble is than each rival (paired)."""
    rankings = {_label(found, e): found.scores_NE[:, e] for e in range(len(found.ensembles))}
    rankings["bag of words"] = word_scores(bench.stimuli, found.ensembles[0].contrast, found.sample["text"].tolist())
    first, *rivals = rankings
    settings = {"n": options.resamples, "seed": options.seed}
    rows = [_row(retrieval(scores_S, grades_S, **settings), name) for name, scores_S in rankings.items()]
    rows += [_row(compare(rankings[first], rankings[name], grades_S, **settings), f"minus {name}") for name in rivals]
    return pd.concat(rows, ignore_index=True)


def _row(found: Retrieval, name: str) -> pd.DataFrame:
    table = found.table.copy()
    table.insert(0, "ranking", name)
    return table


def _grading(corpus: GoldCorpus | None, concept: str | None) -> str:
    assert corpus is not None
    counts = corpus.prevalence().set_index("concept").loc[concept]
    return (
        f"{counts['grade_3']} sentences of grade 3 and {counts['grade_2']} of grade 2 among {len(corpus.table)}, "
        "written and graded by language models"
    )


def _about(options: argparse.Namespace, found: Discovery) -> dict[str, object]:
    counts = ("n_texts", "n_sentences", "n_too_long", "n_without_value", "overlap_reason")
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    names = [_label(found, e) for e in range(len(found.ensembles))]
    return {"options": asked, "ensembles": names, **{name: getattr(found, name) for name in counts}}


def _write(folder: Path, name: str, table: pd.DataFrame) -> None:
    write_text(folder / f"{name}.csv", table.to_csv(index=False))
    with atomic_path(folder / f"{name}.parquet") as temporary:
        table.to_parquet(temporary, index=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
