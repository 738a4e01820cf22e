"""Training crops from files and prepared sets: where they are, how they are read, mixed and changed."""

from __future__ import annotations

from adjax.train.data.augment import lead_samples
from adjax.train.data.crops import Batch, batches, crops, drawn_samples, heard
from adjax.train.data.pairs import pair
from adjax.train.data.prepared import Damaged
from adjax.train.data.reading import hold, read_span
from adjax.train.data.sources import SUFFIXES, Report, Source, find_audio, read_header, scan

__all__ = [
    "SUFFIXES",
    "Batch",
    "Damaged",
    "Report",
    "Source",
    "batches",
    "crops",
    "drawn_samples",
    "find_audio",
    "heard",
    "hold",
    "lead_samples",
    "pair",
    "read_header",
    "read_span",
    "scan",
]
