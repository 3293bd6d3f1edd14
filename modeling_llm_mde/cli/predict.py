"""`llm-mde predict`: depth of many photographs, written to files; a run that was interrupted goes on where it was."""

import importlib.util
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import torch

from llm_mde.prediction import predict_photographs
from llm_mde.prediction_files import POINT_SETTINGS, SUFFIXES, PredictionLog, model_digest
from llm_mde.processing import Intrinsics
from llm_mde.processing.depth_files import LARGEST_PNG_DEPTH
from llm_mde.processing.photographs import (
    PHOTOGRAPH_SUFFIXES,
    Camera,
    PhotographFile,
    PhotographOfSample,
    ReadPhotograph,
    find_photographs,
    photographs_of_samples,
)
from llm_mde.processing.point_clouds import check_principal_point, intrinsics_from_fov

from .arguments import parse_arguments
from .data_arguments import DataArguments

if TYPE_CHECKING:
    from accelerate import PartialState

    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor

ASSUMED_FOV = 60.0
ASSUMED = f"an assumed horizontal field of view of {ASSUMED_FOV:g} degrees"
MAX_PROBLEMS_SHOWN = 20
_OF_TRAINING = ("train_split", "train_split_list", "shots", "shots_seed")
# What a data set makes of one stored photograph depends on these.
_OF_STORED_PHOTOGRAPHS = ("data", "data_config", "data_revision", "image_column", "kb_crop")


@dataclass
class PredictArguments:
    """What to predict, with which model, and what to write."""

    model: str = field(metadata={"help": "Folder or Hub id of a model, or of an adapter."})
    images: list[str] = field(
        default_factory=list,
        metadata={"help": "Files, folders and quoted patterns; the flag may be left out in front of all others."},
    )
    output: str = field(default="outputs/predictions", metadata={"help": "Folder for the results."})
    formats: list[str] = field(
        default_factory=lambda: ["png"],
        metadata={
            "help": "Any of png (16 bits, millimetres; beyond 65.535 m 0, missing), npy (metres), colour (a picture), "
            "ply (points in metres)."
        },
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model on the Hub."})
    text: str | None = field(default=None, metadata={"help": "What the photographs show, for the prompt."})
    camera: str | None = field(default=None, metadata={"help": "A sentence about the camera, for the prompt."})
    intrinsics: list[float] = field(
        default_factory=list,
        metadata={"help": "fx fy cx cy in pixels of the photographs (ply); else --fov, the data set or EXIF tell."},
    )
    fov: float | None = field(
        default=None,
        metadata={"help": f"Horizontal field of view in degrees (ply); {ASSUMED_FOV:g} where nothing tells."},
    )
    max_angle: float | None = field(
        default=None,
        metadata={"help": "Leave out points seen at more degrees from the front, such as 85: edges of objects (ply)."},
    )
    batch_size: int = field(default=8, metadata={"help": "Photographs at once, in each process."})
    num_workers: int = field(default=2, metadata={"help": "Processes that read ahead, and threads that write."})
    device: str | None = field(default=None, metadata={"help": "Such as cpu or cuda:1; else the accelerator."})
    dtype: str | None = field(default=None, metadata={"help": "Such as bfloat16; else as the weights were saved."})
    overwrite: bool = field(
        default=False,
        metadata={"help": "Whether to predict again what is there already; what other settings have left then goes."},
    )

    def __post_init__(self):
        unknown = [each for each in self.formats if each not in SUFFIXES]
        if unknown or not self.formats:
            raise ValueError(f"`formats` is {self.formats}; choose from {', '.join(SUFFIXES)}.")
        if Path(self.output).exists() and not Path(self.output).is_dir():
            raise ValueError(f"`output` is {self.output!r}, which is a file; give a folder.")
        for name, smallest in (("batch_size", 1), ("num_workers", 0)):
            if getattr(self, name) < smallest:
                raise ValueError(f"`{name}` is {getattr(self, name)}; give at least {smallest}.")
        is_camera = len(self.intrinsics) in (0, 4) and all(map(math.isfinite, self.intrinsics))
        if not is_camera or not all(length > 0 for length in self.intrinsics[:2]):
            raise ValueError(f"`intrinsics` is {self.intrinsics}; give the four numbers fx fy cx cy, in pixels.")
        if self.intrinsics and self.fov is not None:
            raise ValueError("`intrinsics` and `fov` both describe the camera; give one of them.")
        if self.fov is not None and not 0 < self.fov < 180:
            raise ValueError(f"`fov` is {self.fov}; give degrees between 0 and 180.")
        if self.max_angle is not None and not 0 < self.max_angle < 90:
            raise ValueError(f"`max_angle` is {self.max_angle}; give degrees between 0 and 90.")
        for name in POINT_SETTINGS:
            if "ply" not in self.formats and getattr(self, name) not in (None, []):
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}, but `formats` is {self.formats} and it is for points alone; "
                    f"add ply to `--formats`, or leave `--{name}` out."
                )

    def settings(self) -> dict:
        """What the predictions in one folder have in common."""
        names = ["model", "revision", "dtype", "text", "camera"]
        if "ply" in self.formats:
            names += POINT_SETTINGS
        return {name: getattr(self, name) for name in names}

    def camera_of(self, photograph: ReadPhotograph) -> Camera:
        """
        The camera for a photograph's points: what was asked for, else what is known, else an assumed one.

        Raises:
            ValueError: If `intrinsics` have their principal point outside this photograph.
        """
        height, width = photograph.size
        if self.intrinsics:
            camera = Camera(Intrinsics(*self.intrinsics), "--intrinsics")
            check_principal_point(camera.intrinsics, width, height)
            return camera
        if self.fov is not None:
            return Camera(intrinsics_from_fov(width, height, self.fov), f"--fov {self.fov:g}")
        return photograph.camera or Camera(intrinsics_from_fov(width, height, ASSUMED_FOV), ASSUMED)


def run(arguments: Sequence[str]) -> int:
    """`llm-mde predict`: everything the command does, in order; 1 if a photograph could not be predicted."""
    options, data_options = parse_arguments(
        "predict",
        [PredictArguments, DataArguments],
        _with_images_flag(list(arguments)),
        "Predicts photographs, or those of a data set (--data, --eval_split), and writes depth in metres. What is "
        "there already is left alone, so an interrupted run can be started again; a photograph that has changed since "
        "is predicted again, and a model that has changed is refused. Under `accelerate launch` the processes share "
        "the photographs; on several machines they need one output folder.",
    )
    photographs = _photographs(options, data_options)
    if "colour" in options.formats and importlib.util.find_spec("matplotlib") is None:
        raise ImportError("colour pictures need matplotlib: pip install matplotlib, or leave colour out of --formats.")
    processes = _join_processes()
    try:
        return _run(options, photographs, _versions(photographs, data_options), processes)
    finally:
        if processes is not None:
            processes.destroy_process_group()


def _run(
    options: PredictArguments,
    photographs: list[PhotographFile | PhotographOfSample],
    versions: Mapping[str, dict],
    processes: "PartialState | None",
) -> int:
    from llm_mde.hub import load_model_and_processor

    rank, num_processes = (processes.process_index, processes.num_processes) if processes else (0, 1)
    log = PredictionLog(Path(options.output), rank)
    settings = options.settings()
    if not options.overwrite:
        log.check_settings(settings)  # before the model, which takes its time, is loaded
    device = options.device or (processes.device if processes else None)
    model, processor = load_model_and_processor(options.model, options.revision, device, options.dtype)
    if model.config.depth_estimation_type == "relative" and {"png", "ply"} & set(options.formats):
        raise ValueError(
            f"`formats` is {options.formats}, but {options.model!r} predicts depth up to an unknown factor, which is "
            "no metres; choose npy and colour."
        )
    _check_prompt(options, model, processor)
    settings["model_digest"] = model_digest(options.model, options.revision, model.name_or_path)
    if not options.overwrite:
        log.check_settings(settings)
    if rank == 0:
        log.start(settings, [photograph.stem for photograph in photographs] if options.overwrite else None)
    _wait(processes)
    earlier = log.read()
    to_do = [photograph for photograph in photographs if not _is_there(photograph, earlier, versions, options)]
    if rank == 0:
        print(f"{len(photographs)} photographs, {len(photographs) - len(to_do)} of them predicted before", flush=True)
    _wait(processes)  # until all have seen the same files, none may write
    predict_photographs(
        model,
        processor,
        to_do[rank::num_processes],
        log,
        formats=options.formats,
        versions=versions,
        camera_of=options.camera_of,
        max_angle=options.max_angle,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        show_progress=rank == 0,
        text=options.text,
        camera=options.camera,
    )
    _wait(processes)
    if rank != 0:
        return 0
    log.drop_stale()
    return _report(photographs, log.read(), versions, options)


def _check_prompt(options: PredictArguments, model: "LLMMDEForDepthEstimation", processor: "LLMMDEProcessor") -> None:
    """Refuses a text or a camera that this model or processor does not take, before any photograph is read."""
    for name in ("text", "camera"):
        if getattr(options, name) is not None and not model.config.use_prompt:
            raise ValueError(
                f"`{name}` is {getattr(options, name)!r}, but {options.model!r} reads no prompt; leave it out."
            )
    processor(images=np.zeros((8, 8, 3), np.uint8), text=options.text, camera=options.camera)


def _report(
    photographs: list[PhotographFile | PhotographOfSample],
    rows: dict[str, dict],
    versions: Mapping[str, dict],
    options: PredictArguments,
) -> int:
    problems = [rows[each.stem] for each in photographs if not _is_there(each, rows, versions, options)]
    if "png" in options.formats:
        _report_far_pixels([rows[each.stem] for each in photographs])
    assumed = [each for each in photographs if rows[each.stem].get("camera", {}).get("source") == ASSUMED]
    if "ply" in options.formats and assumed:
        print(
            f"{len(assumed)} of {len(photographs)} point clouds rest on {ASSUMED}; give the true one with --fov or "
            "--intrinsics."
        )
    cameras = [row for row in (rows[each.stem] for each in photographs) if "camera" in row]
    sizes = {(row["width"], row["height"]) for row in cameras}
    if options.intrinsics and len(sizes) > 1:
        print(
            f"--intrinsics were taken for photographs of {len(sizes)} sizes, but they are pixels of one; predict each "
            "size by itself, or give --fov."
        )
    if problems:
        print(f"{len(problems)} of {len(photographs)} photographs lack what was asked for:")
        for row in problems[:MAX_PROBLEMS_SHOWN]:
            name = row["input"] if row["input"].isprintable() else repr(row["input"])  # no control sequences
            print(f"  {name}: {row['error']}")
        if len(problems) > MAX_PROBLEMS_SHOWN:
            print(f"  and {len(problems) - MAX_PROBLEMS_SHOWN} more, see the summary")
    print(f"Summary: {Path(options.output) / 'predictions.jsonl'}")
    return 1 if problems else 0


def _report_far_pixels(rows: list[dict]) -> None:
    far = [row for row in rows if row.get("pixels_beyond_png")]
    if far:
        num_pixels = sum(row["pixels_beyond_png"] for row in far)
        share = num_pixels / sum(row["width"] * row["height"] for row in far)
        print(
            f"{len(far)} of {len(rows)} PNGs lack pixels beyond {LARGEST_PNG_DEPTH} m, where 16 bits of millimetres "
            f"end: {num_pixels} pixels, {share:.1%} of these photographs, are 0 (missing); --formats npy has them."
        )


def _photographs(options: PredictArguments, data_options: DataArguments) -> list[PhotographFile | PhotographOfSample]:
    """What to predict, each with a place of its own below the output folder."""
    if bool(options.images) == (data_options.data is not None):
        raise ValueError("`images` and `data` say what to predict; give one of them.")
    _check_data_flags(data_options)
    if options.images:
        output = Path(os.path.abspath(options.output))
        photographs = [each for each in find_photographs(options.images) if not _is_output(each.path, output)]
    else:
        photographs = photographs_of_samples(data_options.load_eval())
    if not photographs:
        raise ValueError(f"`images` is {options.images}, which is nothing but earlier results of this command.")
    photographs = _with_distinct_stems(photographs)
    names: dict[str, str] = {}
    for photograph in photographs:
        if photograph.stem in names:
            raise ValueError(
                f"{names[photograph.stem]!r} and {photograph.name!r} would both be written to "
                f"{photograph.stem + SUFFIXES[options.formats[0]]!r}; rename one, or predict them into two folders."
            )
        names[photograph.stem] = photograph.name
    return photographs


def _check_data_flags(data_options: DataArguments) -> None:
    """Refuses flags that would change nothing: those of data sets for photographs, those of training always."""
    for each in fields(data_options):
        value = getattr(data_options, each.name)
        if value == each.default:
            continue
        if data_options.data is None:
            raise ValueError(f"`{each.name}` is {value!r}, which is about a data set (`--data`); leave it out.")
        if each.name in _OF_TRAINING:
            raise ValueError(
                f"`{each.name}` is {value!r}, which is about training; choose photographs with `--eval_split` or "
                "`--eval_split_list`."
            )


def _with_distinct_stems(
    photographs: list[PhotographFile | PhotographOfSample],
) -> list[PhotographFile | PhotographOfSample]:
    """The same, but those that differ in their suffix alone, `a.jpg` and `a.png`, keep it in their stem."""
    stems = [photograph.stem for photograph in photographs]
    while True:  # twice where `a.jpg` has become the stem of one file and has been that of `a.jpg.png`
        counts = Counter(stems)
        distinct = [
            _stem_with_suffix(photograph) if counts[stem] > 1 else stem
            for photograph, stem in zip(photographs, stems, strict=True)
        ]
        if distinct == stems:
            break
        stems = distinct
    return [replace(photograph, stem=stem) for photograph, stem in zip(photographs, stems, strict=True)]


def _stem_with_suffix(photograph: PhotographFile | PhotographOfSample) -> str:
    suffix = PurePosixPath(photograph.name).suffix
    return photograph.stem + suffix if suffix.lower() in PHOTOGRAPH_SUFFIXES else photograph.stem


def _versions(photographs: list[PhotographFile | PhotographOfSample], data_options: DataArguments) -> dict[str, dict]:
    """
    By stem what tells each photograph from another one of its name: bytes and time of its file, and how a data set
    reads it. Taken before any is read, so that a change during the run is seen by the next run.
    """
    if data_options.data is None:
        return {photograph.stem: _version_of_file(photograph.path) for photograph in photographs}
    reading = {name: getattr(data_options, name) for name in _OF_STORED_PHOTOGRAPHS}
    rows = photographs[0].samples.rows
    # Where photographs are no files of their own, the file that holds all of them, else the name of the data tells.
    if "rgb" in rows.column_names:
        files = rows.with_format(None)["rgb"]
        return {each.stem: reading | _version_of_file(Path(files[each.index])) for each in photographs}
    reading |= {"black_frame": getattr(photographs[0].samples.reader, "with_black_frame", False)}  # NYU's test set
    reading |= _version_of_data(Path(data_options.data))
    return {each.stem: reading for each in photographs}


def _version_of_data(path: Path) -> dict:
    """Bytes and time of a file that holds all photographs, or of all files of a folder; nothing of a Hub id."""
    if not path.is_dir():
        return _version_of_file(path)
    files = [_version_of_file(each) for each in path.rglob("*") if each.is_file()]
    newest = max((file.get("modified_ns", 0) for file in files), default=0)
    return {"bytes": sum(file.get("bytes", 0) for file in files), "modified_ns": newest}


def _version_of_file(path: Path) -> dict:
    if not path.is_file():  # it has gone since it was found, which reading it will tell; or it is the name of data
        return {}
    status = path.stat()
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def _is_output(path: Path, output: Path) -> bool:
    """Whether an earlier run wrote this file: folders of photographs may contain output folders, this run's or one
    with a log."""
    path = Path(os.path.abspath(path))
    if not path.name.endswith(tuple(SUFFIXES.values())):
        return False
    return path.is_relative_to(output) or any(PredictionLog(folder).is_there() for folder in path.parents)


def _is_there(
    photograph: PhotographFile | PhotographOfSample,
    rows: dict[str, dict],
    versions: Mapping[str, dict],
    options: PredictArguments,
) -> bool:
    row = rows.get(photograph.stem)
    if row is None:
        return False
    if row["input"] != photograph.name and not row.get("again"):
        raise ValueError(
            f"{str(Path(options.output) / photograph.stem)!r} is what {row['input']!r} was predicted to, and "
            f"{photograph.name!r} would be too; choose another `--output`, or predict it anew with `--overwrite`."
        )
    if row.get("version") != versions[photograph.stem] or row.get("again"):
        return False
    outputs = {each: path for each, path in row["outputs"].items() if each not in row.get("stale", ())}
    return all(each in outputs and (Path(options.output) / outputs[each]).is_file() for each in options.formats)


def _with_images_flag(arguments: list[str]) -> list[str]:
    """`photos --model m` as `--images photos --model m`; a file of arguments in front stays in front."""
    first = arguments[0] if arguments else "-"
    if first.startswith("-") or first.endswith((".yaml", ".yml", ".json")):
        return arguments
    if "--images" in arguments:
        raise ValueError(f"`--images` is given, and {first!r} in front of it; put all of them in one place.")
    return ["--images", *arguments]


def _join_processes() -> "PartialState | None":
    """The processes that `accelerate launch` has started, or `None` for one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from accelerate import PartialState

    # Without `cpu` processes on a machine without accelerators would not find each other. One may be done days before
    # the last one.
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=7))


def _wait(processes: "PartialState | None") -> None:
    if processes is not None:
        processes.wait_for_everyone()


__all__ = ["PredictArguments", "run"]
