"""Least squares of every feature on one regressor and nuisance columns: what `neurosae.inference.linear` is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, sparse

from neurosae.errors import UserError, unknown_name
from neurosae.inference.permutation import DESIGNS, count_arrangements
from neurosae.rsa.results import Table, as_table, dense_blocks, index_blocks, is_sparse

Array = NDArray[np.float64]
Index = NDArray[np.intp]

BLOCK_DIFFERENCES = ("pairs", "interaction")
"""Designs whose unit of analysis is the block: the mean of its targets minus the mean of its foils."""
ROUNDING = 1e-12  # residuals this small relative to the responses are rounding error
COLLINEAR = 1e-8  # regressors with a smaller share than this beside the nuisance columns are explained by them
SPARSE_SHARE = 1 / 8  # of non-zero responses, above which a dense product is faster


@dataclass(frozen=True, eq=False)
class Units:
    """What is sampled: U stimuli, or U differences within blocks; with regressor and nuisance columns."""

    Y_SF: Table
    """Responses of the stimuli, checked."""
    x_S: Array
    """Regressor, checked."""
    differences_US: sparse.csr_array | None
    """Turns stimuli into differences; None where the units are the stimuli."""
    code_S: Index
    """Exchangeability block of every stimulus, 0..G-1."""
    basis_UQ: Array
    """Orthonormal basis of the nuisance columns, those of the covariates last."""
    n_covariates: int
    """Columns of the basis that an arrangement within blocks does not leave as they are."""

    @property
    def df(self) -> int:
        """Degrees of freedom that the residuals have."""
        return self.basis_UQ.shape[0] - self.basis_UQ.shape[1] - 1

    @property
    def is_labels(self) -> bool:
        """Whether the regressor is +1 and -1."""
        return bool(np.isin(self.x_S, (-1, 1)).all())

    @property
    def regressor_U(self) -> Array:
        """Regressor of the units: 1 for a difference."""
        return self.x_S if self.differences_US is None else np.ones(self.basis_UQ.shape[0])

    def residual(self, V_UK: Array) -> Array:
        """Columns without what the nuisance columns explain of them."""
        if self.differences_US is None:
            V_UK = V_UK - V_UK.mean(axis=0)  # the intercept; taken out first, so that an offset costs no digits
        return V_UK - self.basis_UQ @ (self.basis_UQ.T @ V_UK)

    def direction(self) -> tuple[Array, float]:
        """Residual of the regressor, with norm 1, and the norm it had."""
        residual_U = self.residual(self.regressor_U[:, None])[:, 0]
        norm = float(np.linalg.norm(residual_U))
        return residual_U / max(norm, np.finfo(float).tiny), norm

    def rearranged(self, arrangements_BS: Array, seed: int) -> list[Array]:
        """Regressor and covariates, rearranged in step with the labels and residualised again; each [U, B]."""
        columns = [self.direction()[0], *self.basis_UQ.T[self.basis_UQ.shape[1] - self.n_covariates :]]
        if self.differences_US is None:
            from_BS = permutations(self.x_S, arrangements_BS, self.code_S, seed)
            return [self.residual(column_U[from_BS].T) for column_U in columns]
        half_UB = np.asarray(self.differences_US @ arrangements_BS.T) / 2
        flips_UB = np.sign(half_UB)
        if not np.allclose(np.abs(half_UB), 1):
            raise UserError("An arrangement does not flip whole blocks", where="arrangements")
        return [self.residual(column_U[:, None] * flips_UB) for column_U in columns]

    def residual_blocks(self, features: Index, block_size: int) -> Iterator[tuple[Index, Array]]:
        """Yield (features, residuals [U, f]) for blocks of the given features."""
        for columns in index_blocks(features, block_size):
            _, Y_Sf = next(dense_blocks(self.Y_SF[:, columns], len(columns)))
            yield columns, self.residual(Y_Sf if self.differences_US is None else self.differences_US @ Y_Sf)


@dataclass(frozen=True, eq=False)
class Fit:
    """Least squares of every feature; arrays [F]."""

    units: Units
    largest_F: Array
    """Largest magnitude of a response."""
    norm_F: Array
    """Norm of the responses without what the nuisance columns explain."""
    along_F: Array
    """Their component along the regressor's residual."""
    rest_F: Array
    """Norm of what then remains."""

    @property
    def varies_F(self) -> NDArray[np.bool_]:
        """Whether the nuisance columns leave anything to explain."""
        return self.norm_F > ROUNDING * self.largest_F

    @property
    def is_separated_F(self) -> NDArray[np.bool_]:
        """Whether the regressor explains all of it."""
        return self.varies_F & (self.rest_F <= ROUNDING * self.largest_F)

    def standardised_blocks(self, block_size: int) -> Iterator[tuple[Index, Table]]:
        """Yield (features, Y [U, f]) of the features that vary, such that Y' times a direction is a correlation.

        Rare features stay sparse: directions are orthogonal to the nuisance columns, which therefore have to be taken
        out of the responses' norm only. Where they explain nearly all of a feature its products would lose digits; it
        is then dense like the others.
        """
        units, dense_F = self.units, self.varies_F
        if is_sparse(units.Y_SF):
            Y_SF = units.Y_SF.astype(np.float64)
            Y_UF = Y_SF if units.differences_US is None else sparse.csc_array(units.differences_US @ Y_SF)
            n_F = np.diff(Y_UF.indptr)
            size_F = np.sqrt(np.bincount(np.repeat(np.arange(len(n_F)), n_F), Y_UF.data**2, len(n_F)))
            rare_F = self.varies_F & (n_F <= SPARSE_SHARE * Y_UF.shape[0]) & (self.norm_F > 1e-3 * size_F)
            dense_F = self.varies_F & ~rare_F
            for features in index_blocks(np.flatnonzero(rare_F), block_size):
                Y_Uf = Y_UF[:, features]
                Y_Uf.data /= np.repeat(self.norm_F[features], n_F[features])
                yield features, Y_Uf
        for features, Y_Uf in units.residual_blocks(np.flatnonzero(dense_F), block_size):
            yield features, Y_Uf / self.norm_F[features]


def make_units(
    Y_SF: Any, regressor_S: ArrayLike, nuisance_SP: ArrayLike | None, blocks_S: ArrayLike | None, design: str
) -> Units:
    """Check the input of `neurosae.inference.test_contrast` and bring it to the units of analysis."""
    if design not in DESIGNS:
        raise unknown_name("design", design, DESIGNS)
    Y_SF = as_table(Y_SF)
    n = Y_SF.shape[0]
    x_S1 = _columns(regressor_S, n, "regressor")
    if x_S1.shape[1] != 1:
        raise UserError(f"there are {x_S1.shape[1]} regressors", where="regressor", allowed="one value per stimulus")
    covariates_UP = np.empty((n, 0)) if nuisance_SP is None else _columns(nuisance_SP, n, "nuisance")
    size_P = np.linalg.norm(covariates_UP, axis=0)
    code_S = np.zeros(n, dtype=np.intp) if design == "unpaired" else _codes(blocks_S, n, design)
    differences_US = None
    if design in BLOCK_DIFFERENCES:
        count_arrangements(x_S1[:, 0], code_S, design)  # refuses labels that the design does not allow
        differences_US = _block_differences(x_S1[:, 0], code_S)
        covariates_UP = differences_US @ covariates_UP
        fixed_UQ = np.empty((differences_US.shape[0], 0))
    else:
        covariates_UP = covariates_UP - covariates_UP.mean(axis=0)
        fixed_UQ = (code_S[:, None] == np.arange(code_S.max() + 1)) / np.sqrt(np.bincount(code_S))
    covariates_UQ = _orthonormal(covariates_UP - fixed_UQ @ (fixed_UQ.T @ covariates_UP), size_P)
    basis_UQ = np.hstack([fixed_UQ, covariates_UQ])
    units = Units(Y_SF, x_S1[:, 0], differences_US, code_S, basis_UQ, covariates_UQ.shape[1])
    if units.df < 1:
        what = "stimuli" if differences_US is None else "blocks"
        raise UserError(
            f"{len(basis_UQ)} {what} leave no degree of freedom: {basis_UQ.shape[1]} nuisance columns and a regressor",
            suggestion="Use more stimuli or fewer covariates",
        )
    spread = np.sqrt(len(units.x_S)) * np.std(units.x_S)
    if units.direction()[1] <= max(COLLINEAR * spread, ROUNDING * np.linalg.norm(units.x_S)):
        raise UserError(
            "the regressor does not vary beside the nuisance columns",
            where="regressor",
            suggestion="Use both conditions, and no covariate that tells them apart by itself",
        )
    return units


def fit(units: Units, block_size: int) -> Fit:
    """Fit every feature; silent features are not visited."""
    largest_F = _largest(units.Y_SF)
    norm_F, along_F, rest_F = np.zeros((3, len(largest_F)))
    x_U, _ = units.direction()
    for features, Y_Uf in units.residual_blocks(np.flatnonzero(largest_F), block_size):
        norm_F[features] = np.linalg.norm(Y_Uf, axis=0)
        along_F[features] = x_U @ Y_Uf
        rest_F[features] = np.linalg.norm(Y_Uf - x_U[:, None] * along_F[features], axis=0)
    return Fit(units, largest_F, norm_F, along_F, rest_F)


def correlations(Y_Uf: Table, rearranged: list[Array]) -> Array:
    """Partial correlations [f, B] of standardised features with the regressor, given the covariates.

    `rearranged` as from `Units.rearranged`. What the covariates explain of the rearranged responses is taken out of
    their norm; where that is all, the correlation is 0.
    """
    r_fB = np.asarray(Y_Uf.T @ rearranged[0])
    if len(rearranged) == 1:
        return r_fB
    left_fB = np.ones_like(r_fB)
    for covariate_UB in rearranged[1:]:
        left_fB -= np.asarray(Y_Uf.T @ covariate_UB) ** 2
    return np.where(left_fB > ROUNDING, r_fB / np.sqrt(np.maximum(left_fB, ROUNDING)), 0.0)


def permutations(x_S: Array, arrangements_BS: Array, code_S: Index, seed: int) -> Index:
    """Permutations within blocks that turn a regressor into its arrangements, [B, S].

    Among the stimuli of a block that share a value, which one goes where is drawn; draw `b` depends on the seed and `b`
    only.

    Examples
    --------
    >>> permutations(np.array([1, 1, -1, -1]), np.array([[-1, 1, 1, -1]]), np.zeros(4, dtype=int), seed=0)
    array([[3, 0, 1, 2]])
    """
    home_S = np.lexsort((x_S, code_S))
    from_BS = np.empty(arrangements_BS.shape, dtype=np.intp)
    for b, arrangement_S in enumerate(arrangements_BS):
        drawn_S = np.random.default_rng([seed, b, 1]).random(len(x_S))
        from_BS[b, np.lexsort((drawn_S, arrangement_S, code_S))] = home_S
    if not np.array_equal(x_S[from_BS], arrangements_BS):
        raise UserError("An arrangement is not the regressor in another order within blocks", where="arrangements")
    return from_BS


def _columns(values: ArrayLike, n: int, where: str) -> Array:
    """A finite float64 table [n, P] from [n] or [n, P]."""
    columns = np.asarray(values, dtype=np.float64)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if columns.ndim != 2 or len(columns) != n:
        raise UserError(f"shape {np.shape(values)} for {n} stimuli", where=where, allowed=f"[{n}] or [{n}, columns]")
    if not np.isfinite(columns).all():
        s, p = np.argwhere(~np.isfinite(columns))[0]
        raise UserError(f"the value is {columns[s, p]}", where=f"{where}, stimulus {s}, column {p}", allowed="numbers")
    return columns


def _codes(blocks_S: ArrayLike | None, n: int, design: str) -> Index:
    """Blocks as 0..G-1."""
    if blocks_S is None or np.shape(blocks_S) != (n,):
        what = "no blocks" if blocks_S is None else f"blocks of shape {np.shape(blocks_S)}"
        raise UserError(f"Design '{design}' for {n} stimuli, but {what}", allowed="one block per stimulus")
    return np.unique(np.asarray(blocks_S), return_inverse=True)[1]


def _block_differences(labels_S: Array, code_S: Index) -> sparse.csr_array:
    """Target mean minus foil mean of every block, as a matrix [blocks, S]."""
    n_GL = np.zeros((code_S.max() + 1, 2))
    side_S = (labels_S > 0).astype(np.intp)
    np.add.at(n_GL, (code_S, side_S), 1)
    return sparse.csr_array((labels_S / n_GL[code_S, side_S], (code_S, np.arange(len(code_S)))))


def _orthonormal(columns_UP: Array, size_P: Array) -> Array:
    """Orthonormal basis of the span of columns, whatever their scales; those that are rounding beside `size_P` drop."""
    norm_P = np.linalg.norm(columns_UP, axis=0)
    kept_P = norm_P > ROUNDING * size_P
    return linalg.orth(columns_UP[:, kept_P] / norm_P[kept_P], rcond=1e-10) if kept_P.any() else columns_UP[:, :0]


def _largest(Y_SF: Table) -> Array:
    """Largest magnitude of every feature, [F]."""
    high_F, low_F = Y_SF.max(axis=0), Y_SF.min(axis=0)
    if is_sparse(Y_SF):
        high_F, low_F = high_F.toarray(), low_F.toarray()
    return np.maximum(high_F, -low_F).astype(np.float64).ravel()
