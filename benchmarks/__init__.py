"""Speed against peers, paired in one process: ``python -m benchmarks.<name>``."""
