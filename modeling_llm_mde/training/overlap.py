"""Frames that are trained on and measured with: an error on them says what was learnt by heart."""

import filecmp
from pathlib import Path
from typing import Any

from llm_mde.processing import DepthDataset, StreamingDepthDataset
from llm_mde.processing.depth_readers import FileReader

Frames = DepthDataset | StreamingDepthDataset


def shared_frame(trained: Frames, trained_data: Any, measured: Frames, measured_data: Any) -> str | None:
    """
    The name of a frame that is in both sets, or `None`. Photographs in files are the same if name and content are,
    rows of a table if their name is and the table. A stream is not looked through.

    Args:
        trained, measured ([`DepthDataset`] or [`StreamingDepthDataset`]): The two sets.
        trained_data, measured_data (`DataArguments`): What they were loaded by.
    """
    if not all(isinstance(frames, DepthDataset) for frames in (trained, measured)):
        return None
    if not all(isinstance(frames.reader, FileReader) for frames in (trained, measured)):
        same_data = (trained_data.data, trained_data.data_config) == (measured_data.data, measured_data.data_config)
        return next(iter(set(trained.names) & set(measured.names)), None) if same_data else None
    by_name: dict[str, list[Path]] = {}
    for path in _photographs(trained):
        by_name.setdefault(path.name, []).append(path)
    for name, path in zip(measured.names, _photographs(measured), strict=True):
        for other in by_name.get(path.name, []):
            if path == other or filecmp.cmp(path, other, shallow=False):  # of files of one size alone
                return name
    return None


def _photographs(frames: DepthDataset) -> list[Path]:
    return [Path(path) for path in frames.rows.with_format(None)["rgb"]]


__all__ = ["shared_frame"]
