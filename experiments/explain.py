"""What does an ensemble stand for? An explanation of the texts that drive it, scored on other texts.

Examples
--------
python -m experiments.explain --concept success --out results/explain
python -m experiments.explain --concept valence --representation raw --selector t --judge embeddings --out explain
python -m experiments.explain --concept success --judge anthropic --corpus texts.jsonl --random-features 4 --out explain
python -m experiments.explain --concept success --judge anthropic --out explain --dry-run
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from experiments import calibrate_judge
from experiments import options as shared
from neurosae import stimuli
from neurosae.autointerp.anthropic_judge import AnthropicJudge
from neurosae.autointerp.calibration import Calibration, calibrate, chosen_rows, gold_rule, held_out, requests
from neurosae.autointerp.embedding_judge import EmbeddingJudge
from neurosae.autointerp.examples import Evidence
from neurosae.autointerp.gold_judge import GoldJudge
from neurosae.autointerp.interpretation import (
    COSTLY_RANDOM_ENSEMBLES,
    RANDOM_ENSEMBLES,
    Concept,
    Interpretation,
    Readers,
    beside_random,
    evidence_of,
    interpret,
    random_ensembles,
    verdict,
)
from neurosae.autointerp.judges import (
    JUDGES,
    Answer,
    Completion,
    Grade,
    GradeRequest,
    Judge,
    Writer,
    load_judge,
    unanswered,
)
from neurosae.autointerp.scorers import PATTERN_RULE
from neurosae.autointerp.scores import Settings
from neurosae.console import Parser, Summary
from neurosae.corpora import read_texts
from neurosae.decoding.ensembles import ENSEMBLES
from neurosae.decoding.fitted import FittedEnsemble, fit_ensemble
from neurosae.decoding.selection import SELECTORS
from neurosae.decoding.variants import Variant
from neurosae.discovery import gold
from neurosae.discovery.gold import GoldCorpus
from neurosae.discovery.search import Discovery, discover
from neurosae.errors import UserError, unknown_name
from neurosae.files import atomic_path, write_json
from neurosae.representations import Bench
from neurosae.sae import loading

GOLD = "gold"
UNKNOWN = "Patterns are counted at 40 words, as they are not written yet; failed attempts come on top."
LEARNERS = ("embeddings",)  # judges that have learned from one half of the gold corpus
SHOWN = ["about", "scorer", "name", "value", "low", "high", "chance_low", "chance_high", "p", "random_mean", "p_random"]


def parser() -> Parser:
    """Command-line options."""
    p = shared.command("explain", __doc__, "What was read of the corpus and every answer that was paid for is kept.")
    what = p.add_argument_group("what")
    what.add_argument("--concept", default="success", help="a name in stimuli/ or a YAML file")
    what.add_argument("--contrast", help="a contrast of the file (default: the first)")
    what.add_argument("--corpus", default=GOLD, help="gold, or a file or folder of texts, or hf:NAME")
    variant = p.add_argument_group("the ensemble")
    variant.add_argument("--representation", default="sae", help="whose features: sae, raw, untrained_sae, embeddings")
    variant.add_argument("--selector", default="rsa_category", help=f"how they are found: {', '.join(SELECTORS)}")
    variant.add_argument("--k", type=int, default=8, help="features to select")
    variant.add_argument("--ensemble", default="logistic_l2", help=f"how they are weighed: {', '.join(ENSEMBLES)}")
    variant.add_argument("--pooling", default="mean", help="over the tokens of a stimulus: mean, max, last, prompt_end")
    variant.add_argument("--block", type=int, help="where neurons are read (default: the block of the SAE)")
    variant.add_argument("--sae", default=loading.DEFAULT, help="a bundled name, a path, a hub name")
    shared.add_model(p)
    judge = p.add_argument_group("judge")
    calibrate_judge.add_judge(judge, GOLD, (GOLD, *JUDGES))
    judge.add_argument("--calibrate-on", type=int, help="held-out gold sentences to measure it on (default: all)")
    how = p.add_argument_group("how")
    how.add_argument(
        "--random-features",
        type=int,
        help=f"ensembles of random features beside it (default: {RANDOM_ENSEMBLES}; {COSTLY_RANDOM_ENSEMBLES} if the "
        "judge is a language model)",
    )
    how.add_argument("--top", type=int, default=50, help="strongest texts, half of them to explain")
    how.add_argument("--per-decile", type=int, default=20, help="texts of every decile")
    how.add_argument("--permutations", type=int, default=999, help="of set labels, for chance and p")
    how.add_argument("--bootstrap", type=int, default=2000, help="resamples of texts, for intervals")
    how.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    how.add_argument("--batch-size", type=int, default=32, help="texts per forward pass: bounds memory")
    p.output.add_argument("--out", type=Path, required=True, help="folder of the tables")
    return p


def run(options: argparse.Namespace) -> Summary:
    """Fit, search, explain, score; print and write."""
    settings = Settings(options.bootstrap, options.permutations, options.seed)
    graded = gold.load()
    judge = judge_of(options, graded)
    chosen = stimuli.load(options.concept)
    contrast = options.contrast or chosen.contrast().name
    bench = Bench(chosen, shared.source(options))
    ensembles = fitted(bench, contrast, options, judge)
    concept, is_graded = looked_for(options, ensembles[0], bench, graded)
    found = discover(
        bench,
        ensembles,
        texts_of(options, graded),
        top=options.top,
        per_decile=options.per_decile,
        n_random=options.top,
        split=options.corpus != GOLD,
        batch_size=options.batch_size,
        seed=options.seed,
        resume=None if options.corpus == GOLD else options.out / "state",
    )
    evidence = [evidence_of(found, e) for e in range(len(ensembles))]
    is_measured = is_graded and options.judge != GOLD
    if options.dry_run:
        asked = asked_of(judge, evidence, concept, settings)
        if is_measured:
            asked += requests(graded, concept.name, chosen_rows(graded, options.calibrate_on, options.seed))
        quote = calibrate_judge.price(judge, asked)
        return Summary([quote, UNKNOWN], {"judge": judge.name, "quote": quote})
    calibration = None
    if is_measured:
        calibration = calibrate(judge, graded, concept.name, limit=options.calibrate_on, seed=options.seed)
    first, *random = (interpret(texts, concept, readers(judge), settings) for texts in evidence)
    scores = beside_random(first.scores, [other.scores for other in random])
    trust = said_of(judge, concept, calibration)
    print(as_text(ensembles[0], found, first, scores, concept, judge.name, trust))
    if isinstance(judge, AnthropicJudge):
        print(f"\n{judge.spending}")
    write(options, ensembles[0], found, first, scores, concept, judge.name, trust)
    if calibration is not None:
        calibrate_judge.write(options.out / ensembles[0].name, [calibration])
    texts = {e.kind: e.text for e in first.explanations if e.text}
    sentences = [
        verdict(scores, concept.name),
        *(f"Explanation ({kind}): {text}." for kind, text in texts.items()),
        trust,
    ]
    return Summary(
        sentences,
        {"verdict": sentences[0], "explanations": texts, "trust": trust, "scores": scores.to_dict("records")},
        options.out / ensembles[0].name,
        {
            "explanation.json": "explanations, verdict, provenance",
            "scores.csv": "every score beside chance and random features",
            "grades.csv": "every text with its grade",
            "words.csv": "words that mark the strongest texts",
        },
        [shared.next_command("influence", options, "influence", "does it cause anything")],
    )


def judge_of(options: argparse.Namespace, graded: GoldCorpus) -> Judge:
    """The judge; what it cannot start without is said before anything is computed."""
    if options.random_features is not None and options.random_features < 1:
        raise UserError(f"{options.random_features} ensembles", where="--random-features", allowed="1 or more")
    if options.judge == GOLD:
        if options.corpus != GOLD:
            raise UserError("The gold grades know no other corpus", where="--judge", allowed=", ".join(JUDGES))
        return GoldJudge(graded)
    if options.judge not in JUDGES:
        raise unknown_name("judge", options.judge, (GOLD, *JUDGES), where="--judge")
    chosen_rows(graded, options.calibrate_on, options.seed)
    about = calibrate_judge.judge_settings(options)
    return load_judge(options.judge, replace(about, device=options.device, dtype=options.dtype))


def readers(judge: Judge) -> Readers:
    """What a judge can do besides grading; the gold grades know no patterns."""
    return Readers(
        judge,
        writer=judge if isinstance(judge, Writer) else None,
        embed=judge.embed if isinstance(judge, EmbeddingJudge) else None,
        patterns=not isinstance(judge, GoldJudge),
    )


def fitted(bench: Bench, contrast: str, options: argparse.Namespace, judge: Judge) -> list[FittedEnsemble]:
    """The ensemble asked for, and those of random features with the same settings."""
    block = options.block if options.block is not None else loading.site_of(bench.sae).block
    variant = Variant(options.representation, options.selector, options.k, options.ensemble, block, options.pooling)
    n_random = random_ensembles(judge) if options.random_features is None else options.random_features
    random = replace(variant, selector="random")
    others = [fit_ensemble(bench, contrast, random, seed=options.seed + 1 + i) for i in range(n_random)]
    return [fit_ensemble(bench, contrast, variant, seed=options.seed), *others]


def looked_for(
    options: argparse.Namespace, ensemble: FittedEnsemble, bench: Bench, graded: GoldCorpus
) -> tuple[Concept, bool]:
    """The target, by the graders' rule where the gold corpus has grades for it, and whether it has."""
    try:
        name = gold.concept_of(ensemble.concept, ensemble.target)
    except UserError:
        if options.judge == GOLD:
            raise
        return Concept(ensemble.target, bench.stimuli.definition, PATTERN_RULE), False
    return Concept(name, *gold_rule(graded, name)), True


def texts_of(options: argparse.Namespace, graded: GoldCorpus) -> Iterable[str]:
    """The texts to search; of the gold corpus only what the judge has not learned from."""
    if options.corpus != GOLD:
        return read_texts(options.corpus)
    texts = graded.table["text"]
    return (texts[held_out(graded)] if options.judge in LEARNERS else texts).tolist()


class Recorder:
    """Stands for a judge in a dry run: keeps what it is asked, grades nothing and writes long patterns."""

    name = "dry run"

    def __init__(self) -> None:
        self.asked: list[GradeRequest | Completion] = []

    def grade(self, requests: Sequence[GradeRequest]) -> list[Grade]:
        """Unanswered, all of them."""
        self.asked += requests
        return [unanswered("a dry run")] * len(requests)

    def complete(self, requests: Sequence[Completion]) -> list[Answer]:
        """A pattern each, no two alike."""
        self.asked += requests
        return [Answer(f"PATTERN: {len(self.asked)} {'pattern ' * 40}", True, "") for _ in requests]


def asked_of(
    judge: Judge, evidence: Sequence[Evidence], concept: Concept, settings: Settings
) -> list[GradeRequest | Completion]:
    """What a judge would be asked about all ensembles, as their writer too where it can write."""
    recorder = Recorder()
    who = replace(readers(judge), judge=recorder, writer=recorder if isinstance(judge, Writer) else None)
    for texts in evidence:
        interpret(texts, concept, who, settings)
    return recorder.asked


def said_of(judge: Judge, concept: Concept, calibration: Calibration | None) -> str:
    """How far to trust the judge, in one sentence."""
    if calibration is not None:
        return calibration.verdict
    if isinstance(judge, GoldJudge):
        return "The grades are those of the gold corpus, given by language models that followed a written rule."
    return f"The gold corpus has no grades for '{concept.name}': how far to trust {judge.name} on it is not known."


def as_text(
    ensemble: FittedEnsemble,
    found: Discovery,
    first: Interpretation,
    scores: pd.DataFrame,
    concept: Concept,
    judge: str,
    trust: str,
) -> str:
    """What a person reads."""
    graded = first.graded["concept"].table
    top = graded[graded["stratum"] == "top"][["score", "grade", "text"]].head(10)
    parts = [
        f"{ensemble.name} on {found.n_sentences} sentences, judged for '{concept.name}' by {judge}",
        trust,
        *(f"Explanation ({e.kind}): {e.text or 'none, ' + e.reason}" for e in first.explanations),
        "Words that mark the top texts (set to explain from; p family-wise):",
        _plain(first.words.head(10)),
        "Strongest texts of the set to score on, with the judge's grade:",
        _plain(top),
        "Scores with 95 % intervals, the middle 95 % under shuffled set labels, and ensembles of random features:",
        _plain(scores[SHOWN]),
        "Mean grades:",
        _plain(first.means[["about", "set", "n", "n_unanswered", "mean", "low", "high"]]),
        verdict(scores, concept.name),
    ]
    missing = scores[scores["reason"] != ""]
    if len(missing):
        parts.append(f"Without a score:\n{_plain(missing[['about', 'scorer', 'name', 'reason']])}")
    return "\n\n".join(parts)


def write(
    options: argparse.Namespace,
    ensemble: FittedEnsemble,
    found: Discovery,
    first: Interpretation,
    scores: pd.DataFrame,
    concept: Concept,
    judge: str,
    trust: str,
) -> None:
    """Tables as CSV, and JSON with where everything comes from."""
    folder = options.out / ensemble.name
    graded = pd.concat([part.table.assign(about=about) for about, part in first.graded.items()])
    for name, table in {"scores": scores, "means": first.means, "words": first.words, "grades": graded}.items():
        with atomic_path(folder / f"{name}.csv") as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
    about = {
        "ensemble": ensemble.name,
        "model": ensemble.model,
        "sae": ensemble.sae,
        "corpus": options.corpus,
        "n_sentences": found.n_sentences,
        "n_near_duplicates": first.n_near_duplicates,
        "concept": asdict(concept),
        "judge": judge,
        "trust": trust,
        "n_unanswered": {name: part.n_unanswered for name, part in first.graded.items()},
        "seed": options.seed,
        "explanations": [explanation.as_dict() for explanation in first.explanations],
        "verdict": verdict(scores, concept.name),
    }
    write_json(folder / "explanation.json", about)


def _plain(table: pd.DataFrame) -> str:
    with pd.option_context("display.width", None, "display.max_columns", None, "display.max_colwidth", None):
        return table.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="-")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit codes as `neurosae.console` says."""
    return shared.main(parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
