"""KITTI (Geiger et al., 2013) with the annotated depth of Uhrig et al., 2017: official parts or a split list."""

import re
from pathlib import Path

from .dataset_layouts import DepthTable, inside, read_split_list, table_of_pairs
from .depth_readers import FilePair
from .depth_samples import Intrinsics

KITTI_DEPTH_SCALE = 1 / 256
# Where photographs and annotated depth are looked for, relative to the folder.
_RAW_FOLDERS = ("", "raw")
_DEPTH_FOLDERS = ("", "data_depth_annotated")
_PARTS = ("", "train", "val")
_DRIVE = re.compile(r"(\d{4}_\d\d_\d\d)_drive_\d{4}_sync")


def open_kitti(
    root: Path, split: str | None, depth_scale: float | None = None, split_list: str | None = None
) -> DepthTable:
    """Photographs of the raw recordings with annotated depth (uint16 / 256).

        2011_09_26/calib_cam_to_cam.txt                                            (optional: the cameras)
        2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000005.png         (or below raw/)
        train/2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000005.png
                                                                                   (or below data_depth_annotated/)

    Without a list, `train` and `val` are the official parts of the annotated depth, with both colour cameras. A list
    (Eigen et al., 2014, as circulated) has lines `photograph depth focal`, where the depth is `None` for frames
    without ground truth, or `photograph` alone; a date folder in front and the suffix of photographs (.png, .jpg) are
    optional. Frames without ground truth are left out and counted. With a list, `split` says nothing.

    Args:
        root (`Path`): The folder.
        split (`str`, *optional*): `"train"`, `"val"`, or `None` for both.
        depth_scale (`float`, *optional*, defaults to 1/256): Metres per stored unit.
        split_list (`str`, *optional*): A file of such lines.

    Raises:
        ValueError: If there is no annotated depth, files are missing, or a path leaves the folder.
    """
    num_without_depth = 0
    if split_list is None:
        pairs = _official_pairs(root, split)
    else:
        listed = [_listed_pair(root, fields) for fields in read_split_list(root, split_list)]
        pairs = [(photograph, depth) for photograph, depth in listed if depth is not None]
        num_without_depth = len(listed) - len(pairs)
        if not pairs:
            raise ValueError(
                f"`split_list` is {split_list!r}, and none of its {len(listed)} frames has annotated depth in "
                f"{str(root)!r}; put data_depth_annotated/ there."
            )
    cameras: dict[Path, Intrinsics | None] = {}
    for photograph, _ in pairs:
        if photograph.parent not in cameras:
            cameras[photograph.parent] = _camera(root, photograph)
    scale = KITTI_DEPTH_SCALE if depth_scale is None else depth_scale
    return table_of_pairs(
        root,
        [
            FilePair(
                name=photograph.relative_to(root).as_posix(),
                rgb=photograph,
                depth=depth,
                scale=scale,
                intrinsics=cameras[photograph.parent],
            )
            for photograph, depth in pairs
        ],
        num_without_depth,
    )


def is_kitti(root: Path) -> bool:
    """Whether a folder has annotated depth, or recordings below folders of dates."""
    recordings = (drive for raw in _RAW_FOLDERS for drive in (root / raw).glob("????_??_??/*_drive_*"))
    return any(_annotated_drives(root, part) for part in _PARTS) or next(recordings, None) is not None


def _annotated_drives(root: Path, part: str) -> list[Path]:
    places = [root / folder / part for folder in _DEPTH_FOLDERS]
    return sorted(drive for place in places for drive in place.glob("*_drive_*") if (drive / "proj_depth").is_dir())


def _official_pairs(root: Path, split: str | None) -> list[tuple[Path, Path]]:
    if split not in (None, "train", "val"):
        raise ValueError(
            f"`split` is {split!r}, but KITTI's annotated depth has 'train' and 'val' only; for the test images of "
            "Eigen et al. pass their list as `split_list`."
        )
    parts = ("train", "val") if split is None else (split,)
    pairs = []
    for drive in (drive for part in parts for drive in _annotated_drives(root, part)):
        for depth in sorted(drive.glob("proj_depth/groundtruth/image_0[23]/*.png")):
            relative = f"{drive.name}/{depth.parent.name}/data/{depth.name}"
            pairs.append((_photograph(root, relative), depth))
    if not pairs:
        raise ValueError(
            f"`source` is {str(root)!r}, and neither it nor its data_depth_annotated/ has annotated depth in "
            f"{' or '.join(parts)}/; complete it, or pass `split_list`."
        )
    return pairs


def _listed_pair(root: Path, fields: list[str]) -> tuple[Path, Path | None]:
    relative = fields[0].lstrip("/")
    photograph = _photograph(root, relative)
    given = fields[1] if len(fields) > 1 and not re.fullmatch(r"[\d.]+", fields[1]) else None
    if given == "None":
        return photograph, None
    if given is not None:
        return photograph, _depth_map(root, given.lstrip("/"))
    drive = _DRIVE.search(relative)
    if drive is None:
        raise ValueError(f"the path {relative!r} names no drive, so its depth map must be listed after it.")
    camera = "image_03" if "image_03" in relative else "image_02"
    depth = _depth_map(root, f"{drive[0]}/proj_depth/groundtruth/{camera}/{Path(relative).stem}.png")
    return photograph, depth if depth.is_file() else None


def _photograph(root: Path, relative: str) -> Path:
    drive = _DRIVE.match(relative)
    dates = ("", f"{drive[1]}/") if drive else ("",)  # lists without the date name the drive first
    places = [inside(root, f"{raw}/{date}{relative}".lstrip("/")) for raw in _RAW_FOLDERS for date in dates]
    other_suffix = ".jpg" if places[0].suffix == ".png" else ".png"
    return _first_there([*places, *(place.with_suffix(other_suffix) for place in places)])


def _depth_map(root: Path, relative: str) -> Path:
    return _first_there(
        [inside(root, f"{folder}/{part}/{relative}".lstrip("/")) for folder in _DEPTH_FOLDERS for part in _PARTS]
    )


def _first_there(places: list[Path]) -> Path:
    return next((place for place in places if place.is_file()), places[0])


def _camera(root: Path, photograph: Path) -> Intrinsics | None:
    """The rectified colour camera, from the calibration file of the day above the drive."""
    for folder in photograph.relative_to(root).parents:
        calibration = root / folder / "calib_cam_to_cam.txt"
        if calibration.is_file():
            break
    else:
        return None
    key = "P_rect_03:" if photograph.parent.parent.name == "image_03" else "P_rect_02:"
    for line in calibration.read_text().splitlines():
        if line.startswith(key):
            try:
                fx, _, cx, _, _, fy, cy = [float(number) for number in line.split()[1:8]]
            except ValueError:
                raise ValueError(f"{str(calibration)!r} has no twelve numbers after {key!r}.") from None
            return Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy)
    return None
