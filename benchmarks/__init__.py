"""Speed and memory of the pipeline beside the usual ways; run ``python -m benchmarks``."""
