"""Two data sets in one folder, and a tiny base: enough for every study from end to end."""

from pathlib import Path

import pytest

from llm_mde.hub import write_model_folder
from llm_mde.processing import write_depth_png
from tests.conftest import make_pair
from tests.processing.data_folders import index_row, write_index
from tests.training.conftest import make_frames

# Parts of the index: (data set, split, number of frames).
PARTS = (("room", "train", 8), ("room", "val", 4), ("street", "train", 2), ("street", "val", 1))


def write_data(folder: Path) -> Path:
    """Frames with an index.csv; every second one has something near in the middle, so that it is complex."""
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    rows = []
    frames = iter(make_frames(sum(count for *_, count in PARTS), size=(24, 32)))
    for dataset, split, count in PARTS:
        for number in range(count):
            frame, stem = next(frames), f"{dataset}-{split}-{number}"
            if number % 2:
                frame.depth[8:16, 8:24] /= 2
            frame.image.save(folder / "rgb" / f"{stem}.png")
            write_depth_png(folder / "depth" / f"{stem}.png", frame.depth)
            rows.append(index_row(stem, dataset=dataset, split=split, invalid_raw_values="0"))
    write_index(folder, rows)
    return folder


@pytest.fixture(scope="session")
def studied_data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("studies") / "frames")


@pytest.fixture(scope="session")
def studied_base(tmp_path_factory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("studies") / "base", *make_pair())
