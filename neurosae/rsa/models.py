"""Model RDMs with names: from labels, ratings, the words of the texts, and from files (human judgements, brain data).

Dissimilarities: larger = less alike; NaN masks a pair.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurosae.errors import UserError, unknown_name
from neurosae.rsa.pairs import compared, label_codes

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
DIFFERENCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"absolute": np.abs, "squared": np.square}
LONG_HEADER = ("item1", "item2", "dissimilarity")


@dataclass(frozen=True, eq=False)
class ModelRDM:
    """What a model says about every pair of stimuli; goes wherever a table [S, S] goes.

    Examples
    --------
    >>> model = rating_model([1.0, 2.0, 4.0], "valence")
    >>> np.asarray([model, model]).shape
    (2, 3, 3)
    """

    name: str
    table_SS: np.ndarray
    """float64, symmetric, zero diagonal; NaN where a pair is masked."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the table."""
        return np.array(self.table_SS, dtype=dtype) if copy else np.asarray(self.table_SS, dtype=dtype)


def label_model(labels: Any, kind: str, name: str | None = None) -> ModelRDM:
    """Two-level model of a comparison of conditions: 0 for pairs that should be similar, 1 for pairs that should not.

    With squared distances and Pearson correlation, `score_model` gives the score of `score_scalar`.

    Parameters
    ----------
    labels : array [S]
        Booleans (True = target) or +1 target, -1 foil, 0 left out.
    kind : {"discriminative", "categorical", "category"}
        See `neurosae.rsa.KINDS`; the pairs that are not compared are masked.
    name : str, optional
        Default: `kind`.

    Raises
    ------
    UserError
        Malformed labels or unknown kind.

    Examples
    --------
    >>> label_model([True, True, False], "discriminative").table_SS
    array([[0., 0., 1.],
           [0., 0., 1.],
           [1., 1., 0.]])
    """
    labels = np.asarray(labels)
    code_S = label_codes(labels, labels.shape[-1])[0].astype(int)
    sum_SS, product_SS = code_S[:, None] + code_S, code_S[:, None] * code_S
    similar_SS, dissimilar_SS = compared(kind, sum_SS == 2, sum_SS == -2, product_SS == -1)
    table_SS = np.where(similar_SS, 0.0, np.where(dissimilar_SS, 1.0, np.nan))
    np.fill_diagonal(table_SS, 0)
    return ModelRDM(name or kind, table_SS)


def rating_model(values: Any, name: str, difference: str = "absolute") -> ModelRDM:
    """Difference of one number per stimulus: a rating, its length, its position, its surprisal.

    Parameters
    ----------
    values : array [S]
    name : str
    difference : {"absolute", "squared"}

    Raises
    ------
    UserError
        A value is not finite (names the stimulus), all are equal, or unknown difference.

    Examples
    --------
    >>> rating_model([1, 2, 4], "valence", "squared").table_SS
    array([[0., 1., 9.],
           [1., 0., 4.],
           [9., 4., 0.]])
    """
    if difference not in DIFFERENCES:
        raise unknown_name("difference", difference, DIFFERENCES)
    value_S = np.asarray(values, dtype=np.float64)
    if value_S.ndim != 1:
        raise UserError(f"'{name}' has shape {value_S.shape}", allowed="one number per stimulus")
    bad = np.flatnonzero(~np.isfinite(value_S))
    if len(bad):
        raise UserError(
            f"'{name}' is {value_S[bad[0]]}",
            where=f"stimulus {bad[0]}",
            suggestion=f"Score the {len(value_S) - len(bad)} stimuli that have it",
        )
    if len(value_S) < 2 or np.ptp(value_S) == 0:
        raise UserError(f"'{name}' is the same for every stimulus", suggestion="Nothing can fit it")
    return ModelRDM(name, DIFFERENCES[difference](value_S[:, None] - value_S))


def length_model(texts: Sequence[str], difference: str = "absolute") -> ModelRDM:
    """Difference in the number of words.

    Examples
    --------
    >>> length_model(["one", "one two", "one two three"]).table_SS[0]
    array([0., 1., 2.])
    """
    return rating_model([len(words) for words in _words(texts)], "length", difference)


def frequency_model(texts: Sequence[str], language: str = "en", difference: str = "absolute") -> ModelRDM:
    """Difference in the mean Zipf frequency of the words (base-10 logarithm of occurrences per thousand million).

    References
    ----------
    van Heuven, Mandera, Keuleers & Brysbaert (2014), Quarterly Journal of Experimental Psychology 67:1176.

    Examples
    --------
    >>> table_SS = frequency_model(["the house", "a house", "obsidian"]).table_SS
    >>> bool(table_SS[0, 1] < table_SS[0, 2])
    True
    """
    from wordfreq import zipf_frequency  # loads its word lists

    zipf = [np.mean([zipf_frequency(word, language) for word in words]) for words in _words(texts)]
    return rating_model(zipf, "frequency", difference)


def overlap_model(texts: Sequence[str]) -> ModelRDM:
    """Lexical overlap as a dissimilarity: 1 - Jaccard index of the two texts' sets of words.

    Examples
    --------
    >>> overlap_model(["a red house", "a red door", "nothing"]).table_SS.round(2)
    array([[0. , 0.5, 1. ],
           [0.5, 0. , 1. ],
           [1. , 1. , 0. ]])
    """
    sets = [set(words) for words in _words(texts)]
    column = {word: c for c, word in enumerate(sorted(set().union(*sets)))}
    has_SV = np.zeros((len(sets), len(column)))
    for s, words in enumerate(sets):
        has_SV[s, [column[word] for word in words]] = 1
    common_SS, size_S = has_SV @ has_SV.T, has_SV.sum(axis=1)
    return ModelRDM("overlap", 1 - common_SS / (size_S[:, None] + size_S - common_SS))


def read_model(path: str | Path, ids: Sequence[str], name: str | None = None) -> ModelRDM:
    """Read an RDM from a CSV or TSV file and put it in the order of the stimuli.

    Two layouts. *Square*: the first row holds the stimulus ids (after one cell of any content), every other row an id
    and its dissimilarities. *Long*: the columns ``item1,item2,dissimilarity``, one row per pair in either order. Other
    stimuli in the file are ignored, and so is the diagonal.

    Parameters
    ----------
    path : str or Path
        A name ending in ``.tsv`` is read with tabs, any other with commas.
    ids : sequence of str [S]
        Stimuli, in the order of the responses.
    name : str, optional
        Default: the name of the file.

    Raises
    ------
    UserError
        With file, row and column: no such file, an id that is missing or appears twice, a pair that is missing or
        appears twice, a value that is no finite number, halves that differ, or one value for all pairs.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "human.csv"
    ...     _ = path.write_text(",dog,cat,car\\ndog,0,1,5\\ncat,1,0,6\\ncar,5,6,0\\n")
    ...     model = read_model(path, ["car", "dog", "cat"])
    >>> model.table_SS
    array([[0., 5., 6.],
           [5., 0., 1.],
           [6., 1., 0.]])
    """
    path, ids = Path(path), [str(name) for name in ids]
    if len(set(ids)) < len(ids):
        raise UserError(f"The stimulus id '{_first_repeat(ids)}' appears twice")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The RDM cannot be read ({error})", where=str(path)) from error
    if not rows:
        raise UserError("The RDM is empty", where=str(path))
    header = tuple(cell.lower() for cell in rows[0][1])
    table_SS = (_read_long if header == LONG_HEADER else _read_square)(path, rows, ids)
    pairs = table_SS[np.triu_indices(len(ids), k=1)]
    if len(pairs) and np.ptp(pairs) == 0:
        raise UserError(f"Every pair of stimuli has the dissimilarity {pairs[0]:g}", where=str(path))
    return ModelRDM(name or path.stem, table_SS)


Rows = list[tuple[int, list[str]]]


def _read_square(path: Path, rows: Rows, ids: list[str]) -> np.ndarray:
    head, body = rows[0][1][1:], rows[1:]
    for line, cells in body:
        if len(cells) != len(head) + 1:
            what = f"{len(cells)} cells in a table of {len(head)} stimuli"
            raise UserError(what, where=f"{path}, row {line}", allowed="an id and one number per stimulus")
    names = [cells[0] for _, cells in body]
    for place, listed in (("header", head), ("first column", names)):
        if len(set(listed)) < len(listed):
            raise UserError(f"'{_first_repeat(listed)}' appears twice", where=f"{path}, {place}")
        for name in ids:
            if name not in listed:
                raise unknown_name(f"stimulus in the {place}:", name, listed[:20], where=str(path))
    row_of, column_of = {n: r for r, n in enumerate(names)}, {n: c for c, n in enumerate(head)}
    table_SS = np.zeros((len(ids), len(ids)))
    for i, row in enumerate(ids):
        line, cells = body[row_of[row]]
        for j, name in enumerate(ids):
            if i != j:
                table_SS[i, j] = _number(cells[1 + column_of[name]], f"{path}, row {line} ('{row}'), column '{name}'")
    differs = np.argwhere(np.abs(table_SS - table_SS.T) > 1e-8 * np.abs(table_SS).max(initial=0))
    if len(differs):
        i, j = differs[0]
        line = body[row_of[ids[i]]][0]
        raise UserError(
            f"The RDM is not symmetric: {table_SS[i, j]:g} and, mirrored, {table_SS[j, i]:g}",
            where=f"{path}, row {line} ('{ids[i]}'), column '{ids[j]}'",
        )
    return (table_SS + table_SS.T) / 2


def _read_long(path: Path, rows: Rows, ids: list[str]) -> np.ndarray:
    index = {name: s for s, name in enumerate(ids)}
    table_SS = np.full((len(ids), len(ids)), np.nan)
    for line, cells in rows[1:]:
        where = f"{path}, row {line}"
        if len(cells) != 3:
            raise UserError(f"{len(cells)} cells", where=where, allowed=", ".join(LONG_HEADER))
        if cells[0] not in index or cells[1] not in index or cells[0] == cells[1]:
            continue
        i, j = index[cells[0]], index[cells[1]]
        value = _number(cells[2], f"{where}, column 'dissimilarity'")
        if not np.isnan(table_SS[i, j]):
            raise UserError(f"The pair '{cells[0]}', '{cells[1]}' appears twice", where=where)
        if abs(table_SS[j, i] - value) > 1e-8 * abs(value):  # False while the mirrored pair has no value yet
            raise UserError(f"The RDM is not symmetric: {value:g} and, mirrored, {table_SS[j, i]:g}", where=where)
        table_SS[i, j] = value
    table_SS = np.where(np.isnan(table_SS), table_SS.T, table_SS)
    np.fill_diagonal(table_SS, 0)
    missing = np.argwhere(np.isnan(table_SS))
    if len(missing):
        i, j = missing[0]
        raise UserError(
            f"The pair '{ids[i]}', '{ids[j]}' is missing, and {len(missing) // 2 - 1} more", where=str(path)
        )
    return table_SS


def _number(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise UserError(f"The dissimilarity is '{cell}'", where=where, allowed="finite numbers")
    return value


def _first_repeat(names: Sequence[str]) -> str:
    return next(name for i, name in enumerate(names) if name in names[:i])


def _words(texts: Sequence[str]) -> list[list[str]]:
    words = [WORD.findall(text.casefold()) for text in texts]
    for s, found in enumerate(words):
        if not found:
            raise UserError("The text has no words", where=f"stimulus {s}")
    return words
