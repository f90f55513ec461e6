"""Representational dissimilarity matrices of whole representations, as rsatoolbox objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from neurosae.errors import UserError, unknown_name
from neurosae.rdms.patterns import condition_codes, descriptors, mean_patterns, read_patterns, stimulus_table
from neurosae.responses import Alignment, Pooling, Responses
from neurosae.rsa.models import ModelRDM
from neurosae.rsa.results import Table, as_table, dense_blocks
from neurosae.rsa.targets import check_tables

DISTANCES = {
    "squared_euclidean": "squared Euclidean distance per feature",
    "correlation": "correlation distance (1 - r)",
    "cosine": "cosine distance (1 - cos)",
}
"""Names of the distances, and what the axis of a figure calls them."""
NOTHING_LEFT = 1e-24  # below this share of its squared length a pattern is constant but for rounding
UNDEFINED = ("refuse", "mask")


def pairwise_distances(
    X_SF: Any, distance: str = "correlation", *, block_size: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the distance of every two patterns.

    Parameters
    ----------
    X_SF : array or scipy sparse array [S, F]
    distance : {"correlation", "cosine", "squared_euclidean"}
        1 - Pearson r over features; 1 - cosine; mean over features of the squared difference (as in rsatoolbox, so that
        representations of different width share a scale).
    block_size : int, default 4096
        Features held in float64 at a time; memory grows with S x (block_size + S).

    Returns
    -------
    D_SS : float64 array [S, S]
        Zero diagonal; NaN in the rows and columns of stimuli that are not defined.
    defined_S : bool array [S]
        False where a pattern has no correlation (it is constant over features) or no cosine (it is zero).

    Raises
    ------
    UserError
        Values that are not finite, unknown distance, a single feature under correlation.

    Examples
    --------
    >>> D_SS, defined_S = pairwise_distances(np.array([[1.0, 2, 3], [3, 2, 1], [5, 5, 5]]))
    >>> D_SS.round(2).tolist(), defined_S.tolist()
    ([[0.0, 2.0, nan], [2.0, 0.0, nan], [nan, nan, 0.0]], [True, True, False])
    """
    if distance not in DISTANCES:
        raise unknown_name("distance", distance, DISTANCES)
    X_SF = as_table(X_SF)
    n_stimuli, n_features = X_SF.shape
    if distance == "correlation" and n_features < 2:
        raise UserError("patterns of one feature have no correlation", allowed="two features or more")
    level_S = np.asarray(X_SF.sum(axis=1, dtype=np.float64)).ravel() / n_features
    gram_SS, square_S = np.zeros((n_stimuli, n_stimuli)), np.zeros(n_stimuli)
    for _, block_Sf in dense_blocks(X_SF, block_size):
        square_S += (block_Sf**2).sum(axis=1)
        if distance == "correlation":
            block_Sf = block_Sf - level_S[:, None]
        elif distance == "squared_euclidean":
            block_Sf = block_Sf - block_Sf.mean(axis=0)
        gram_SS += block_Sf @ block_Sf.T
    length_S = np.diagonal(gram_SS).copy()
    if distance == "squared_euclidean":
        defined_S = np.ones(n_stimuli, dtype=bool)
        D_SS = np.maximum(length_S[:, None] + length_S - 2 * gram_SS, 0) / n_features
    else:
        defined_S = length_S > NOTHING_LEFT * square_S
        norm_S = np.sqrt(np.where(defined_S, length_S, np.nan))
        D_SS = 1 - np.clip(gram_SS / norm_S[:, None] / norm_S, -1, 1)
    D_SS = (D_SS + D_SS.T) / 2
    np.fill_diagonal(D_SS, 0)
    return D_SS, defined_S


def make_rdms(
    sources: Any,
    *,
    distance: str = "correlation",
    stimuli: pd.DataFrame | None = None,
    average: Any = None,
    pooling: Pooling = "mean",
    features: Any = None,
    undefined: str = "refuse",
    block_size: int = 4096,
) -> Any:
    """Make one RDM per representation.

    Parameters
    ----------
    sources : Responses, Pooled, array [S, F], or a mapping of names to these
        For example ``{"block 3": ..., "block 15": ...}``; all of the same stimuli, in the same order.
    distance, block_size
        As in `pairwise_distances`.
    stimuli : DataFrame [S], optional
        Becomes the pattern descriptors. Default: the stimulus table of `Responses`.
    average : str or array [S], optional
        Column of the table, or condition of every stimulus: distances are between the mean patterns of conditions.
    pooling : str, default "mean"
        For `Responses`; see `Responses.pool`.
    features : array of int or bool, or slice, optional
        A subset of the features, such as some latents.
    undefined : {"refuse", "mask"}
        What to do with stimuli whose pattern has no correlation or cosine, such as one for which every latent is
        silent: stop with a message, or mask their pairs with NaN and name them in ``descriptors["undefined"]``.

    Returns
    -------
    rsatoolbox.rdm.RDMs
        `rdm_descriptors`: `name`, and for `Responses` `site`. `pattern_descriptors`: the columns of the table, or the
        condition and `n_stimuli`. `descriptors["undefined"]`: for every name the rows without a pattern.

    Raises
    ------
    UserError
        Patterns that are not defined, sources of different stimuli, and all that `read_patterns` refuses.

    References
    ----------
    Kriegeskorte, Mur & Bandettini (2008), Frontiers in Systems Neuroscience 2:4.

    Examples
    --------
    >>> rdms = make_rdms({"a": np.eye(3), "b": np.arange(6.0).reshape(3, 2)}, distance="squared_euclidean")
    >>> rdms.n_rdm, rdms.rdm_descriptors["name"]
    (2, ['a', 'b'])
    """
    named = dict(sources) if isinstance(sources, Mapping) else {"": sources}
    if undefined not in UNDEFINED:
        raise unknown_name("way with undefined patterns", undefined, UNDEFINED)
    if not named:
        raise UserError("no representations to make RDMs of", where="sources")
    tables, about, missing = [], None, {}
    for name, source in named.items():
        X_SF = read_patterns(source, pooling=pooling, features=features)
        table = stimulus_table(source, stimuli, X_SF.shape[0])
        if average is not None:
            X_SF, table = _averaged(X_SF, table, average)
        D_SS, defined_S = pairwise_distances(X_SF, distance, block_size=block_size)
        missing[str(name)] = np.flatnonzero(~defined_S).tolist()
        if missing[str(name)] and undefined == "refuse":
            _refuse_patterns(missing[str(name)], table, distance, str(name))
        about = _same_stimuli(about, descriptors(table), str(name))
        tables.append(D_SS)
    sites = {"site": [s.site for s in named.values()]} if all(isinstance(s, Responses) for s in named.values()) else {}
    return _rdms(tables, distance, {"name": [str(name) for name in named], **sites}, about or {}, missing)


def position_rdms(
    responses: Responses,
    *,
    distance: str = "correlation",
    align: Alignment = "end",
    width: int = 16,
    features: Any = None,
    block_size: int = 4096,
) -> Any:
    """Make one RDM per aligned position, of the tokens that stand there.

    Parameters
    ----------
    responses : Responses
    distance, block_size
        As in `pairwise_distances`.
    align : {"left", "centre", "target", "end"}, default "end"
        As in `Responses.profiles`. Use positions that mean the same thing in every stimulus.
    width : int, default 16
        Window positions W.
    features : array of int or bool, or slice, optional

    Returns
    -------
    rsatoolbox.rdm.RDMs
        W RDMs. `rdm_descriptors`: `position` (0 .. W - 1) and `n` (stimuli with a pattern there). Pairs of stimuli
        without a clean token (or with an undefined pattern) are NaN; ``descriptors["undefined"]`` names them.

    Examples
    --------
    >>> tokens = pd.DataFrame({"stimulus": [0, 1, 1, 2, 2], "role": "text", "target": False, "clean": True})
    >>> responses = Responses(np.random.default_rng(0).normal(size=(5, 8)), tokens, pd.DataFrame({"id": [*"abc"]}), "")
    >>> position_rdms(responses, width=2).rdm_descriptors["n"]
    [2, 3]
    """
    tables, missing, count = [], {}, []
    for w, (D_SS, defined_S) in enumerate(position_distances(responses, distance, align, width, features, block_size)):
        tables.append(D_SS)
        missing[str(w)] = np.flatnonzero(~defined_S).tolist()
        count.append(int(defined_S.sum()))
    about = descriptors(responses.stimuli)
    return _rdms(tables, distance, {"position": list(range(width)), "n": count}, about, missing)


def position_distances(
    responses: Responses, distance: str, align: Alignment, width: int, features: Any, block_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield `pairwise_distances` of all stimuli at every aligned position; those without a token are not defined."""
    if width < 1:
        raise UserError(f"a window of {width} positions", where="width", allowed="integers from 1")
    n_stimuli, n_tokens = len(responses.stimuli), len(responses.tokens)
    numbered = responses.with_values(np.arange(n_tokens, dtype=np.float32)[:, None]).profiles(align, width)
    for w in range(width):
        here_S = np.flatnonzero(numbered.defined_SW[:, w])
        D_SS, defined_S = np.full((n_stimuli, n_stimuli), np.nan), np.zeros(n_stimuli, dtype=bool)
        np.fill_diagonal(D_SS, 0)
        if len(here_S):
            X_sF = read_patterns(responses.values[numbered.values_SWF[here_S, w, 0].astype(np.intp)], features=features)
            D_SS[np.ix_(here_S, here_S)], defined_S[here_S] = pairwise_distances(X_sF, distance, block_size=block_size)
        yield D_SS, defined_S


def models_to_rdms(models: ModelRDM | Sequence[ModelRDM]) -> Any:
    """Hand model RDMs to rsatoolbox.

    Returns
    -------
    rsatoolbox.rdm.RDMs
        `rdm_descriptors["name"]`; masked pairs are NaN.

    Examples
    --------
    >>> from neurosae.rsa.models import rating_model
    >>> models_to_rdms([rating_model([1, 2, 4], "valence")]).rdm_descriptors["name"]
    ['valence']
    """
    models = [models] if isinstance(models, ModelRDM) else list(models)
    return _rdms([model.table_SS for model in models], None, {"name": [model.name for model in models]}, {}, None)


def models_from_rdms(rdms: Any) -> list[ModelRDM]:
    """Read model RDMs from rsatoolbox; names from ``rdm_descriptors["name"]``, else ``model 0``, ...

    Examples
    --------
    >>> from neurosae.rsa.models import rating_model
    >>> models_from_rdms(models_to_rdms([rating_model([1, 2, 4], "valence")]))[0].table_SS
    array([[0., 1., 3.],
           [1., 0., 2.],
           [3., 2., 0.]])
    """
    tables_MSS = check_tables(rdms.get_matrices(), rdms.n_cond, "model RDM")
    names = rdms.rdm_descriptors.get("name", [f"model {m}" for m in range(rdms.n_rdm)])
    return [ModelRDM(str(name), table_SS) for name, table_SS in zip(names, tables_MSS, strict=True)]


def _averaged(X_SF: Table, table: pd.DataFrame, average: Any) -> tuple[np.ndarray, pd.DataFrame]:
    """Mean patterns of the conditions and the table that describes them."""
    name = average if isinstance(average, str) else "condition"
    if isinstance(average, str) and average not in table.columns:
        raise unknown_name("column", average, [str(column) for column in table.columns], where="average")
    code_S, names = condition_codes(table[average] if isinstance(average, str) else average, len(table))
    return mean_patterns(X_SF, code_S), pd.DataFrame({name: names, "n_stimuli": np.bincount(code_S)})


def _same_stimuli(about: dict[str, list] | None, other: dict[str, list], name: str) -> dict[str, list]:
    """Return the descriptors, or say that this source is of other stimuli than the ones before it."""
    if about is not None:
        key = "id" if "id" in about and "id" in other else next(iter(about), "id")
        if about.get(key) != other.get(key):
            raise UserError("sources are of different stimuli, or in another order", where=name)
    return other if about is None else about


def _refuse_patterns(rows: list[int], table: pd.DataFrame, distance: str, name: str) -> None:
    shown = ", ".join(str(table.iloc[row, 0]) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    what = "constant over features" if distance == "correlation" else "zero"
    raise UserError(
        f"{len(rows)} patterns are {what} and have no {distance}: {shown}",
        where=name or None,
        suggestion="Drop them, mask them with undefined='mask', or use squared_euclidean",
    )


def _rdms(
    tables: list[np.ndarray],
    distance: str | None,
    rdm_descriptors: dict[str, list],
    pattern_descriptors: dict[str, list],
    missing: dict[str, list[int]] | None,
) -> Any:
    from rsatoolbox.rdm import RDMs

    return RDMs(
        np.stack(tables),
        dissimilarity_measure=distance.replace("_", " ") if distance else None,
        descriptors={} if missing is None else {"undefined": missing},
        rdm_descriptors=rdm_descriptors,
        pattern_descriptors=pattern_descriptors,
    )
