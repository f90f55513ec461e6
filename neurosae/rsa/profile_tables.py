"""Tables of time courses, dense [S, W, F] or sparse [S*W, F]: shapes that fit and finite values, or a message."""

from __future__ import annotations

from typing import Any

import numpy as np

from neurosae.errors import UserError
from neurosae.rsa.results import Table, canonical, refuse_value


def sparse_profiles(P_NF: Table, defined_SW: np.ndarray) -> tuple[Table, np.ndarray]:
    """Return a CSC table without explicit zeros and the mask, or say what is wrong with them."""
    if defined_SW.ndim != 2 or P_NF.ndim != 2 or P_NF.shape[0] != defined_SW.size:
        raise UserError(
            f"the sparse table of profiles has shape {P_NF.shape} and their mask {defined_SW.shape}",
            allowed="[stimuli x positions, features] and [stimuli, positions]",
            suggestion="Write one row per stimulus and position, those of the first stimulus first",
        )
    P_NF = canonical(P_NF)
    if not P_NF.data.all():
        P_NF = P_NF.copy()
        P_NF.eliminate_zeros()
    bad = np.flatnonzero(~np.isfinite(P_NF.data))
    bad = bad[defined_SW.ravel()[P_NF.indices[bad]]]
    if len(bad):
        feature = int(np.searchsorted(P_NF.indptr, bad[0], "right")) - 1
        refuse_value(P_NF.data[bad[0]], int(P_NF.indices[bad[0]]) // defined_SW.shape[1], feature)
    return P_NF, defined_SW


def dense_profiles(P_SWF: Any, defined_SW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the profiles as an array and the mask, or say what is wrong with them."""
    P_SWF = np.asarray(P_SWF)
    if P_SWF.ndim != 3 or defined_SW.shape != P_SWF.shape[:2]:
        raise UserError(
            f"profiles have shape {P_SWF.shape} and their mask {defined_SW.shape}",
            allowed="[stimuli, positions, features] and [stimuli, positions]",
        )
    for s, P_WF in enumerate(P_SWF):
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(P_WF.sum()):  # one quick pass; the sum may also overflow, or hold undefined positions
                continue
        bad_WF = ~np.isfinite(P_WF) & defined_SW[s][:, None]
        if bad_WF.any():
            w, f = np.argwhere(bad_WF)[0]
            refuse_value(P_WF[w, f], s, f)
    return P_SWF, defined_SW
