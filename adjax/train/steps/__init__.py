"""Training steps as pure per-device functions."""

from adjax.train.steps.procedures import Phase, adversarial_step, kmeans_step, make_step, metric_step, phase

__all__ = ["Phase", "adversarial_step", "kmeans_step", "make_step", "metric_step", "phase"]
