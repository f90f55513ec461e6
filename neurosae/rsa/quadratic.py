"""Inner products of the squared distances of a scalar feature with any table of pairs, without visiting pairs.

With d_ij = (x_i - x_j)^2 and symmetric tables E (weights of a model) and W (1 where a pair counts), both with a zero
diagonal, and sums over pairs i < j:

    sum E d   = sum_i x_i^2 E_i. - x'E x = x'L x, with the graph Laplacian L
    sum W d^2 = sum_i x_i^4 W_i. - 4 (x^3)'W x + 3 (x^2)'W x^2

Neither needs centred features, so that sparse ones stay sparse. Where every pair counts, W x = sum(x) - x, and
power sums are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from neurosae.errors import unknown_name
from neurosae.rsa.results import Table, is_sparse
from neurosae.rsa.targets import Targets

BACKENDS = ("numpy", "torch")


class PairProducts(NamedTuple):
    """What a comparison needs to know of f features."""

    unit_Kf: np.ndarray
    """Inner products of the squared distances d with `Targets.unit_KP`."""
    basis_Qf: np.ndarray
    """Inner products of d with `Targets.basis_QP`."""
    squares_f: np.ndarray
    """d'd."""
    scale_f: np.ndarray
    """Sum of the magnitudes `squares_f` was computed from: what its rounding error is relative to."""


class Forms(NamedTuple):
    """The tables of the quadratic forms: NumPy arrays, or torch tensors."""

    laplacian_ESS: Any
    """Of models, then basis vectors other than the constant: diag(E_i.) - E."""
    mask_SS: Any
    """1 where a pair counts."""
    count_S: Any
    """Its row sums."""
    complete: bool
    """Every pair counts."""


def pair_products(targets: Targets, backend: str = "numpy", device: str = "cpu") -> Callable[[Table], PairProducts]:
    """Return the function from a block of standardised features [S, f] to their `PairProducts`.

    Parameters
    ----------
    targets : Targets
    backend : {"numpy", "torch"}, default "numpy"
        `torch` computes in float64 on `device`; sparse blocks become dense there.
    device : str, default "cpu"
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    n_models, n_pairs = targets.unit_KP.shape
    centred = len(targets.basis_QP) > 0
    tables_ESS = targets.table(np.concatenate([targets.unit_KP, targets.basis_QP[1:]]))  # the constant is done by W
    mask_SS = targets.table(np.ones((1, n_pairs)))[0]
    complete = n_pairs == targets.n_stimuli * (targets.n_stimuli - 1) // 2
    laplacian_ESS = np.eye(targets.n_stimuli) * tables_ESS.sum(axis=2)[:, None] - tables_ESS
    forms = Forms(laplacian_ESS, mask_SS, mask_SS.sum(axis=1), complete)
    if backend == "torch":
        forms = _on_device(forms, device)

    def products(X_Sf: Table) -> PairProducts:
        by = _by_torch if backend == "torch" else _of_sparse if is_sparse(X_Sf) else _of_dense
        linear_Ef, total_f, squares_f, scale_f = by(X_Sf, forms)
        constant_1f = total_f[None] / np.sqrt(n_pairs) if centred else np.empty((0, X_Sf.shape[1]))
        basis_Qf = np.concatenate([constant_1f, linear_Ef[n_models:]])
        return PairProducts(linear_Ef[:n_models], basis_Qf, squares_f, scale_f)

    return products


def _of_dense(X_Sf: Any, forms: Forms) -> list[Any]:
    """sum E d, sum W d, sum W d^2 and its scale; the same lines for NumPy arrays and torch tensors."""
    laplacian_ESS, mask_SS, count_S, complete = forms
    X2_Sf = X_Sf * X_Sf
    product_ESf = laplacian_ESS @ X_Sf
    product_ESf *= X_Sf
    linear_Ef = product_ESf.sum(1)
    if complete:
        one_f, two_f, three_f, four_f = (Y_Sf.sum(0) for Y_Sf in (X_Sf, X2_Sf, X2_Sf * X_Sf, X2_Sf * X2_Sf))
        total_f, quartic_f = len(count_S) * two_f - one_f**2, (len(count_S) - 1) * four_f
        cubic_f, square_f = one_f * three_f - four_f, two_f**2 - four_f
    else:
        WX_Sf = mask_SS @ X_Sf
        total_f, quartic_f = count_S @ X2_Sf - (X_Sf * WX_Sf).sum(0), count_S @ (X2_Sf * X2_Sf)
        cubic_f, square_f = (X2_Sf * X_Sf * WX_Sf).sum(0), (X2_Sf * (mask_SS @ X2_Sf)).sum(0)
    return [linear_Ef, total_f, quartic_f - 4 * cubic_f + 3 * square_f, quartic_f + 4 * abs(cubic_f) + 3 * square_f]


def _on_device(forms: Forms, device: str) -> Forms:
    import torch  # heavy, and optional

    laplacian, mask, count = (torch.as_tensor(array, dtype=torch.float64, device=device) for array in forms[:-1])
    return Forms(laplacian, mask, count, forms.complete)


def _by_torch(X_Sf: Table, forms: Forms) -> list[Any]:
    import torch

    X_Sf = X_Sf.toarray() if is_sparse(X_Sf) else X_Sf
    tensor_Sf = torch.as_tensor(X_Sf, dtype=torch.float64, device=forms.count_S.device)
    return [result.cpu().numpy() for result in _of_dense(tensor_Sf, forms)]


def _of_sparse(X_Sf: Table, forms: Forms) -> list[Any]:
    """The same sums over the non-zeros of CSC columns, none of which is empty."""
    laplacian_ESS, mask_SS, count_S, complete = forms
    row_N, start_f, length_f = X_Sf.indices, X_Sf.indptr[:-1], np.diff(X_Sf.indptr)
    column_N = np.repeat(np.arange(X_Sf.shape[1]), length_f)
    x_N = X_Sf.data
    x2_N = x_N * x_N

    def at_nonzeros(tables_ESS: np.ndarray, Y_Sf: Table) -> np.ndarray:
        """Rows of tables @ Y at the non-zeros of X: [N, E]."""
        n_tables, n_stimuli, _ = tables_ESS.shape
        product_Ef = tables_ESS.reshape(n_tables * n_stimuli, n_stimuli) @ Y_Sf
        return product_Ef.T.reshape(-1, n_tables, n_stimuli)[column_N, :, row_N]

    def by_feature(value_N: np.ndarray) -> np.ndarray:
        return np.add.reduceat(value_N, start_f, axis=0)

    linear_fE = by_feature(at_nonzeros(laplacian_ESS, X_Sf) * x_N[:, None])
    if complete:
        Wx_N = np.repeat(by_feature(x_N), length_f) - x_N
        Wx2_N = np.repeat(by_feature(x2_N), length_f) - x2_N
    else:
        Wx_N, Wx2_N = (at_nonzeros(mask_SS[None], Y_Sf)[:, 0] for Y_Sf in (X_Sf, X_Sf * X_Sf))
    count_N = count_S[row_N]
    total_f = by_feature(count_N * x2_N - x_N * Wx_N)
    quartic_f, cubic_f = by_feature(count_N * x2_N * x2_N), by_feature(x2_N * x_N * Wx_N)
    square_f = by_feature(x2_N * Wx2_N)
    squares_f = quartic_f - 4 * cubic_f + 3 * square_f
    return [linear_fE.T, total_f, squares_f, quartic_f + 4 * np.abs(cubic_f) + 3 * square_f]
