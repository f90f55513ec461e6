"""One runnable module per study: ``python -m experiments.combinatorial --help``."""

import os
import sys
from types import TracebackType

from neurosae.hub_access import use_dotenv

use_dotenv()
os.environ.setdefault("MPLBACKEND", "Agg")  # commands draw into files, never into a window


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a command is still being imported ends without a traceback, too."""
    if issubclass(kind, KeyboardInterrupt):
        print("Stopped before it began.", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _told
