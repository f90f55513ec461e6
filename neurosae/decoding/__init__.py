"""Decoding: variants of selector and small linear ensemble, cross-validated, fitted, carried over to other contexts."""

from __future__ import annotations

from neurosae.decoding.cross_validation import DecodingResult, decode
from neurosae.inference.design import Design, leave_one_domain_out, make_design, make_folds
from neurosae.inference.heldout import HeldOut, auroc, balanced_accuracy

__all__ = [
    "DecodingResult",
    "Design",
    "HeldOut",
    "auroc",
    "balanced_accuracy",
    "decode",
    "leave_one_domain_out",
    "make_design",
    "make_folds",
]
