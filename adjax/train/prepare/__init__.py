"""Preparing corpora for training at scale: known layouts, split lists with checksums, ArrayRecord files."""

from __future__ import annotations

from adjax.train.prepare.layouts import LAYOUTS, Recording, find
from adjax.train.prepare.lists import Listed, format_list, parse_list, read_lists
from adjax.train.prepare.packing import Summary, prepare

__all__ = [
    "LAYOUTS",
    "Listed",
    "Recording",
    "Summary",
    "find",
    "format_list",
    "parse_list",
    "prepare",
    "read_lists",
]
