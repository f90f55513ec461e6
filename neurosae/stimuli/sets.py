"""Stimulus sets: YAML in, a labelled table out, with the contrasts and what may be exchanged under the null hypothesis.

``python -m neurosae.stimuli check success stimuli/valence.yaml`` checks sets for confounds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from neurosae.errors import UserError, unknown_name
from neurosae.stimuli import files as stimulus_files
from neurosae.stimuli import rows as stimulus_rows
from neurosae.stimuli.contrasts import Contrast, parse_contrast


@dataclass(frozen=True, eq=False)
class StimulusSet:
    """Stimuli with their conditions, and the contrasts over them.

    Attributes
    ----------
    table : DataFrame
        One row per stimulus, in the order of the file; index 0, 1, ... Columns: `id`, `text`; one per factor, holding
        the level; `pair`, `family`, `group` (families that must stay together, such as two that mirror each other),
        `template`, `wording`, `domain` (text, ``<NA>`` where a stimulus has none);
        `target_start`, `target_end` (character offsets of the target span in the text, int64, -1 where there is none);
        one per rating (float64, NaN where a stimulus has none).
    name : str
    target : str
        The level the concept is about.
    definition : str
        What makes a text an instance of the target.
    licence : str or None
    factors : mapping of str to tuple of str
        Levels of every factor.
    contrasts : mapping of str to Contrast
    designs : mapping of str to str
        Design of every contrast: declared in the file, or else the first that the labels allow of 'pairs',
        'families', 'unpaired' (for an interaction: of 'interaction', 'pairs', 'unpaired').
    ratings : tuple of str
        Names of the rating columns.
    chat : bool or dict
        Whether texts go into the language model's chat template; ``{"system": text}`` with a system message.
    path : Path
    sha256 : str
        Of the bytes of the file.
    is_concept : bool
        False (``concept: false`` in the file) for an instrument, such as prompt styles: it can be loaded by name, and
        is left out where all concepts are meant; see :func:`concepts`.

    Examples
    --------
    >>> stimuli = load("continuation")
    >>> rows, y = stimuli.contrast("continuation").labels(stimuli.table)
    >>> stimuli.design("continuation")
    'pairs'
    """

    table: pd.DataFrame
    name: str
    target: str
    definition: str
    licence: str | None
    factors: Mapping[str, tuple[str, ...]]
    contrasts: Mapping[str, Contrast]
    designs: Mapping[str, str]
    ratings: tuple[str, ...]
    chat: bool | dict[str, Any]
    path: Path
    sha256: str
    is_concept: bool = True

    @classmethod
    def from_yaml(cls, path: str | Path) -> StimulusSet:
        """Read a stimulus file.

        Raises
        ------
        UserError
            With file and line, for anything that is not as it should be.
        """
        file, source = stimulus_files.read(path)
        rows = stimulus_rows.rows(file, source)
        factors = {factor: tuple(levels) for factor, levels in file.factors.items()}
        table = _table(rows)
        contrasts, designs = {}, {}
        for name, entry in file.contrasts.items():
            where = source.where("contrasts", name)
            contrasts[name] = parse_contrast(entry.expression, factors, where, name)
            contrasts[name].labels(table, where)
            designs[name] = entry.design or _first_design(contrasts[name], table, factors)
            if reason := _refusal(designs[name], contrasts[name], table, factors):
                what = f"The design '{designs[name]}' of contrast '{name}' is not possible: {reason}"
                raise UserError(what, where=where)
        return cls(
            table=table,
            name=file.name,
            target=file.target,
            definition=file.definition,
            licence=file.licence,
            factors=factors,
            contrasts=contrasts,
            designs=designs,
            ratings=tuple(dict.fromkeys(rating for row in rows for rating in row.ratings)),
            chat=False if file.chat is None else (file.chat.model_dump(exclude_none=True) or True),
            path=source.path,
            sha256=source.sha256,
            is_concept=file.concept,
        )

    def contrast(self, name: str | None = None) -> Contrast:
        """Contrast by its name; the first of the file by default.

        Raises
        ------
        UserError
            There is none of that name; the nearest is suggested.
        """
        if name is None:
            return next(iter(self.contrasts.values()))
        if name not in self.contrasts:
            raise unknown_name("contrast", name, self.contrasts, where=str(self.path))
        return self.contrasts[name]

    def design(self, contrast: str | Contrast | None = None) -> str:
        """How the labels of a contrast may be exchanged: 'pairs', 'families', 'interaction' or 'unpaired'."""
        contrast = contrast if isinstance(contrast, Contrast) else self.contrast(contrast)
        if self.contrasts.get(contrast.name) == contrast:
            return self.designs[contrast.name]
        return _first_design(contrast, self.table, self.factors)

    def why_not(self, design: str, contrast: str | Contrast | None = None) -> str | None:
        """Why the labels of a contrast do not allow a design; None if they do."""
        contrast = contrast if isinstance(contrast, Contrast) else self.contrast(contrast)
        return _refusal(design, contrast, self.table, self.factors)

    def blocks(self, contrast: str | Contrast | None = None, rows: np.ndarray | None = None) -> np.ndarray:
        """Exchangeability blocks: what may be permuted with what under the null hypothesis.

        Parameters
        ----------
        contrast : str or Contrast, optional
            Default: the first.
        rows : array of int or bool, optional
            Rows of the table. Default: those to which the contrast gives a label.

        Returns
        -------
        blocks : ndarray of int, shape (n_rows,)
            0, 1, ... in order of appearance. By design: the pair; the family at the same levels of the factors that
            are not in the contrast; for an interaction the family, whose labels are flipped as a whole; one single
            block. A row without pair or family, or whose pair is incomplete, is a block of its own.
        """
        contrast = contrast if isinstance(contrast, Contrast) else self.contrast(contrast)
        rows = contrast.labels(self.table)[0] if rows is None else np.arange(len(self.table))[rows]
        return _blocks(self.design(contrast), contrast, self.table.iloc[rows], self.factors)

    def groups(self) -> np.ndarray:
        """Stimuli that must stay in one fold: everything connected by shared pairs, families and groups.

        Returns
        -------
        groups_S : ndarray of int, shape (n_stimuli,)
            0, 1, ... in order of appearance; a stimulus that shares none of them is a group of its own.
        """
        n = len(self.table)
        stimulus, node = [], []
        offset = n
        for column in ("pair", "family", "group"):
            code_S, names = pd.factorize(self.table[column])
            members = np.flatnonzero(code_S >= 0)
            stimulus.append(members)
            node.append(offset + code_S[members])
            offset += len(names)
        ends = np.concatenate(stimulus), np.concatenate(node)
        graph = coo_array((np.ones(len(ends[0]), dtype=np.int8), ends), shape=(offset, offset))
        _, component = connected_components(graph, directed=False)
        return pd.factorize(component[:n])[0]

    def subset(self, mask: np.ndarray) -> StimulusSet:
        """The stimuli under a boolean mask (or at these positions); designs stay those of the whole set."""
        return replace(self, table=self.table.iloc[np.asarray(mask)].reset_index(drop=True))


def available(folder: str | Path | None = None) -> dict[str, Path]:
    """Stimulus sets that can be loaded by name.

    Parameters
    ----------
    folder : str or Path, optional
        Default: ``stimuli/`` of the current folder, then that of the repository around the package.

    Examples
    --------
    >>> "continuation" in available()
    True
    """
    here = [Path("stimuli"), Path(__file__).parents[2] / "stimuli"]
    found: dict[str, Path] = {}
    for place in here if folder is None else [Path(folder)]:
        for path in sorted([*place.glob("*.yaml"), *place.glob("*.yml")]):
            found.setdefault(path.stem, path)
    return found


def concepts(folder: str | Path | None = None) -> list[StimulusSet]:
    """All sets that :func:`available` lists and that are about a concept, by name.

    Examples
    --------
    >>> names = [each.name for each in concepts()]
    >>> "success" in names, "expertise" in names
    (True, False)
    """
    found = [load(name, folder) for name in sorted(available(folder))]
    return [each for each in found if each.is_concept]


def load(name_or_path: str | Path, folder: str | Path | None = None) -> StimulusSet:
    """Load a stimulus set by name or path.

    Parameters
    ----------
    name_or_path : str or Path
        A path ends in ``.yaml`` or ``.yml``; anything else is a name.
    folder : str or Path, optional
        Where names are looked up; see :func:`available`.

    Raises
    ------
    UserError
        No such set (the nearest name is suggested), a name with path separators, or a bad file.

    Examples
    --------
    >>> load("continuation").target
    'continuation'
    """
    if str(name_or_path).lower().endswith((".yaml", ".yml")):
        return StimulusSet.from_yaml(name_or_path)
    name = str(name_or_path)
    if re.search(r"[/\\\0]|\.\.", name):
        what = f"'{name}' is neither a name nor a stimulus file"
        raise UserError(what, allowed="a name such as 'success', or a path ending in .yaml")
    known = available(folder)
    if name not in known:
        raise unknown_name("stimulus set", name, known)
    return StimulusSet.from_yaml(known[name])


def _table(rows: list[stimulus_rows.Row]) -> pd.DataFrame:
    """One row per stimulus; see `StimulusSet`."""
    table = pd.DataFrame({"id": [row.id for row in rows], "text": [row.text for row in rows]})
    for factor in rows[0].levels:
        table[factor] = [row.levels[factor] for row in rows]
    for column in ("pair", "family", "group", "template", "wording", "domain"):
        table[column] = pd.array([getattr(row, column) for row in rows], dtype="string")
    for column in ("target_start", "target_end"):
        table[column] = np.array([getattr(row, column) for row in rows], dtype=np.int64)
    for rating in dict.fromkeys(rating for row in rows for rating in row.ratings):
        table[rating] = np.array([row.ratings.get(rating, np.nan) for row in rows], dtype=np.float64)
    return table


def _first_design(contrast: Contrast, table: pd.DataFrame, factors: Mapping[str, tuple[str, ...]]) -> str:
    preferred = ("interaction", "pairs", "unpaired") if contrast.is_interaction else ("pairs", "families", "unpaired")
    return next(design for design in preferred if _refusal(design, contrast, table, factors) is None)


def _refusal(
    design: str, contrast: Contrast, table: pd.DataFrame, factors: Mapping[str, tuple[str, ...]]
) -> str | None:
    """Why the labels of a contrast do not allow a design; None if they do."""
    rows, y = contrast.labels(table)
    labelled = table.iloc[rows]
    column = {"pairs": "pair", "families": "family", "interaction": "family"}.get(design)
    if column is None:
        return None
    alone = int(labelled[column].isna().sum())
    if alone == len(rows):
        return f"no stimulus has a {column}"
    if alone:
        return f"{alone} of {len(rows)} stimuli have no {column}"
    if design == "families" and contrast.is_interaction:
        return "permuting the cells of an interaction within families would exchange its main effects too"
    blocks = _blocks(design, contrast, labelled, factors)
    n_target, n_foil = np.bincount(blocks, y == 1), np.bincount(blocks, y == 0)
    if design == "families":
        mixed = ((n_target > 0) & (n_foil > 0)).any()
        return None if mixed else "no family has both sides at the same levels of the other factors"
    uneven = np.flatnonzero((n_target != n_foil) | ((design == "pairs") & (n_target != 1)))
    if len(uneven):
        example = labelled[column].iloc[int(np.argmax(blocks == uneven[0]))]
        unbalanced = f"{len(uneven)} of {blocks.max() + 1} blocks"
        return f"{unbalanced} do not balance target and foil, such as the one of {column} '{example}'"
    return None


def _blocks(
    design: str, contrast: Contrast, labelled: pd.DataFrame, factors: Mapping[str, tuple[str, ...]]
) -> np.ndarray:
    """Exchangeability block of each of these rows, numbered in order of appearance."""
    if design == "unpaired":
        return np.zeros(len(labelled), dtype=np.intp)
    keys = ["pair" if design == "pairs" else "family"]
    if design == "families":
        keys += [factor for factor in factors if factor not in contrast.factors]
    block = labelled.groupby(keys, sort=False, dropna=False).ngroup().to_numpy(copy=True)
    alone = labelled[keys[0]].isna().to_numpy()
    block[alone] = len(labelled) + np.arange(int(alone.sum()))
    return pd.factorize(block)[0]
