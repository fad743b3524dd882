"""Measurements, as figures of one run on one machine; see ``python -m benchmarks --help``."""
