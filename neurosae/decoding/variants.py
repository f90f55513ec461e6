"""Method variants: the grid of representation x selector x k x ensemble x block x pooling, and its default."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from neurosae.decoding.ensembles import ENSEMBLES
from neurosae.decoding.selection import ALL, PCA, SELECTORS
from neurosae.errors import UserError, unknown_name
from neurosae.files import digest
from neurosae.representations import REPRESENTATIONS
from neurosae.responses import POOLINGS

DEFAULT_SELECTORS = (
    "max_activation",
    "target_max",
    "mean_difference",
    "t",
    "auroc",
    "rsa_discriminative",
    "rsa_categorical",
    "rsa_category",
    "random",
)
CONTROL_SELECTORS = ("max_activation", "t", "rsa_discriminative")
CONTROL_K = 8


@dataclass(frozen=True, order=True)
class Family:
    """Variants that differ in k only: they share one selection per training set, so they are computed together."""

    representation: str
    selector: str
    ensemble: str
    block: int
    pooling: str
    ks: tuple[int, ...] = field(compare=False)

    def variants(self) -> Iterator[Variant]:
        """One variant per k; k is 0 where all features are used."""
        for k in self.ks:
            yield Variant(self.representation, self.selector, k, self.ensemble, self.block, self.pooling)


@dataclass(frozen=True, order=True)
class Variant:
    """One cell of the grid."""

    representation: str
    selector: str
    k: int
    ensemble: str
    block: int
    pooling: str

    @property
    def name(self) -> str:
        """Unique file name."""
        k = "all" if self.k == 0 else f"k{self.k:02d}"
        return f"b{self.block:02d}-{self.pooling}-{self.representation}-{self.selector}-{k}-{self.ensemble}"

    def as_dict(self) -> dict[str, Any]:
        """Columns of the tidy tables."""
        return asdict(self)


def selector_seed(seed: int, variant: Variant | Family) -> int:
    """Seed of the selectors that draw: the same for every k, ensemble and training set of a seeded run."""
    return int(digest([seed, variant.representation, variant.selector]), 16) % 2**31


@dataclass(frozen=True)
class Grid:
    """Which variants to compare.

    Attributes
    ----------
    representations, selectors, ensembles, poolings : tuple of str
    ks : tuple of int
    blocks : tuple of int
        Where the neurons are read. Latents exist at the SAE's own block only.
    sae_block : int
    controls : bool
        Add the controls at k = 8: untrained SAE and embeddings with three selectors each, the first principal
        components, all neurons (a ceiling) and the bag of words (the baseline of lexical sets).
    """

    blocks: tuple[int, ...]
    sae_block: int
    representations: tuple[str, ...] = ("raw", "sae")
    selectors: tuple[str, ...] = DEFAULT_SELECTORS
    ks: tuple[int, ...] = (1, 2, 4, 8, 16)
    ensembles: tuple[str, ...] = ("logistic_l2",)
    poolings: tuple[str, ...] = ("mean",)
    controls: bool = True

    def __post_init__(self) -> None:
        for kind, chosen, known in (
            ("representation", self.representations, REPRESENTATIONS),
            ("selector", self.selectors, {**SELECTORS, ALL: None, PCA: None}),
            ("ensemble", self.ensembles, ENSEMBLES),
            ("pooling", self.poolings, POOLINGS),
        ):
            for name in chosen:
                if name not in known:
                    raise unknown_name(kind, name, known, where=kind)
        if any(k < 1 for k in self.ks):
            raise UserError(f"k is {min(self.ks)}", where="k", allowed="integers from 1")

    def families(self) -> list[Family]:
        """All families, without repetition, in a fixed order."""
        ks: dict[Family, set[int]] = {}
        for pooling, block, ensemble in itertools.product(self.poolings, self.blocks, self.ensembles):
            for representation, selector in itertools.product(self.representations, self.selectors):
                family = self._family(representation, selector, ensemble, block, pooling, self.ks)
                ks.setdefault(family, set()).update(family.ks)
            for family in self._controls(ensemble, block, pooling) if self.controls else ():
                ks.setdefault(family, set()).update(family.ks)
        return [replace(family, ks=tuple(sorted(ks[family]))) for family in sorted(ks)]

    def _family(
        self, representation: str, selector: str, ensemble: str, block: int, pooling: str, ks: Sequence[int]
    ) -> Family:
        about = REPRESENTATIONS[representation]
        at, how = about.block(block, self.sae_block), pooling if about.has_site else "mean"
        return Family(representation, selector, ensemble, at, how, (0,) if selector == ALL else tuple(ks))

    def _controls(self, ensemble: str, block: int, pooling: str) -> Iterator[Family]:
        for representation in ("untrained_sae", "embeddings"):
            if representation == "untrained_sae" and "sae" not in self.representations:
                continue
            for selector in CONTROL_SELECTORS:
                yield self._family(representation, selector, ensemble, block, pooling, [CONTROL_K])
        yield self._family("raw", PCA, ensemble, block, pooling, [CONTROL_K])
        yield self._family("raw", ALL, ensemble, block, pooling, [CONTROL_K])
        yield self._family("bag_of_words", ALL, ensemble, block, pooling, [CONTROL_K])
