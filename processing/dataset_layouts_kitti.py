"""KITTI (Geiger et al., 2013) with the annotated depth of Uhrig et al., 2017: official parts or a split list."""

import re
from pathlib import Path

from transformers.utils import logging

from .dataset_layouts import DepthTable, inside, read_split_list, table_of_pairs
from .depth_readers import FilePair
from .depth_samples import Intrinsics

logger = logging.get_logger(__name__)

KITTI_DEPTH_SCALE = 1 / 256
# Where photographs and annotated depth are looked for, relative to the folder.
_RAW_FOLDERS = ("", "raw")
_DEPTH_FOLDERS = ("", "data_depth_annotated")
_PARTS = ("", "train", "val")
_DRIVE = re.compile(r"(\d{4}_\d\d_\d\d)_drive_\d{4}_sync")
_PHOTOGRAPH = re.compile(r"(^|/)image_0[23]/data/[^/]+$")
_SIDES = {"l": "image_02", "r": "image_03"}


def open_kitti(
    root: Path, split: str | None, depth_scale: float | None = None, split_list: str | None = None
) -> DepthTable:
    """Photographs of the raw recordings with annotated depth (uint16 / 256).

        2011_09_26/calib_cam_to_cam.txt                                            (optional: the cameras)
        2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000005.png         (or below raw/)
        train/2011_09_26_drive_0001_sync/proj_depth/groundtruth/image_02/0000000005.png
                                                                                   (or below data_depth_annotated/)

    Without a list, `train` and `val` are the official parts of the annotated depth, with both colour cameras. The
    annotated depth is one archive and the recordings come one by one: those whose photographs are not there are left
    out, with a warning. A list (Eigen et al., 2014, as circulated) has lines of one of these kinds:

        photograph depth focal         the depth is `None` for frames without ground truth (BTS)
        photograph                     or with its focal length; the depth has the same drive, camera and number
        left right                     both photographs of a stereo pair, of which the first counts (monodepth)
        drive number l                 or r: the frame of the left or right camera, image_02 or image_03 (monodepth2)

    A date folder in front and the suffix of photographs (.png, .jpg) are optional. Frames without ground truth are
    left out and counted. With a list, `split` says nothing.

    Args:
        root (`Path`): The folder.
        split (`str`, *optional*): `"train"`, `"val"`, or `None` for both.
        depth_scale (`float`, *optional*, defaults to 1/256): Metres per stored unit.
        split_list (`str`, *optional*): A file of such lines.

    Raises:
        ValueError: If there is no annotated depth, no recording of it is there, files are missing, a line of the list
            cannot be read, or a path leaves the folder.
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
                f"{str(root)!r}, the first {listed[0][0].relative_to(root).as_posix()!r}; put the drives of the list "
                "into data_depth_annotated/ there, or pass a list of other frames."
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
    annotated = [
        folder
        for part in parts
        for drive in _annotated_drives(root, part)
        for folder in sorted(drive.glob("proj_depth/groundtruth/image_0[23]"))
    ]
    pairs, absent = [], []
    for folder in annotated:
        drive, camera = folder.parents[2].name, folder.name
        photographs = _first_there(_raw_places(root, f"{drive}/{camera}/data"))
        if not photographs.is_dir():
            absent.append(f"{drive}/{camera}")
            continue
        for depth in sorted(folder.glob("*.png")):
            if not depth.name.startswith("."):
                pairs.append((_first_there(_either_suffix(photographs / depth.name)), depth))
    if absent:
        found = (
            f"The photographs of {len(absent)} of {len(annotated)} recordings (drive and camera) with annotated depth "
            f"are not in {str(root)!r}, the first of {absent[0]!r}"
        )
        if not pairs:
            raise ValueError(
                f"{found}; put the raw recordings there, below folders of dates such as {absent[0][:10]}/."
            )
        logger.warning(f"{found}; left out.")
    if not pairs:
        raise ValueError(
            f"`source` is {str(root)!r}, and neither it nor its data_depth_annotated/ has annotated depth in "
            f"{' or '.join(parts)}/; complete it, or pass `split_list`."
        )
    return pairs


def _listed_pair(root: Path, fields: list[str]) -> tuple[Path, Path | None]:
    if len(fields) == 3 and fields[1].isdecimal() and fields[2] in _SIDES:
        fields = [f"{fields[0].rstrip('/')}/{_SIDES[fields[2]]}/data/{int(fields[1]):010d}.png"]
    relative = fields[0].lstrip("/")
    places = [variant for place in _raw_places(root, relative) for variant in _either_suffix(place)]
    photograph = _first_there(places)
    given = fields[1] if len(fields) > 1 and not re.fullmatch(r"[\d.]+", fields[1]) else None
    if given == "None":
        return photograph, None
    # The other photograph of a stereo pair may stand where other lists name the depth.
    if given is not None and ("proj_depth" in given or not _PHOTOGRAPH.search(given)):
        return photograph, _depth_map(root, given.lstrip("/"))
    drive = _DRIVE.search(relative)
    if drive is None or drive.end() == len(relative.rstrip("/")):
        raise ValueError(
            f"the path {relative!r} names no frame of a drive, so its depth map must be listed after it, or its "
            "number and its camera (l or r) after a drive."
        )
    camera = "image_03" if "image_03" in relative else "image_02"
    depth = _depth_map(root, f"{drive[0]}/proj_depth/groundtruth/{camera}/{Path(relative).stem}.png")
    return photograph, depth if depth.is_file() else None


def _raw_places(root: Path, relative: str) -> list[Path]:
    drive = _DRIVE.match(relative)
    dates = ("", f"{drive[1]}/") if drive else ("",)  # lists without the date name the drive first
    return [inside(root, f"{raw}/{date}{relative}".lstrip("/")) for raw in _RAW_FOLDERS for date in dates]


def _either_suffix(photograph: Path) -> list[Path]:
    """Recordings come in PNG, and many keep them in JPEG, whatever their lists say."""
    return [photograph, photograph.with_suffix(".png"), photograph.with_suffix(".jpg")]


def _depth_map(root: Path, relative: str) -> Path:
    return _first_there(
        [inside(root, f"{folder}/{part}/{relative}".lstrip("/")) for folder in _DEPTH_FOLDERS for part in _PARTS]
    )


def _first_there(places: list[Path]) -> Path:
    return next((place for place in places if place.exists()), places[0])


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
                return Intrinsics(fx=fx, fy=fy, cx=cx, cy=cy)
            except ValueError:
                raise ValueError(f"{str(calibration)!r} has no twelve numbers of a camera after {key!r}.") from None
    return None
