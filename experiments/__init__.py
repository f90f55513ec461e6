"""One runnable module per study: ``python -m experiments.combinatorial --help``."""

from neurosae.hub_access import use_dotenv

use_dotenv()
