"""Errors that are messages for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: what is wrong, where, what is allowed, and one suggestion.

    Commands print the message and exit with code 2, without a traceback.

    Parameters
    ----------
    what : str
        What is wrong, in one sentence.
    where : str, optional
        File and line, or the name of an argument; a command shows the option that stands for it.
    allowed : str, optional
        What would have been accepted.
    suggestion : str, optional
        One thing to do now. A command to copy stands on a line of its own, without a full stop.

    Examples
    --------
    >>> print(UserError("k is 0", where="k", allowed="integers from 1"))
    k: k is 0. Allowed: integers from 1.
    """

    def __init__(
        self, what: str, *, where: str | None = None, allowed: str | None = None, suggestion: str | None = None
    ) -> None:
        self.what, self.where, self.allowed, self.suggestion = what, where, allowed, suggestion
        message = what.rstrip(".") + "."
        if where:
            message = f"{where}: {message}"
        if allowed:
            message += f" Allowed: {allowed.rstrip('.')}."
        if suggestion:
            whole = suggestion.endswith("?") or "\n" in suggestion
            message += f" {suggestion}" if whole else f" {suggestion.rstrip('.')}."
        super().__init__(message)


def at_least(least: int, **values: float) -> None:
    """Refuse arguments that are too small.

    Examples
    --------
    >>> at_least(1, folds=5, repeats=0)
    Traceback (most recent call last):
    neurosae.errors.UserError: repeats: 0 is too small. Allowed: numbers from 1.
    """
    for name, value in values.items():
        if not value >= least:
            raise UserError(f"{value} is too small", where=name, allowed=f"numbers from {least}")


class CheckFailed(UserError):
    """A check that was asked for says no; commands exit with code 3."""


def unknown_name(kind: str, name: str, known: Iterable[str], *, where: str | None = None) -> UserError:
    """Error for a name that is not in a registry, with the nearest known one suggested.

    Examples
    --------
    >>> print(unknown_name("selector", "auroca", ["auroc", "t"]))
    Unknown selector 'auroca'. Allowed: auroc, t. Did you mean 'auroc'?
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    suggestion = f"Did you mean '{near[0]}'?" if near else None
    return UserError(f"Unknown {kind} '{name}'", where=where, allowed=", ".join(known), suggestion=suggestion)
