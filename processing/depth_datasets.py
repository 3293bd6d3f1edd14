"""Data sets of photographs with measured depth over `datasets`: map-style and streaming, decoded when asked."""

import copy
import hashlib
import operator
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch.utils.data

from .depth_readers import DepthReader
from .depth_samples import DepthSample, import_extra
from .depth_units import DepthReport, depth_report

if TYPE_CHECKING:
    import datasets


class _DecodedRows:
    """What both kinds of data set share: a table, the reader of its rows, and the report on its depth."""

    def __init__(
        self,
        rows: "datasets.Dataset | datasets.IterableDataset",
        reader: DepthReader,
        depth_scale: float | None = None,
        num_without_depth: int = 0,
    ):
        self.rows = rows
        self.reader = reader
        self.depth_scale = depth_scale
        self.num_without_depth = num_without_depth
        self._report: DepthReport | None = None

    @property
    def report(self) -> DepthReport:
        """Median, range and coverage of the depth of 32 samples (the first ones of a stream); read once."""
        if self._report is None:
            self._report = depth_report(self)
        return self._report

    def shard(self, num_shards: int, index: int):
        """The part of one node out of `num_shards`: disjoint, together everything. Shuffle a stream before.

        Raises:
            ValueError: If `index` is not one of 0 ... `num_shards - 1`.
        """
        if not 0 <= index < num_shards:
            raise ValueError(f"`index` is {index}; of {num_shards} shards, pass one of 0 to {num_shards - 1}.")
        split_by_node = import_extra("datasets.distributed").split_dataset_by_node
        return self._over(split_by_node(self.rows, rank=index, world_size=num_shards))

    def _over(self, rows):
        other = copy.copy(self)
        other.rows, other._report = rows, None
        return other


class DepthDataset(_DecodedRows, torch.utils.data.Dataset):
    """A map-style data set of [`DepthSample`]: a table of rows, and a reader that decodes one when it is asked for.

    [`load_depth_dataset`] makes them. They can be pickled, so the workers of a `DataLoader` may be spawned.

    Args:
        rows (`datasets.Dataset`): One row for each sample.
        reader ([`DepthReader`]): Turns a row into a sample.
        depth_scale (`float`, *optional*): Metres per stored unit as declared, `None` if it differs between rows.
        num_without_depth (`int`, *optional*, defaults to 0): Photographs that a list names without ground truth and
            that are therefore no samples; a card that says "652 of 697 images" needs the number.
    """

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> DepthSample:
        """Decode one sample.

        Raises:
            IndexError: If there is no such sample; negative indices count from the end.
            ValueError: If a file cannot be decoded, or photograph and depth differ in shape by more than 2 %.
        """
        return self.reader.sample(self.rows[operator.index(index)])

    def depth(self, index: int) -> np.ndarray:
        """The depth of one sample, float32 `(height, width)` in metres, 0 missing; its photograph is decoded only
        where it is stored on its side."""
        return self.reader.depth(self.rows[operator.index(index)])

    def depth_maps(self) -> Iterator[np.ndarray]:
        """The depth of all samples, in order."""
        return (self.depth(index) for index in range(len(self)))

    @property
    def names(self) -> list[str]:
        """The name of each sample, in order."""
        return list(self.rows.with_format(None)["name"])

    def select(self, indices: Iterable[int]) -> "DepthDataset":
        """The samples at these positions, in this order; negative ones count from the end."""
        positions = range(len(self))
        return self._over(self.rows.select([positions[index] for index in indices]))

    def few_shot(self, shots: int | float, seed: int = 0) -> "DepthDataset":
        """A random subset that contains every smaller one of the same seed: 10 shots lie inside 50 shots.

        Samples are ranked by the SHA-256 of seed and name, and the first ones are taken, in the order of this data
        set. The subset depends on nothing else: neither on the platform nor on the version of a random generator.

        Args:
            shots (`int` or `float`): Number of samples, or a share of them between 0 and 1 (rounded, at least one).
            seed (`int`, *optional*, defaults to 0): Which ranking.

        Raises:
            ValueError: If `shots` is not positive, more than there are, or a share of 1 or above.
        """
        if isinstance(shots, float):
            if not 0 < shots < 1:
                raise ValueError(f"`shots` is {shots}; pass a share between 0 and 1, or a number of samples as `int`.")
            shots = max(1, round(shots * len(self)))
        if not 1 <= shots <= len(self):
            raise ValueError(f"`shots` is {shots}, but there are {len(self)} samples; take 1 to {len(self)}.")
        names = self.names
        ranks = [hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in names]
        first = sorted(range(len(names)), key=lambda position: (ranks[position], position))[:shots]
        return self.select(sorted(first))


class StreamingDepthDataset(_DecodedRows, torch.utils.data.IterableDataset):
    """An iterable data set of [`DepthSample`]: rows arrive one after the other, and none is kept.

    `load_depth_dataset(..., streaming=True)` makes them. The workers of a `DataLoader` share the samples among
    themselves, and no sample comes twice. Data has a number of shards (files on the Hub); workers beyond it idle.

    Args:
        rows (`datasets.IterableDataset`): One row for each sample.
        reader ([`DepthReader`]): Turns a row into a sample.
        depth_scale (`float`, *optional*): As in [`DepthDataset`].
        num_without_depth (`int`, *optional*, defaults to 0): As in [`DepthDataset`].
    """

    def __iter__(self) -> Iterator[DepthSample]:
        return (self.reader.sample(row) for row in self.rows)

    def depth_maps(self) -> Iterator[np.ndarray]:
        """The depth of all samples, in order, as [`DepthDataset.depth`] gives it."""
        return (self.reader.depth(row) for row in self.rows)

    def shuffle(self, seed: int = 0, buffer_size: int = 256) -> "StreamingDepthDataset":
        """Shuffle the shards, and draw from a buffer of encoded rows; each epoch differs, see `set_epoch`."""
        return self._over(self.rows.shuffle(seed=seed, buffer_size=buffer_size))

    def take(self, num_samples: int) -> "StreamingDepthDataset":
        """The first samples of the stream."""
        return self._over(self.rows.take(num_samples))

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next: a shuffled stream has another order in each, the same on every node."""
        self.rows.set_epoch(epoch)
