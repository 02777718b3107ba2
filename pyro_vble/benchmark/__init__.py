"""Methods side by side on the same measurements: run, resume, report."""

from pyro_vble.benchmark.settings import Benchmark, load_benchmark

__all__ = ["Benchmark", "load_benchmark"]
