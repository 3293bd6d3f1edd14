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
    photographs = _photographs(measured)
    wanted = {path.name for path in photographs}
    by_look: dict[tuple[str, int], list[Path]] = {}  # in raw NYU, a name stands in hundreds of folders
    for path in _photographs(trained):
        if path.name in wanted:
            by_look.setdefault((path.name, path.stat().st_size), []).append(path)
    for name, path in zip(measured.names, photographs, strict=True):
        alike = by_look.get((path.name, path.stat().st_size), [])
        if any(path == other or filecmp.cmp(path, other, shallow=False) for other in alike):
            return name
    return None


def _photographs(frames: DepthDataset) -> list[Path]:
    return [Path(path) for path in frames.rows.with_format(None)["rgb"]]


__all__ = ["shared_frame"]
