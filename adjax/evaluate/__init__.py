"""Objective quality of models and of decoded files against natural ones (docs/quality.md)."""

from adjax.evaluate.output import report, write_results
from adjax.evaluate.run import evaluate
from adjax.evaluate.systems import decoded_system, find_items, model_systems, opus_systems

__all__ = [
    "decoded_system",
    "evaluate",
    "find_items",
    "model_systems",
    "opus_systems",
    "report",
    "write_results",
]
