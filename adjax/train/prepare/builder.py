"""The form of a prepared set's records, as a builder of tensorflow-datasets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from adjax.train.data.prepared import VERSION, Prepared
from adjax.train.prepare.layouts import Recording


def make_builder(
    folder: Path,
    marker: Prepared,
    plan: dict[str, list[list[Recording]]],
    examples: Callable[[str, Sequence[Recording]], Iterator[tuple[str, dict[str, Any]]]],
) -> Any:
    """A builder of tensorflow-datasets that writes what `examples` gives for each shard of each split, in that order.

    Shard by shard, because its generator-based sibling shuffles, for which it needs TensorFlow from 1 GiB on.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    logging.getLogger("absl").setLevel(logging.WARNING)

    class Speech(tfds.core.ShardBasedBuilder, skip_registration=True):
        name = marker.name
        VERSION = tfds.core.Version(VERSION)
        url_infos: ClassVar[dict[str, Any]] = {}  # nothing to download; else looked for beside the code

        def _info(self) -> Any:
            text, features = tfds.features.Text(), tfds.features
            return tfds.core.DatasetInfo(
                builder=self,
                description="Audio prepared by adjax: consecutive segments of recordings, a record each.",
                metadata=tfds.core.MetadataDict(
                    sample_rate_hz=marker.sample_rate_hz, segment_samples=marker.segment_samples, layout=marker.layout
                ),
                features=features.FeaturesDict(
                    {
                        "audio": features.Tensor(
                            shape=(None, None), dtype=np.int16, encoding=features.Encoding.BYTES
                        ),  # [samples, channels]
                        "id": text,
                        "file": text,
                        "speaker": text,
                        "start": np.int64,  # of the segment in its recording, in samples
                        "sample_rate_hz": np.int32,
                    }
                ),
            )

        def _shard_iterators_per_split(self, dl_manager: Any) -> Any:
            return {
                split: [lambda split=split, shard=shard: examples(split, shard) for shard in shards]
                for split, shards in plan.items()
            }

    return Speech(data_dir=folder, file_format="array_record")
