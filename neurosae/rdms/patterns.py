"""Patterns of a whole representation, stimuli x features, out of responses or plain arrays; rsatoolbox data sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from neurosae.errors import UserError
from neurosae.responses import Pooled, Pooling, Responses
from neurosae.rsa.results import Table, as_table


def read_patterns(source: Any, *, pooling: Pooling = "mean", features: Any = None) -> Table:
    """Read one pattern per stimulus.

    Parameters
    ----------
    source : Responses, Pooled or array (dense or sparse) [S, F]
    pooling : str, default "mean"
        For `Responses`; see `Responses.pool`.
    features : array of int or bool, or slice, optional
        Features to keep, such as a subset of latents.

    Returns
    -------
    array or csr_array [S, F]

    Raises
    ------
    UserError
        A stimulus without a value, values that are not finite (names stimulus and feature), no features left.

    Examples
    --------
    >>> read_patterns(np.eye(3), features=[0, 2]).shape
    (3, 2)
    """
    if isinstance(source, Responses):
        source = source.pool(pooling)
    if isinstance(source, Pooled):
        missing = np.flatnonzero(~source.valid_S)
        if len(missing):
            raise UserError(
                f"{len(missing)} stimuli have no pattern: {source.reason_S[missing[0]]}",
                where=f"stimulus {missing[0]}",
                suggestion="Drop them, or pool in another way",
            )
        source = source.values_SF
    X_SF = sparse.csr_array(source) if sparse.issparse(source) else np.asarray(source)
    as_table(X_SF)
    if features is not None:
        X_SF = X_SF[:, chosen(features, X_SF.shape[1])]
    if min(X_SF.shape) == 0:
        raise UserError(f"patterns have shape {X_SF.shape}", allowed="at least one stimulus and one feature")
    return X_SF


def chosen(features: Any, n_features: int) -> np.ndarray:
    """Numbers of the features under a slice, a boolean mask or their numbers.

    Raises
    ------
    UserError
        A number that is no feature, or a mask of another length.
    """
    if isinstance(features, slice):
        return np.arange(n_features)[features]
    features = np.asarray(features)
    if features.dtype == bool and features.shape == (n_features,):
        return np.flatnonzero(features)
    numbers = features if features.size else features.astype(np.intp)
    if numbers.dtype.kind not in "iu" or (numbers < 0).any() or (numbers >= n_features).any():
        raise UserError(
            f"features do not fit the {n_features} there are", where="features", allowed="numbers, a mask or a slice"
        )
    return numbers


def stimulus_table(source: Any, stimuli: pd.DataFrame | None, n_stimuli: int) -> pd.DataFrame:
    """Return the table given, that of the responses, or one that only counts the stimuli.

    Raises
    ------
    UserError
        A table of another length.
    """
    if stimuli is None:
        stimuli = source.stimuli if isinstance(source, Responses) else pd.DataFrame({"id": np.arange(n_stimuli)})
    if len(stimuli) != n_stimuli:
        raise UserError(f"the table describes {len(stimuli)} stimuli, there are {n_stimuli} patterns", where="stimuli")
    return stimuli


def descriptors(stimuli: pd.DataFrame) -> dict[str, list[Any]]:
    """Columns of a stimulus table as rsatoolbox wants them: lists, with an empty text where a name is missing."""
    columns = {}
    for name, column in stimuli.items():
        numeric = pd.api.types.is_numeric_dtype(column)
        columns[str(name)] = column.tolist() if numeric else column.astype(object).where(column.notna(), "").tolist()
    return columns


def to_dataset(
    source: Any, *, stimuli: pd.DataFrame | None = None, pooling: Pooling = "mean", features: Any = None
) -> Any:
    """Hand patterns to rsatoolbox.

    Parameters
    ----------
    source, pooling, features
        As in `read_patterns`.
    stimuli : DataFrame [S], optional
        Becomes the observation descriptors. Default: the stimulus table of `Responses`.

    Returns
    -------
    rsatoolbox.data.Dataset
        Observations are stimuli, channels are features (descriptor `feature`: their number), float64.

    Examples
    --------
    >>> dataset = to_dataset(np.eye(3), stimuli=pd.DataFrame({"outcome": ["won", "lost", "won"]}))
    >>> dataset.n_obs, dataset.obs_descriptors["outcome"]
    (3, ['won', 'lost', 'won'])
    """
    from rsatoolbox.data import Dataset

    whole = read_patterns(source, pooling=pooling)
    X_SF = read_patterns(whole, features=features)
    kept_F = chosen(slice(None) if features is None else features, whole.shape[1])
    table = stimulus_table(source, stimuli, X_SF.shape[0])
    about = {"site": source.site, **source.source} if isinstance(source, Responses) else {}
    return Dataset(
        np.asarray(X_SF.toarray() if sparse.issparse(X_SF) else X_SF, dtype=np.float64),
        descriptors=about,
        obs_descriptors=descriptors(table),
        channel_descriptors={"feature": kept_F.tolist()},
    )


def from_dataset(dataset: Any) -> tuple[np.ndarray, pd.DataFrame]:
    """Read an rsatoolbox data set.

    Returns
    -------
    X_SF : array [S, F]
    stimuli : DataFrame [S]
        Its observation descriptors.

    Examples
    --------
    >>> X_SF, stimuli = from_dataset(to_dataset(np.eye(3), stimuli=pd.DataFrame({"id": ["a", "b", "c"]})))
    >>> stimuli["id"].tolist()
    ['a', 'b', 'c']
    """
    stimuli = pd.DataFrame({name: list(column) for name, column in dataset.obs_descriptors.items()})
    return np.asarray(dataset.measurements, dtype=np.float64), stimuli


def numbered(names_S: Any, n_stimuli: int, what: str, *, sort: bool = False) -> tuple[np.ndarray, list[Any]]:
    """Number every stimulus by its name (condition, fold, item): in order of appearance, or sorted.

    Returns
    -------
    code_S : int array [S]
    names : list

    Raises
    ------
    UserError
        Another length, or a stimulus without a name (None, NaN): such stimuli are not alike.

    Examples
    --------
    >>> numbered(["b", "a", "b"], 3, "fold", sort=True)
    (array([1, 0, 1]), ['a', 'b'])
    """
    names_S = np.asarray(names_S, dtype=object)
    if names_S.shape != (n_stimuli,):
        raise UserError(f"{names_S.size} {what}s for {n_stimuli} stimuli", where=f"{what}s")
    code_S, names = pd.factorize(names_S, sort=sort)
    if (code_S < 0).any():
        raise UserError(f"a stimulus has no {what}", where=f"stimulus {np.flatnonzero(code_S < 0)[0]}")
    return code_S, list(names)


def condition_codes(conditions_S: Any, n_stimuli: int) -> tuple[np.ndarray, list[Any]]:
    """Number every stimulus by its condition, in order of appearance.

    Returns
    -------
    code_S : int array [S]
    names : list of C

    Raises
    ------
    UserError
        Another length, a stimulus without a condition, or a single condition.

    Examples
    --------
    >>> condition_codes(["won", "lost", "won"], 3)
    (array([0, 1, 0]), ['won', 'lost'])
    """
    code_S, names = numbered(conditions_S, n_stimuli, "condition")
    if len(names) < 2:
        raise UserError(f"all stimuli are '{names[0]}'", where="conditions", allowed="two conditions or more")
    return code_S, names


def mean_patterns(X_SF: Table, code_S: np.ndarray) -> np.ndarray:
    """Mean pattern [C, F] of the stimuli with each code 0 .. C - 1, in float64."""
    count_C = np.bincount(code_S)
    averaging_CS = sparse.csr_array((1 / count_C[code_S], (code_S, np.arange(len(code_S)))))
    mean_CF = averaging_CS @ X_SF
    return mean_CF.toarray() if sparse.issparse(mean_CF) else mean_CF
