"""Flags that name data, shared by every command that reads photographs with measured depth."""

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from transformers.utils import logging

if TYPE_CHECKING:
    from llm_mde.processing import DepthDataset, StreamingDepthDataset

logger = logging.get_logger(__name__)


@dataclass
class DataArguments:
    """Which photographs with measured depth to train on and to measure with; see `load_depth_dataset`."""

    data: str | None = field(
        default=None, metadata={"help": "Folder of RGB-D frames, NYU's labelled .mat file, or id of a Hub data set."}
    )
    layout: str | None = field(
        default=None,
        metadata={
            "help": "index, pairs, nyu_labelled, nyu_raw, kitti, sun_rgbd, diode, tum_rgbd or hub; recognised by "
            "default."
        },
    )
    train_split: str = field(default="train", metadata={"help": "Part to train on; 'all' for everything."})
    eval_split: str = field(default="val", metadata={"help": "Part to measure with; 'all' for everything."})
    dataset: str | None = field(default=None, metadata={"help": "Only rows of this data set (index.csv)."})
    depth_scale: float | None = field(
        default=None, metadata={"help": "Metres per stored unit, such as 0.001; benchmarks and index.csv know theirs."}
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of photographs (Hub data sets)."})
    depth_column: str | None = field(default=None, metadata={"help": "Column of depth maps (Hub data sets)."})
    data_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    data_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub data set."})
    train_split_list: str | None = field(
        default=None, metadata={"help": "File that lists the pairs to train on (KITTI, NYU raw), instead of a split."}
    )
    eval_split_list: str | None = field(
        default=None, metadata={"help": "File that lists the pairs to measure with, such as Eigen's test images."}
    )
    kb_crop: bool = field(default=False, metadata={"help": "Whether to cut to KITTI's 352 x 1216 pixels."})
    streaming: bool = field(default=False, metadata={"help": "Whether to read row by row, without a copy on disk."})
    shots: str | None = field(
        default=None,
        metadata={"help": "Train on so few samples, a number ('10') or a share ('5%%'); fewer lie inside more."},
    )
    shots_seed: int | None = field(
        default=None, metadata={"help": "Which samples these are; by default what --seed says, or 42."}
    )
    allow_implausible_depth: bool = field(
        default=False, metadata={"help": "Whether to accept a median depth outside 0.2 m to 80 m."}
    )

    def __post_init__(self):
        if self.shots is not None:
            _parse_shots(self.shots)
        if self.streaming and self.shots is not None:
            raise ValueError(
                f"`shots` is {self.shots!r} and `streaming` is on, but a random subset needs all names at once and a "
                "stream does not know them; leave `streaming` out, few samples need no stream."
            )

    def load_train(self, seed: int = 42) -> "DepthDataset | StreamingDepthDataset":
        """
        The training set, or the few-shot subset of it; a stream is shuffled, as no sampler can do so.

        The depth report is logged, and kept as `.report`.

        Args:
            seed (`int`, *optional*, defaults to 42, the Trainer's): Of a few-shot subset, unless `shots_seed` is
                given, and of the order of a stream, which `set_epoch` changes.

        Raises:
            ValueError: If the data is not given, not found, or implausible, or has fewer samples than `shots`.
        """
        frames = self._load("train_split", self.train_split, "train_split_list", self.train_split_list)
        if self.streaming:
            return frames.shuffle(seed)
        if self.shots is not None:
            seed = seed if self.shots_seed is None else self.shots_seed
            frames = frames.few_shot(_parse_shots(self.shots), seed)
            logger.info(f"few shots ({self.shots}, seed {seed}): {len(frames)} samples, {frames.report}")
        return frames

    def load_eval(self) -> "DepthDataset | StreamingDepthDataset":
        """
        The set to measure with.

        The depth report is logged, and kept as `.report`.

        Raises:
            ValueError: If the data is not given, not found, or implausible.
        """
        return self._load("eval_split", self.eval_split, "eval_split_list", self.eval_split_list)

    def of_another_set(
        self, data: str, layout: str | None = None, dataset: str | None = None, depth_scale: float | None = None
    ) -> "DataArguments":
        """The same splits, lists and crops of another folder or Hub id, which nothing else here describes."""
        not_its = ("image_column", "depth_column", "data_config", "data_revision")
        described = {"data": data, "layout": layout, "dataset": dataset, "depth_scale": depth_scale}
        return replace(self, **described, **dict.fromkeys(not_its))

    def _load(self, split_flag: str, split: str, list_flag: str, split_list: str | None):
        from llm_mde.processing import load_depth_dataset

        if self.data is None:
            raise ValueError("`data` is not given; pass `--data` with a folder of RGB-D frames or a Hub data set.")
        try:
            frames = load_depth_dataset(
                self.data,
                self.layout,
                None if split == "all" else split,
                dataset=self.dataset,
                depth_scale=self.depth_scale,
                image_column=self.image_column,
                depth_column=self.depth_column,
                config_name=self.data_config,
                revision=self.data_revision,
                split_list=split_list,
                kb_crop=self.kb_crop,
                streaming=self.streaming,
                check_units=not self.allow_implausible_depth,
            )
        except ValueError as error:
            chosen = f"--{split_flag} {split}" if split_list is None else f"--{list_flag} {split_list}"
            raise ValueError(f"{chosen}: {error}") from error
        if self.allow_implausible_depth:
            logger.info(f"{self.data} ({split_list or split}), units unchecked: {frames.report}")
        return frames


def _parse_shots(shots: str) -> int | float:
    if re.fullmatch(r"\d+", shots) and int(shots) > 0:
        return int(shots)
    share = re.fullmatch(r"(\d+\.?\d*)\s*%", shots)
    if share and 0 < float(share[1]) < 100:
        return float(share[1]) / 100
    raise ValueError(f"`shots` is {shots!r}; write a number of samples ('10') or a share of them ('5%').")


__all__ = ["DataArguments"]
