"""The geometry of a representation over the stimuli of a contrast, and which models of it fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neurosae.errors import UserError
from neurosae.rdms import compare_models, pairwise_distances
from neurosae.rsa.models import ModelRDM, label_model, length_model, overlap_model
from neurosae.stimuli import LabelledContrast

Array = NDArray[np.float64]
MOST_STIMULI = 240
_DIGITS = 4
_NO_CEILING = "one RDM of single stimuli has no noise ceiling: several RDMs of one thing would be needed"


def order(sides: LabelledContrast, most: int = MOST_STIMULI, seed: int = 0) -> NDArray[np.intp]:
    """Stimuli of the contrast by side (target first), then domain, then file; of very many, whole items at random.

    Parameters
    ----------
    sides : LabelledContrast
    most : int, default 240
        Stimuli, or a little more, as items stay whole.
    seed : int, default 0
        Of the draw.

    Returns
    -------
    int array
        Positions in the arrays [S] of `sides`.
    """
    domain_S = sides.table["domain"].fillna("").astype(str).to_numpy()
    found: NDArray[np.intp] = np.lexsort((np.arange(len(domain_S)), domain_S, -sides.labels_S))
    if len(found) <= most:
        return found
    groups = np.unique(sides.groups_S)
    drawn = np.random.default_rng(seed).permutation(groups)
    sizes = np.array([(sides.groups_S == group).sum() for group in drawn])
    kept = drawn[: int(np.searchsorted(np.cumsum(sizes), most)) + 1]
    return found[np.isin(sides.groups_S[found], kept)]


def models(sides: LabelledContrast, chosen: ArrayLike) -> tuple[list[ModelRDM], dict[str, str]]:
    """Model RDMs that a contrast is compared with, and why some are missing.

    *category*: the same side or not; *domain*: the same domain or not; *length*: difference in words; *word overlap*:
    1 - Jaccard index of the words.

    Parameters
    ----------
    sides : LabelledContrast
    chosen : int array
        Positions, as of `order`.
    """
    chosen = np.asarray(chosen)
    table = sides.table.iloc[chosen]
    texts, domain = table["text"].tolist(), table["domain"]
    makers = {
        "category": lambda: label_model(sides.labels_S[chosen], "category", "category"),
        "domain": lambda: _domain_model(domain.astype(str).to_numpy(), bool(domain.isna().any())),
        "length": lambda: length_model(texts),
        "word overlap": lambda: overlap_model(texts),
    }
    found, reasons = [], {}
    for name, make in makers.items():
        try:
            found.append(ModelRDM(name, make().table_SS))
        except UserError as error:
            reasons[name] = error.what
    return found, reasons


def _domain_model(domain_S: NDArray[Any], missing: bool) -> ModelRDM:
    if missing or len(np.unique(domain_S)) < 2:
        raise UserError("the stimuli have no domains" if missing else "all stimuli are of one domain")
    return ModelRDM("domain", (domain_S[:, None] != domain_S).astype(np.float64))


def geometry(
    X_SF: Array,
    sides: LabelledContrast,
    chosen: ArrayLike,
    *,
    n_bootstrap: int = 1000,
    n_permutations: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The RDM of a representation, and how well the models fit it.

    Parameters
    ----------
    X_SF : array [S, F]
        Pooled responses to the stimuli of the contrast.
    sides : LabelledContrast
    chosen : int array
        Positions, as of `order`.
    n_bootstrap, n_permutations, seed : int, default 1000, 1000 and 0
        As in `neurosae.rdms.compare_models`.

    Returns
    -------
    dict
        `distance`, `comparator`, `ids` (in the order of the RDM), `sides`, `domains`, `rdm` (upper triangle row by row,
        correlation distances, four digits), `undefined` (ids left out, their pattern being constant), `models`: one
        dict per model (`model`, `score`, `low`, `high`, `p`, `p_holm` (None where `note` says that the design cannot
        test it), `note`, `reason`), `ceiling` (None) and `ceiling_reason`, `n_items`, `smallest_p`.
    """
    chosen = np.asarray(chosen)
    distance_SS, defined_S = pairwise_distances(X_SF[chosen])
    distance_SS, kept = distance_SS[np.ix_(defined_S, defined_S)], chosen[defined_S]
    table, upper = sides.table.iloc[kept], np.triu_indices(len(kept), 1)
    about = {
        "distance": "correlation",
        "ids": table["id"].tolist(),
        "sides": sides.side_S[kept].tolist(),
        "domains": table["domain"].fillna("").astype(str).tolist(),
        "rdm": distance_SS[upper].round(_DIGITS).tolist(),
        "undefined": sides.table["id"].iloc[chosen[~defined_S]].tolist(),
        "ceiling": None,
        "ceiling_reason": _NO_CEILING,
    }
    hypotheses, reasons = models(sides, kept)
    missing = [{"model": name, "reason": reason} for name, reason in reasons.items()]
    try:
        found = compare_models(
            distance_SS,
            hypotheses,
            groups=sides.groups_S[kept],
            labels=sides.labels_S[kept],
            blocks=sides.blocks_S[kept],
            design=sides.design,
            n_bootstrap=n_bootstrap,
            n_permutations=n_permutations,
            seed=seed,
        )
    except UserError as error:
        unknown = [{"model": model.name, "reason": error.what} for model in hypotheses]
        return about | {"models": unknown + missing, "comparator": "spearman", "n_items": None, "smallest_p": None}
    fitted = [_testable(row) | {"reason": ""} for row in found.table.to_dict("records")]
    return about | {
        "models": fitted + missing,
        "comparator": found.comparator,
        "n_items": found.n_groups,
        "smallest_p": found.smallest_p,
    }


def _testable(row: dict[Any, Any]) -> dict[Any, Any]:
    """A p of 1 because nothing could be rearranged is no finding: pairs lie within domains, and so do their swaps."""
    return row | {"p": None, "p_holm": None} if row["note"] else row
