"""One runnable module per study: ``python -m experiments.combinatorial --help``."""

import os

from neurosae.hub_access import use_dotenv

use_dotenv()
os.environ.setdefault("MPLBACKEND", "Agg")  # commands draw into files, never into a window
