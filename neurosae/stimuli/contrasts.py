"""Contrast expressions over factor levels, parsed as data.

A contrast such as ``"(positive - negative) * (factual - hypothetical)"`` says how much each condition counts. A level's
name stands for its indicator: 1 for the stimuli in that level, 0 for the others. Expressions are read into a syntax
tree and walked over a short list of allowed nodes; nothing in them is ever executed.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from neurosae.errors import UserError, unknown_name

MAX_LENGTH = 500  # characters of an expression
MAX_DEPTH = 100  # nested operations of an expression (a sum of n terms is n deep)
MAX_CELLS = 1024  # cells of the factors an expression names
GRAMMAR = "level names, numbers, + - * /, parentheses; for example 'a - b' or '(a - b) * (x - y)'"


@dataclass(frozen=True)
class Contrast:
    """A weight for every cell of the factors that matter to it.

    Stimuli with a weight above 0 are the *target* side, below 0 the *foil* side; those with weight 0 are left out.

    Attributes
    ----------
    name : str
    expression : str
        As it was written.
    factors : tuple of str
        The factors on which the weight depends (a named factor whose levels all weigh the same is not among them).
    levels : tuple of tuple of str
        The levels of each of those factors.
    cell_weights : tuple of float
        One weight per cell, the last factor running fastest.
    is_interaction : bool
        At least two factors, and the weights sum to 0 along each of them.
    """

    name: str
    expression: str
    factors: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    cell_weights: tuple[float, ...]
    is_interaction: bool

    def weights(self, table: pd.DataFrame) -> np.ndarray:
        """Weight of every stimulus.

        Parameters
        ----------
        table : DataFrame
            One row per stimulus, one column per factor, holding its level.

        Returns
        -------
        weights_S : ndarray of float64, shape (n_stimuli,)

        Raises
        ------
        UserError
            A factor has no column, or a column holds something that is not a level.

        Examples
        --------
        >>> contrast = parse_contrast("0.5 * a + 0.5 * b - c", {"f": ["a", "b", "c"]})
        >>> contrast.weights(pd.DataFrame({"f": ["a", "c", "b"]})).tolist()
        [0.5, -1.0, 0.5]
        """
        cell_weights = np.array(self.cell_weights).reshape([len(levels) for levels in self.levels])
        codes = []
        for factor, levels in zip(self.factors, self.levels, strict=True):
            if factor not in table:
                raise unknown_name("factor", factor, map(str, table.columns), where=f"contrast '{self.name}'")
            code_S = pd.Index(levels).get_indexer(pd.Index(table[factor]))
            if (code_S < 0).any():
                stranger = table[factor].iloc[int(np.argmin(code_S))]
                raise unknown_name(f"level of '{factor}'", str(stranger), levels, where=f"contrast '{self.name}'")
            codes.append(code_S)
        return cell_weights[tuple(codes)]

    @property
    def target(self) -> str:
        """The level it is about, or its expression where several levels weigh above 0.

        Examples
        --------
        >>> parse_contrast("b - a", {"f": ["a", "b"]}).target
        'b'
        """
        if len(self.levels) == 1:
            above = [level for level, weight in zip(self.levels[0], self.cell_weights, strict=True) if weight > 0]
            if len(above) == 1:
                return above[0]
        return self.expression

    def labels(self, table: pd.DataFrame, where: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Two-sided labels: which stimuli take part, and on which side.

        Parameters
        ----------
        table : DataFrame
            As for :meth:`weights`.
        where : str, optional
            File and line, for the error message.

        Returns
        -------
        rows : ndarray of int, shape (n_labelled,)
            Positions in `table` of the stimuli with a weight other than 0, ascending.
        y : ndarray of int64, shape (n_labelled,)
            1 for the target side, 0 for the foil side.

        Raises
        ------
        UserError
            One side has no stimulus.

        Examples
        --------
        >>> contrast = parse_contrast("a - b", {"f": ["a", "b", "c"]})
        >>> rows, y = contrast.labels(pd.DataFrame({"f": ["a", "c", "b"]}))
        >>> rows.tolist(), y.tolist()
        ([0, 2], [1, 0])
        """
        weights_S = self.weights(table)
        for side, member_S in (("target", weights_S > 0), ("foil", weights_S < 0)):
            if not member_S.any():
                raise UserError(
                    f"The {side} side of contrast '{self.expression}' has no stimulus",
                    where=where,
                    allowed="a contrast with stimuli above and below 0, such as 'a - b'",
                )
        rows = np.flatnonzero(weights_S)
        return rows, (weights_S[rows] > 0).astype(np.int64)


def parse_contrast(
    expression: str, factors: Mapping[str, Sequence[str]], where: str | None = None, name: str | None = None
) -> Contrast:
    """Read a contrast expression.

    Numbers are kept as exact fractions until the end, so that weights which cancel are 0 and not 1e-17.

    Parameters
    ----------
    expression : str
        Level names and numbers joined by ``+ - * /`` and parentheses, at most 500 characters. A product of levels of
        different factors is the cell in which both hold.
    factors : mapping of str to sequence of str
        Levels of every factor; no level belongs to two factors.
    where : str, optional
        File and line, for error messages.
    name : str, optional
        Default: the expression.

    Returns
    -------
    Contrast

    Raises
    ------
    UserError
        The expression is not in the grammar, names no level, multiplies levels of one factor, divides by anything but
        a number, or weighs every stimulus the same.

    Examples
    --------
    >>> factors = {"valence": ["positive", "negative"], "mood": ["factual", "hypothetical"]}
    >>> contrast = parse_contrast("(positive - negative) * (factual - hypothetical)", factors)
    >>> contrast.cell_weights, contrast.is_interaction
    ((1.0, -1.0, -1.0, 1.0), True)
    >>> parse_contrast("positive * factual - negative * factual", factors).cell_weights
    (1.0, 0.0, -1.0, 0.0)
    """
    where = where or f"contrast '{expression if len(expression) <= 60 else expression[:57] + '...'}'"
    tree = _parse(expression, where)
    factor_of = {level: factor for factor, levels in factors.items() for level in levels}
    if len(factor_of) < sum(map(len, factors.values())):
        raise UserError("A level is listed twice", where=where, allowed="level names that differ over all factors")

    named = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if node.id not in factor_of:
                raise unknown_name("level", node.id, factor_of, where=where)
            named.append(factor_of[node.id])
    axes = [factor for factor in factors if factor in named]
    shape = tuple(len(factors[factor]) for factor in axes)
    if math.prod(shape) > MAX_CELLS:
        raise UserError(
            f"The factors of the contrast have {math.prod(shape)} cells", where=where, allowed=f"at most {MAX_CELLS}"
        )

    value, _ = _evaluate(tree, _indicators(axes, factors), factor_of, where)
    weights = np.broadcast_to(np.asarray(value, dtype=object), shape)
    for axis in reversed(range(len(axes))):
        first = weights.take([0], axis=axis)
        if (weights == first).all():  # this factor does not matter
            weights = first.squeeze(axis)
            del axes[axis]
    if not axes:
        raise UserError("The contrast weighs every stimulus the same", where=where, allowed=GRAMMAR)
    try:
        cell_weights = tuple(float(weight) for weight in weights.ravel())
    except OverflowError:
        raise UserError("The contrast has a weight too large for a number", where=where) from None
    return Contrast(
        name=name or expression,
        expression=expression,
        factors=tuple(axes),
        levels=tuple(tuple(factors[factor]) for factor in axes),
        cell_weights=cell_weights,
        is_interaction=len(axes) > 1 and all((weights.sum(axis=axis) == 0).all() for axis in range(len(axes))),
    )


def _parse(expression: str, where: str) -> ast.expr:
    if len(expression) > MAX_LENGTH:
        raise UserError(
            f"The contrast has {len(expression)} characters", where=where, allowed=f"at most {MAX_LENGTH} characters"
        )
    stranger = re.search(r"[^\w\s.+\-*/()]", expression)
    if stranger:
        raise UserError(f"The contrast contains '{stranger.group()}'", where=where, allowed=GRAMMAR)
    try:
        return ast.parse(" ".join(expression.split()), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise UserError("The contrast is not a complete expression", where=where, allowed=GRAMMAR) from None


def _indicators(axes: list[str], factors: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Exact 0/1 indicator of every level along the axis of its factor; they broadcast to the cells."""
    indicators = {}
    for axis, factor in enumerate(axes):
        shape = [1] * len(axes)
        shape[axis] = len(factors[factor])
        for level in factors[factor]:
            held = [Fraction(int(other == level)) for other in factors[factor]]
            indicators[level] = np.array(held, dtype=object).reshape(shape)
    return indicators


def _evaluate(
    node: ast.expr, indicators: Mapping[str, np.ndarray], factor_of: Mapping[str, str], where: str, depth: int = 0
) -> tuple[Any, frozenset[str]]:
    """Value of a node over the cells (exact) and the factors it names."""
    if depth > MAX_DEPTH:
        raise UserError("The contrast is nested too deeply", where=where, allowed=f"at most {MAX_DEPTH} operations")

    def value_of(child: ast.expr) -> tuple[Any, frozenset[str]]:
        return _evaluate(child, indicators, factor_of, where, depth + 1)

    match node:
        case ast.Name(id=level):
            return indicators[level], frozenset({factor_of[level]})
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool) and math.isfinite(number):
            return Fraction(repr(number)), frozenset()
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value, named = value_of(operand)
            return -value, named
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() as operation, right=right):
            (a, named_a), (b, named_b) = value_of(left), value_of(right)
            match operation:
                case ast.Add():
                    value = a + b
                case ast.Sub():
                    value = a - b
                case ast.Mult():
                    if shared := sorted(named_a & named_b):
                        raise UserError(
                            f"The contrast multiplies levels of one factor, '{shared[0]}': no stimulus has two of them",
                            where=where,
                            allowed="products of levels of different factors",
                        )
                    value = a * b
                case _:
                    if named_b or b == 0:
                        raise UserError("The contrast does not divide by a number other than 0", where=where)
                    value = a / b
            return value, named_a | named_b
    raise UserError("The contrast uses something that is not allowed", where=where, allowed=GRAMMAR)
