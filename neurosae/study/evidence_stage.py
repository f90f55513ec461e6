"""The stage `evidence`: what a report shows beside the scores, kept in the run's folder.

Every piece is made once: `evidence/made.json` remembers with which settings, so that an interrupted run goes on and a
finished one only reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from neurosae.console import finite
from neurosae.decoding.fitted import encoder_of, fit_ensemble
from neurosae.decoding.variants import Variant
from neurosae.discovery.gold import weighted_kappa
from neurosae.errors import UserError
from neurosae.evidence import about, blocks, cards, decoder, geometry, repeatability, tables, writing
from neurosae.evidence.cards import Choice, Heard
from neurosae.files import digest, write_json
from neurosae.responses import Pooling
from neurosae.runs import best_selecting
from neurosae.steering.doses import observe
from neurosae.steering.interventions import steer_ensemble
from neurosae.steering.texts import gold_probe
from neurosae.stimuli import LabelledContrast
from neurosae.study.contrast_run import Tables
from neurosae.study.steer_stage import Halves, best_effect
from neurosae.study.work import StageResult, Work

FORMAT = 1  # of the files; raised when their content changes, so that old ones are made again
MOST_CARDS = 24
FROM_CORPUS, PER_SIDE = 6, 4
"""Texts of a card: from the graded sentences, and stimuli of either side."""
TOP_TESTS, STEERED_TOKENS = 50, 24
_NO_CORPUS = "neither 'discover' nor 'explain' ran, so that the graded sentences were not read"

Array = NDArray[np.float64]
Files = dict[str, pd.DataFrame | dict[str, Any]]


@dataclass
class Ingredients:
    """What all pieces of evidence are made from."""

    work: Work
    tables: Tables
    stages: tuple[str, ...]
    results: dict[str, StageResult]

    @property
    def sides(self) -> LabelledContrast:
        """The two sides of the contrast."""
        return self.work.run.sides

    @cached_property
    def seen(self) -> dict[str, Variant]:
        """One representative of every representation that selects features: where and how it is heard."""
        return {variant.representation: variant for variant in reversed(self.work.representatives())}

    @property
    def pooling(self) -> Pooling:
        """That of the representatives."""
        return cast(Pooling, self.work.run.settings.grid.poolings[0])

    @cached_property
    def best(self) -> dict[str, Any] | None:
        """Cell of the best variant that selects features."""
        return best_selecting(self.tables.cells)


class Piece(NamedTuple):
    """One piece of evidence: the files it makes, how, and what they depend on beside the run's configuration."""

    files: tuple[str, ...]
    """Relative to the run's folder."""
    make: Callable[[Ingredients], Files]
    settings: Callable[[Ingredients], dict[str, Any]] = lambda _: {}


def keep(work: Work, made: Tables, stages: tuple[str, ...], results: dict[str, StageResult]) -> None:
    """Make every piece of evidence that is not there yet with the same settings.

    Tables go to ``tables/`` (CSV and Parquet), everything else to ``evidence/`` (JSON, never NaN). What cannot be made
    of these stimuli is left out, with the reason in ``evidence/missing.json`` (by file, without its ending), and tried
    again by the next run. What other settings had made goes first, so that nothing out of date is taken for new.
    """
    ingredients, place = Ingredients(work, made, stages, results), work.folder.path / "evidence"
    record: dict[str, Any] = _read(place / "made.json")
    missing: dict[str, str] = {}
    for name, piece in PIECES.items():
        settings = digest({"format": FORMAT, **piece.settings(ingredients)})
        if record.get(name) == settings and all((work.folder.path / file).is_file() for file in piece.files):
            continue
        if record.pop(name, None):
            write_json(place / "made.json", record)
        for file in piece.files:
            (work.folder.path / file).unlink(missing_ok=True)
        try:
            files = piece.make(ingredients)
        except UserError as error:
            missing |= {file.rpartition(".")[0]: error.what for file in piece.files}
            continue
        for file, content in files.items():
            if isinstance(content, pd.DataFrame):
                work.folder.write_table(file, content)
            else:
                write_json(place / f"{file}.json", {"format": FORMAT, **finite(content)})
        record[name] = settings
        write_json(place / "made.json", record)
    write_json(place / "missing.json", {"format": FORMAT, "reasons": missing})


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _stimuli(it: Ingredients) -> Files:
    responses = it.work.bench.neurons(it.work.run.sites()[0])
    return {"stimuli": tables.stimulus_table(it.sides, responses, it.best["decision"] if it.best else None)}


def _confounds(it: Ingredients) -> Files:
    language_model = it.work.bench.language_model
    return {"confounds": tables.confound_table(it.sides, language_model.tokenizer, tables.surprisal(language_model))}


def _features(it: Ingredients) -> Files:
    """Cards of the features that the representatives chose when they saw all stimuli."""
    chosen = cards.choices(it.work.folder.cells(it.work.representatives()))
    rows = [row for name in it.seen for row in _described(it, [c for c in chosen if c.representation == name])]
    rows.sort(key=lambda row: (-row[0].votes, -abs(row[1]["d"])))
    kept = rows[:MOST_CARDS]
    parts = {name: _Part(it, name) for name in dict.fromkeys(choice.representation for choice, _ in kept)}
    return {
        "features": {
            "cards": [parts[choice.representation].card(choice, effect) for choice, effect in kept],
            "n_chosen": len(rows),
            "k": it.work.k,
            "pooling": it.pooling,
            "corpus": it.work.graded_concept()[0],
            "corpus_reason": "" if _has_corpus(it) else _NO_CORPUS,
            "logits_note": decoder.LOGIT_NOTE,
            "reason": "" if kept else "no variant of this run selects features of a known site",
        }
    }


def _described(it: Ingredients, chosen: list[Choice]) -> list[tuple[Choice, dict[str, Any]]]:
    if not chosen:
        return []
    pooled = it.work.bench.pooled(chosen[0].representation, chosen[0].block, it.pooling)
    X_SK = pooled.dense()[it.sides.rows][:, [choice.feature for choice in chosen]]
    return list(zip(chosen, cards.effects(X_SK, it.sides), strict=True))


def _has_corpus(it: Ingredients) -> bool:
    return bool({"discover", "explain"} & set(it.stages)) and it.pooling != "target"


class _Part:
    """Cards of the features of one representation."""

    def __init__(self, it: Ingredients, name: str) -> None:
        self.it, self.latents = it, name == "sae"
        self.variant = it.seen[name]
        bench = it.work.bench
        responses = bench.responses(name, self.variant.block)
        self.stimuli = Heard.of(responses, it.work.run.stimuli.table["text"].tolist(), it.pooling)
        self.corpus: Heard | None = None
        if _has_corpus(it):
            sentences = it.work.sentences
            of_corpus = sentences.responses(it.work.fit(self.variant), bench)
            self.corpus = Heard.of(of_corpus, sentences.texts, it.pooling)

    def card(self, choice: Choice, effect: dict[str, Any]) -> dict[str, Any]:
        """Everything about one feature."""
        it, feature = self.it, choice.feature
        value_S = self.stimuli.column(feature)[it.sides.rows]
        baseline = 0.0 if self.latents else self.stimuli.mean_token(feature)
        sae = it.work.bench.sae if self.latents else None
        language_model = it.work.bench.language_model
        direction_1D = (
            decoder.neurons([feature], language_model.d_model) if sae is None else decoder.decoder_rows(sae, [feature])
        )
        return {
            "representation": choice.representation,
            "block": choice.block,
            "feature": feature,
            "direction": choice.direction,
            "chosen_by": choice.chosen_by,
            "share_of_folds": max(choice.share_of_folds.values()),
            "share_by_selector": choice.share_of_folds,
            **effect,
            "baseline": baseline,
            "histogram": cards.histogram(value_S, it.sides, sparse=self.latents),
            "texts": self._texts(choice, baseline),
            "neighbours": [] if sae is None else decoder.neighbours(sae, feature),
            "neighbours_reason": "" if sae is not None else "neurons have no decoder",
            "logits": decoder.logit_effects(language_model, direction_1D)[0],
        }

    def _texts(self, choice: Choice, baseline: float) -> list[dict[str, Any]]:
        """The strongest sentences of the corpus, then the strongest stimuli of the target and of the foil.

        Latents are strongest where they are largest; neurons have no zero, so theirs are strongest towards the target.
        """
        it, found = self.it, []
        how: dict[str, Any] = {"sign": 1 if self.latents else (choice.direction or 1), "baseline": baseline}
        if self.corpus is not None:
            concept, _ = it.work.graded_concept()
            grades_S = it.work.corpus.grades(concept) if concept else None
            for text in self.corpus.strongest(choice.feature, np.arange(len(self.corpus.texts)), FROM_CORPUS, **how):
                row = text.pop("row")
                grade = None if grades_S is None else int(grades_S[row])
                found.append({"where": "corpus", "side": None, "grade": grade, **text})
        for name, sign in zip(it.sides.names, (1, -1), strict=True):
            among = it.sides.rows[it.sides.labels_S == sign]
            for text in self.stimuli.strongest(choice.feature, among, PER_SIDE, **how):
                text.pop("row")
                found.append({"where": "stimuli", "side": name, "grade": None, **text})
        return found


def _about(it: Ingredients) -> Files:
    run, source = it.work.run, it.work.run.settings.source
    uses_sae = any("sae" in variant.representation for variant in run.variants)
    width = int(it.work.bench.sae.cfg.d_sae) if uses_sae else 0
    return {
        "about": {
            **about.question(it.sides),
            "model": source.identity(),
            "sae": about.sae_facts(source.sae, source.model, width) if uses_sae else None,
            "folds": run.settings.n_splits,
            "repeats": run.settings.n_repeats,
            "permutations": run.settings.n_permutations,
            "seed": run.settings.seed,
            "k": it.work.k,
            "stages": list(it.stages),
            "best": {name: it.best[name] for name in _BEST} if it.best else None,
            "judge": _judge(it),
            "scope": it.work.scope,
            "references": about.references(it.stages, source.model, uses_sae),
            "versions": about.versions(),
        }
    }


_BEST = ("representation", "selector", "k", "ensemble", "block", "pooling")


def _judge(it: Ingredients) -> dict[str, Any]:
    """Who graded, and how far to trust it."""
    judge, (concept, why) = it.work.settings.judge, it.work.graded_concept()
    if "explain" not in it.stages:
        return {"name": None, "verdict": None, "kappa": None, "reason": "the stage 'explain' did not run"}
    if judge is not None:
        reason = "the runner does not calibrate judges; experiments.calibrate_judge does"
        return {"name": judge.name, "verdict": None, "kappa": None, "reason": reason}
    found = {"name": "the grades of the gold corpus", "verdict": None, "kappa": None, "reason": why}
    if not concept:
        return found
    both = it.work.corpus.graders[it.work.corpus.graders["concept"] == concept]
    first_S, second_S = (both[name].to_numpy(dtype=np.float64) for name in ("first", "second"))
    kappa = float(weighted_kappa(first_S, second_S, np.ones((1, len(both))))[0])
    verdict = (
        f"written and graded by language models, not people: two blind graders agree at a quadratic kappa of "
        f"{kappa:.2f} on '{concept}' ({len(both)} sentences), a third adjudicated"
    )
    return found | {"kappa": kappa, "verdict": verdict}


def _map(it: Ingredients) -> Files:
    run, language_model = it.work.run, it.work.bench.language_model
    bench = blocks.listen_everywhere(run.stimuli, run.settings.source, language_model)
    found = blocks.map_blocks(
        bench, it.sides, list(range(language_model.n_blocks)), n_top=TOP_TESTS, seed=run.settings.seed
    )
    return {"map_blocks": found.blocks, "map_top": found.top}


def _pooled(it: Ingredients) -> dict[str, Array]:
    """Responses [S, F] to the stimuli of the contrast, by representation."""
    bench = it.work.bench
    return {name: bench.pooled(name, v.block, it.pooling).dense()[it.sides.rows] for name, v in it.seen.items()}


def _reliability(it: Ingredients) -> Files:
    X_SF, seed = _pooled(it), it.work.run.settings.seed
    cells = it.work.folder.cells(it.work.representatives())
    selectors = repeatability.selectors_table(cells, X_SF, it.sides)
    maps = repeatability.maps_table(X_SF, {name: v.block for name, v in it.seen.items()}, it.sides, seed=seed)
    return {"reliability": pd.DataFrame([*selectors.to_dict("records"), *maps.to_dict("records")])}


def _rsa(it: Ingredients) -> Files:
    chosen, seed = geometry.order(it.sides, seed=it.work.run.settings.seed), it.work.run.settings.seed
    found = {name: geometry.geometry(X_SF, it.sides, chosen, seed=seed) for name, X_SF in _pooled(it).items()}
    about_rdms = {"block": {name: v.block for name, v in it.seen.items()}, "n_stimuli": len(chosen)}
    return {"rsa": {"representations": found, **about_rdms, "n_left_out": len(it.sides.rows) - len(chosen)}}


def _steering(it: Ingredients) -> Files:
    """Texts of the variant with the largest causal effect, fitted to one half, on pairs of the other."""
    best = best_effect(it.results["steer"]) if "steer" in it.results else None
    if best is None:
        ran = "steer" in it.results
        reason = "no variant could be steered with" if ran else "the stage 'steer' did not run"
        return {"steering": {"texts": [], "prompts": [], "variant": None, "reason": reason}}
    work, (variant, effect) = it.work, best
    halves, seed = Halves(work), work.run.settings.seed
    train = halves.rows[0]
    ensemble = fit_ensemble(work.bench, work.run.contrast, variant, rows=train, seed=seed)
    observed = observe(work.bench.responses(variant.representation, variant.block), ensemble.features_K, train)
    sae, dose = encoder_of(work.bench, ensemble), max(work.settings.doses)
    changes = {
        name: steer_ensemble(ensemble.site, observed, ensemble.direction_K, sign * dose, sae=sae)
        for name, sign in ((writing.TARGET, 1), (writing.FOIL, -1))
    }
    language_model, started = work.bench.language_model, writing.prompts(halves.pairs)
    texts = writing.written(language_model, started, changes, n_tokens=STEERED_TOKENS, seed=seed)
    concept, why = work.graded_concept()
    probe = None
    if concept:
        heard = work.sentences.neurons(ensemble.site) if _has_corpus(it) else None
        probe = gold_probe(language_model, concept, ensemble.site, seed=seed, corpus=work.corpus, heard=heard)
        texts = writing.scored(texts, started, probe)
    strongest = effect.table.iloc[-1]
    return {
        "steering": {
            "variant": variant.as_dict(),
            "features": ensemble.features_K.tolist(),
            "dose": dose,
            "n_tokens": STEERED_TOKENS,
            "shift": {name: strongest[name] for name in ("shift", "low", "high", "p", "norm", "n_pairs")},
            "prompts": [{name: prompt[name] for name in ("text", "target", "foil")} for prompt in started],
            "texts": texts,
            "probe": {"concept": probe.concept, "auroc": probe.auroc, "n": probe.n_sentences} if probe else None,
            "probe_reason": why,
            "reason": "" if started else "no held-out pair begins alike",
        }
    }


def _stages(it: Ingredients) -> dict[str, Any]:
    judge = it.work.settings.judge
    return {"stages": list(it.stages), "judge": judge.name if judge else "gold"}


def _steered_with(it: Ingredients) -> dict[str, Any]:
    return {"ran": "steer" in it.results, "doses": list(it.work.settings.doses), "tokens": STEERED_TOKENS}


def _tables(*names: str) -> tuple[str, ...]:
    return tuple(f"tables/{name}.{kind}" for name in names for kind in ("csv", "parquet"))


PIECES: dict[str, Piece] = {
    "about": Piece(("evidence/about.json",), _about, _stages),
    "stimuli": Piece(_tables("stimuli"), _stimuli),
    "confounds": Piece(_tables("confounds"), _confounds),
    "map": Piece(_tables("map_blocks", "map_top"), _map, lambda _: {"top": TOP_TESTS}),
    "reliability": Piece(_tables("reliability"), _reliability),
    "rsa": Piece(("evidence/rsa.json",), _rsa),
    "features": Piece(
        ("evidence/features.json",), _features, lambda it: {"corpus": _has_corpus(it), "cards": MOST_CARDS}
    ),
    "steering": Piece(("evidence/steering.json",), _steering, _steered_with),
}
