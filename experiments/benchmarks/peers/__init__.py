"""Ours and other registration tools side by side: ``python -m experiments.benchmarks.peers``."""
