"""Progress of long work: a bar on a terminal or in a notebook, a line of the log now and then elsewhere."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm
from tqdm.std import tqdm as plain_tqdm

log = logging.getLogger(__name__)
_SECONDS = 30.0  # between two lines


def progress_bar(iterable: Iterable[Any] | None = None, *, shown: bool = True, **about: Any) -> Any:
    """A bar of `tqdm`, which suits where stderr goes; disabling the logger ``neurosae.progress`` silences all of them.

    Parameters
    ----------
    iterable : iterable, optional
        What to go through; without it, call ``update``.
    shown : bool, default True
    **about
        As `tqdm` takes them: total, initial, desc, unit, unit_scale.

    Examples
    --------
    >>> sum(progress_bar([1, 2, 3], shown=False))
    6
    """
    if not shown or log.disabled:
        return tqdm(iterable, disable=True, **about)
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return tqdm(iterable, **about)
    nowhere = io.StringIO()  # for the line end that a bar leaves behind
    return _Lines(iterable, file=nowhere, mininterval=_SECONDS, maxinterval=_SECONDS, **about)


class _Lines(plain_tqdm):  # type: ignore[type-arg, misc, unused-ignore]
    """What a bar would show, as lines of the log."""

    _saying = False
    _said = 0

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Say how far it is; nothing before the first step, and nothing of what is done at once."""
        about = self.format_dict
        if self._saying:  # a handler that writes around bars redraws them
            return
        if about["n"] > max(about["initial"], self._said) and about["elapsed"] >= 1:
            whole = f" of {about['total']:,}" if about["total"] else ""
            took = plain_tqdm.format_interval(about["elapsed"])
            self._saying, self._said = True, about["n"]
            log.info("%s: %s%s %s, %s so far", self.desc.rstrip(": "), f"{about['n']:,}", whole, about["unit"], took)
            self._saying = False
