"""A page to listen to, in one file: what `adjax evaluate`, `adjax benchmark` and training runs left, in a browser."""

from adjax.report.benchmarks import read_benchmark
from adjax.report.evaluation import Evaluation, read_evaluation
from adjax.report.page import Settings, build_page
from adjax.report.runs import read_run

__all__ = ["Evaluation", "Settings", "build_page", "read_benchmark", "read_evaluation", "read_run"]
