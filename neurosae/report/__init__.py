"""One HTML page per run: self-contained, from saved results alone.

``python -m neurosae.report RUN_DIR`` writes ``RUN_DIR/report.html``; it needs no network, neither to be made nor to be
read.
"""

from __future__ import annotations

from neurosae.report.page import write_report

__all__ = ["write_report"]
