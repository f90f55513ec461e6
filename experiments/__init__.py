"""One runnable module per study: ``python -m experiments.<name> --help``."""
