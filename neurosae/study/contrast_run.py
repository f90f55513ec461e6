"""One contrast of one stimulus set through the whole grid: responses, cells in parallel, tables."""

from __future__ import annotations

import dataclasses
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from neurosae.decoding import Design, decode
from neurosae.decoding.selection import PROFILE_SELECTORS
from neurosae.decoding.variants import ALL, PCA, Family, Grid, Variant, selector_seed
from neurosae.errors import UserError
from neurosae.files import write_json
from neurosae.inference.design import design_of
from neurosae.progress import progress_bar
from neurosae.representations import REPRESENTATIONS, Bench, Source
from neurosae.runs import (
    RunFolder,
    domains_table,
    features_table,
    folds_table,
    scores_table,
    variants_table,
    write_cell,
)
from neurosae.runs.comparison import claims_table, families_table
from neurosae.sites import Site
from neurosae.stimuli import LabelledContrast, StimulusSet

FORMAT = 1  # of the cells; raised when their content changes, so that old runs are not continued
_LIBRARIES = ("torch", "transformers", "transformer-lens", "sae-lens", "scikit-learn", "numpy", "scipy", "pandas")
# Rough rates of a 2-core machine, for --dry-run only.
_SECONDS_PER_TOKEN, _SECONDS_PER_FAMILY, _SECONDS_TO_START = 1 / 900, 2.5, 30.0


Input = tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]


@dataclass(frozen=True)
class Settings:
    """What all contrasts of a command share; `jobs` and `progress` change no result."""

    grid: Grid
    source: Source
    n_splits: int = 5
    n_repeats: int = 10
    n_permutations: int = 100
    seed: int = 0
    jobs: int = 2
    progress: bool = True


@dataclass(frozen=True)
class Tables:
    """What a finished run says.

    Attributes
    ----------
    variants : DataFrame
        One row per variant, best first.
    folds : DataFrame
        One row per variant, repeat and fold.
    claims : DataFrame
        The claims about method families.
    cells : list of dict
        Everything, as stored.
    """

    variants: pd.DataFrame
    folds: pd.DataFrame
    claims: pd.DataFrame
    cells: list[dict[str, Any]]


class ContrastRun:
    """A named contrast of a stimulus set, compared over the grid.

    Parameters
    ----------
    stimuli : StimulusSet
    contrast : str
    settings : Settings
    """

    def __init__(self, stimuli: StimulusSet, contrast: str, settings: Settings) -> None:
        self.stimuli, self.contrast, self.settings = stimuli, contrast, settings
        self.sides = LabelledContrast.of(stimuli, contrast)
        families = settings.grid.families()
        self.left_out = {family: reason for family in families if (reason := self._cannot_run(family))}
        self.families = [family for family in families if family not in self.left_out]
        if not self.families:
            raise UserError(f"No variant fits this set: {next(iter(self.left_out.values()))}", where="grid")

    def _cannot_run(self, family: Family) -> str:
        """Why a control does not fit this set: what the user did not ask for must not refuse the run."""
        if family.selector == PCA and max(family.ks) > len(self.sides.rows) // 3:
            return "more components than a third of the stimuli"
        if family.selector == ALL and family.ensemble == "lda":
            return "LDA on all features"
        return ""

    @property
    def variants(self) -> list[Variant]:
        """All cells of the grid."""
        return [variant for family in self.families for variant in family.variants()]

    def sites(self) -> list[Site]:
        """Where to listen: all in one forward pass."""
        heard = [(REPRESENTATIONS[family.representation], family.block) for family in self.families]
        return sorted({about.site(block) for about, block in heard if about.has_site})

    @property
    def uses_sae(self) -> bool:
        """Whether any representation of the grid needs the SAE."""
        return any(REPRESENTATIONS[family.representation].has_latents for family in self.families)

    def configuration(self) -> dict[str, Any]:
        """Everything the results depend on, and nothing else."""
        settings, source = self.settings, self.settings.source
        return {
            "concept": self.stimuli.name,
            "contrast": self.contrast,
            "stimuli_sha256": self.stimuli.sha256,
            "source": source.identity(),
            "sae": {"name": source.sae, "weights": source.sae_identity()} if self.uses_sae else None,
            "grid": dataclasses.asdict(settings.grid),
            "folds": settings.n_splits,
            "repeats": settings.n_repeats,
            "permutations": settings.n_permutations,
            "seed": settings.seed,
            "format": FORMAT,
        }

    def plan(self) -> str:
        """The grid, the forward passes and the expected minutes, in words."""
        words = sum(len(text.split()) for text in self.stimuli.table["text"])
        minutes = (
            _SECONDS_TO_START
            + 1.4 * words * _SECONDS_PER_TOKEN
            + len(self.families) * _SECONDS_PER_FAMILY * self._label_vectors() / 1100 / min(2, self._workers())
        ) / 60
        lines = [
            f"{self.stimuli.name}, contrast {self.contrast}: {len(self.sides.rows)} stimuli, "
            f"{len(self.variants)} variants, "
            f"{self.settings.n_repeats} x {self.settings.n_splits} folds, {self.settings.n_permutations} permutations",
            f"  forward passes: each stimulus once, stopping after block {max(s.block for s in self.sites())}"
            if self.sites()
            else "  forward passes: none",
            f"  expected: {minutes:.1f} minutes on 2 cores with the model in the cache",
        ]
        return "\n".join([*lines, *(f"  {variant.name}" for variant in self.variants)])

    def _label_vectors(self) -> int:
        return self.settings.n_splits * (self.settings.n_repeats + self.settings.n_permutations) * 2

    def _workers(self) -> int:
        return max(1, joblib.effective_n_jobs(self.settings.jobs))

    def design(self) -> Design:
        """Folds and permutations, the same for every variant."""
        return design_of(
            self.sides,
            n_splits=self.settings.n_splits,
            n_repeats=self.settings.n_repeats,
            n_permutations=self.settings.n_permutations,
            seed=self.settings.seed,
        )

    def compute(self, folder: RunFolder) -> Tables:
        """Compute what is missing, then make the tables from the files."""
        started = time.time()
        design = self.design()
        pending = [f for f in self.families if not all(folder.is_finished(v) for v in f.variants())]
        timings: dict[str, float] = {}
        if pending:
            bench = Bench(self.stimuli, self.settings.source, progress=self.settings.progress)
            bench.listen(self.sites())
            inputs = {key: self._input(f, bench) for key, f in {self._key(f): f for f in pending}.items()}
            folder.create()
            timings["responses_s"] = round(time.time() - started, 1)
            self._run_cells(pending, inputs, design, folder)
            timings["cells_s"] = round(time.time() - started - timings["responses_s"], 1)
        cells = folder.cells(self.variants)
        folds = folds_table(cells)
        tables = Tables(variants_table(cells), folds, claims_table(folds, self.settings.n_splits), cells)
        folder.write_table("scores", scores_table(folds))
        folder.write_table("variants", tables.variants)
        folder.write_table("families", families_table(folds, self.settings.n_splits))
        folder.write_table("features", features_table(cells))
        folder.write_table("domains", domains_table(cells))
        write_json(folder.path / "manifest.json", self._manifest(timings, started) | _earlier(folder.manifest()))
        return tables

    def _run_cells(
        self, families: list[Family], inputs: dict[tuple[Any, ...], Input], design: Design, folder: RunFolder
    ) -> None:
        """Every family is one job; families with the same representation share one matrix."""
        missing = {f: [variant for variant in f.variants() if not folder.is_finished(variant)] for f in families}
        context = {"concept": self.stimuli.name, "contrast": self.contrast}
        jobs = (
            joblib.delayed(compute_family)(
                *inputs[self._key(family)],
                design=design,
                variants=variants,
                paths=[folder.cell(variant) for variant in variants],
                context=context,
                seed=self.settings.seed,
            )
            for family, variants in missing.items()
        )
        done = len(self.variants) - sum(map(len, missing.values()))
        with progress_bar(
            total=len(self.variants), initial=done, desc="variants", unit="variants", shown=self.settings.progress
        ) as bar:
            for finished in joblib.Parallel(n_jobs=self.settings.jobs, return_as="generator_unordered")(jobs):
                bar.update(finished)

    @staticmethod
    def _key(family: Family) -> tuple[Any, ...]:
        return family.representation, family.block, family.pooling, family.selector in PROFILE_SELECTORS

    def _input(self, family: Family, bench: Bench) -> Input:
        """Stimuli x features of the contrast's stimuli, and their profiles where the selector needs them."""
        X_SF = bench.matrix(self.sides, family.representation, family.block, family.pooling)
        self._check(family, X_SF.shape[1])
        profiles = None
        if family.selector in PROFILE_SELECTORS:
            profiles = bench.profiles_of(self.sides, family.representation, family.block)
        return X_SF, profiles

    def _check(self, family: Family, n_features: int) -> None:
        largest = max(k for f in self.families if self._key(f) == self._key(family) for k in f.ks)
        if largest > n_features:
            raise UserError(
                f"k is {largest}, but '{family.representation}' has {n_features} features",
                where="k",
                allowed=f"1 to {n_features}",
            )

    def _manifest(self, timings: dict[str, float], started: float) -> dict[str, Any]:
        return {
            "configuration": self.configuration(),
            "versions": {"neurosae": version("neurosae"), "python": platform.python_version()}
            | {name: version(name) for name in _LIBRARIES},
            "hardware": {"machine": platform.machine(), "threads": torch.get_num_threads()},
            "jobs": self.settings.jobs,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "timings": timings | {"total_s": round(time.time() - started, 1)},
        }


def _earlier(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the sessions before this one took, so that a continued run still shows its whole cost."""
    if not manifest:
        return {}
    last = {name: manifest[name] for name in ("finished", "timings", "stage_timings") if name in manifest}
    return {"earlier": [*manifest.get("earlier", []), last]}


def compute_family(
    X_SF: np.ndarray,
    profiles: tuple[np.ndarray, np.ndarray] | None,
    *,
    design: Design,
    variants: list[Variant],
    paths: list[Path],
    context: dict[str, Any],
    seed: int,
) -> int:
    """Decode all pending k of one family and write one file per variant; returns how many.

    One thread per job, whatever the number of jobs: sums are made in the same order and results are bitwise equal.
    """
    first = variants[0]
    with threadpool_limits(limits=1):
        results = decode(
            X_SF,
            design,
            first.selector,
            [variant.k for variant in variants],
            first.ensemble,
            profiles=profiles,
            n_permutations=len(design.arrangements_BS),
            seed=selector_seed(seed, first),
        )
    for variant, result, path in zip(variants, results, paths, strict=True):
        write_cell(path, variant, result, context)
    return len(variants)
