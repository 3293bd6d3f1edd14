"""What an evaluation leaves behind: a table, JSON, a row for each image, and the block of a model card."""

import csv
import io
import json
import math
import os
import platform
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from llm_mde.public_names import without_place

from .evaluator import EvaluationResult
from .metrics import BOUNDARY_METRIC
from .protocols import EvaluationProtocol

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor

METRICS_FILE = "metrics.json"
LOWER_OR_HIGHER = "Lower is better, except for delta1-3 and boundary_f1."
_SOURCES = ("model", "data", "train_data")  # fields of the setting that may name a folder


@dataclass(frozen=True)
class EvaluationSetting:
    """What was measured on what, for people who read the numbers later.

    Attributes:
        model (`str`): Folder or Hub id.
        data (`str`): Folder or Hub id.
        revision (`str`, *optional*): Of the model, a commit where it came from the Hub.
        precision (`str`): Type of the weights.
        input_size (`str`): What the model sees of a photograph.
        dataset (`str`, *optional*): Part of the data that was chosen.
        split (`str`, *optional*): Split of the data, or the file that lists it.
        data_revision (`str`, *optional*): Of a data set on the Hub.
        num_without_depth (`int`): Photographs of the split that have no measured depth at all and were left out.
        data_flags (`dict`): Anything else that changes how the data is read, such as `{"kb_crop": True}`.
        train_data (`str`, *optional*): Folder or Hub id that the baselines were fitted to.
        train_dataset (`str`, *optional*): Part of it that was chosen.
        train_split (`str`, *optional*): Split of it, or the file that lists it.
    """

    model: str
    data: str
    revision: str | None = None
    precision: str = "unknown"
    input_size: str = "unknown"
    dataset: str | None = None
    split: str | None = None
    data_revision: str | None = None
    num_without_depth: int = 0
    data_flags: dict[str, Any] = field(default_factory=dict)
    train_data: str | None = None
    train_dataset: str | None = None
    train_split: str | None = None

    @classmethod
    def of(
        cls, model: "LLMMDEForDepthEstimation", processor: "LLMMDEProcessor", name: str, data: str, **others: Any
    ) -> "EvaluationSetting":
        """The setting of a loaded model, whose precision and input size need not be written out."""
        image_processor = processor.image_processor
        size = f"{image_processor.size['height']} x {image_processor.size['width']}"
        if image_processor.keep_aspect_ratio:
            size += ", aspect ratio kept"
        return cls(
            model=name,
            data=data,
            precision=str(model.dtype).removeprefix("torch."),
            input_size=size if image_processor.do_resize else "that of the photograph",
            **others,
        )


@dataclass(frozen=True)
class StoredResult:
    """Means, counts and intervals of an [`EvaluationResult`] whose rows are not there any more."""

    protocol: EvaluationProtocol
    metrics: dict[str, float]
    stored_intervals: dict[str, tuple[float, float]]
    per_image: tuple = ()

    @classmethod
    def from_dict(cls, protocol: EvaluationProtocol, stored: dict[str, Any]) -> "StoredResult":
        """From what `EvaluationReport.to_dict` says of one column of its table."""
        metrics = {name: _nan_if_none(value) for name, value in stored["metrics"].items()}
        intervals = {name: tuple(map(_nan_if_none, limits)) for name, limits in stored["intervals"].items()}
        return cls(protocol, metrics, intervals)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What was measured."""
        return tuple(self.stored_intervals)

    def intervals(self, seed: int = 0, num_resamples: int = 1000) -> dict[str, tuple[float, float]]:
        """Those that were computed when there were rows to draw from."""
        return self.stored_intervals


@dataclass(frozen=True)
class EvaluationReport:
    """Results of a model and of what it is compared with, under one protocol.

    Args:
        setting ([`EvaluationSetting`]): What was measured on what.
        result ([`EvaluationResult`] or [`StoredResult`]): The model's.
        baselines (`dict[str, EvaluationResult]`): By name; stored ones beside a stored one.
        seed (`int`, *optional*, defaults to 0): Of the bootstrap.
        num_resamples (`int`, *optional*, defaults to 1000): Of the bootstrap.
        command (`str`, *optional*): The command line that led here.
        versions (`dict[str, str]`, *optional*): Of the libraries; by default those that are running.

    Raises:
        ValueError: If a baseline was measured with another protocol or on other images.
    """

    setting: EvaluationSetting
    result: EvaluationResult | StoredResult
    baselines: dict[str, EvaluationResult | StoredResult]
    seed: int = 0
    num_resamples: int = 1000
    command: str | None = None
    versions: dict[str, str] | None = None

    def __post_init__(self):
        images = [row["name"] for row in self.result.per_image]
        for name, baseline in self.baselines.items():
            if baseline.protocol != self.result.protocol or [row["name"] for row in baseline.per_image] != images:
                raise ValueError(
                    f"`baselines` has {name!r}, measured with another protocol or on other images than the model; "
                    "numbers in one table share both."
                )

    def table(self) -> str:
        """Means with their 95 % intervals, as Markdown that also reads well on a screen."""
        columns = {"LLM-MDE": self.result, **self.baselines}
        cells = [["metric", *columns]]
        for name in self.result.metric_names:
            numbers = zip(columns.values(), self._intervals, strict=True)
            cells.append([name, *(_with_interval(each.metrics[name], intervals[name]) for each, intervals in numbers)])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [_markdown_row(row, widths) for row in cells]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        return "\n".join([lines[0], _markdown_row(rule, widths), *lines[1:]])

    def conditions(self) -> dict[str, str]:
        """Everything a reader has to know beside the numbers; folders of this machine are not told."""
        setting, metrics = self.setting, self.result.metrics
        parts = (setting.data, setting.data_revision, setting.dataset, setting.split)
        reading = {}
        if setting.data_flags:
            reading["data flags"] = ", ".join(f"{flag}={without_place(v)}" for flag, v in setting.data_flags.items())
        if setting.train_data:
            source = _joined(setting.train_data, setting.train_dataset, setting.train_split)
            reading["baselines"] = f"fitted to {source}, inside the protocol's range and crop"
            if setting.train_data != setting.data and self.result.protocol.crop == "nyu-eigen":
                reading["baselines"] += " (whole maps where their size is not 480 x 640)"
        images = f"{metrics['num_images']}"
        if metrics["num_skipped_images"]:
            images += f", {metrics['num_skipped_images']} more without a valid pixel"
        if setting.num_without_depth:
            images += f", {setting.num_without_depth} more without measured depth"
        boundaries = {}
        if BOUNDARY_METRIC in metrics:
            count = metrics["num_images_with_boundaries"]
            boundaries[BOUNDARY_METRIC] = (
                "Depth Pro's, but over measured pixels, and directions, thresholds and images without a boundary are "
                f"left out; {count} images have a boundary"
            )
        return {
            "model": without_place(setting.model) + (f" at {setting.revision}" if setting.revision else ""),
            "precision": setting.precision,
            "input size (height x width)": setting.input_size,
            "data": _joined(*parts),
            "images": images,
            **reading,
            **self.result.protocol.summary(),
            **boundaries,
            "intervals": f"95 %, {self.num_resamples} bootstrap resamples of the images",
        }

    def markdown(self) -> str:
        """The table with its conditions, to paste into a README."""
        conditions = "\n".join(f"- {name}: {value}" for name, value in self.conditions().items())
        return f"{self.table()}\n\n{LOWER_OR_HIGHER}\n\n{conditions}\n"

    @classmethod
    def from_dict(cls, stored: Any) -> "EvaluationReport":
        """
        The report that `to_dict` gave, without the rows of the images; folders have become names.

        Raises:
            ValueError: If something is missing or not what `to_dict` writes.
        """
        try:
            setting, bootstrap = EvaluationSetting(**stored["setting"]), stored["bootstrap"]
            names = stored.get("names") or {name: without_place(getattr(setting, name)) for name in _SOURCES}
            cap = stored["protocol"]["max_depth"]
            protocol = EvaluationProtocol(**stored["protocol"] | {"max_depth": math.inf if cap is None else cap})
            baselines = stored["baselines"].items()
            return cls(
                replace(setting, **names),
                StoredResult.from_dict(protocol, stored),
                {name: StoredResult.from_dict(protocol, baseline) for name, baseline in baselines},
                bootstrap["seed"],
                bootstrap["num_resamples"],
                stored.get("command"),
                stored["versions"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"`stored` is not what `llm-mde evaluate` writes as {METRICS_FILE}: {type(error).__name__}: {error}"
            ) from error

    @classmethod
    def read(cls, file: str | Path) -> "EvaluationReport":
        """
        Reads the `metrics.json` of an evaluation.

        Raises:
            ValueError: If it cannot be read, is no JSON, or holds something else.
        """
        try:
            return cls.from_dict(json.loads(Path(file).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`file` is {str(file)!r}, which is no result of an evaluation: {error}; `llm-mde evaluate` writes "
                f"one as {METRICS_FILE}."
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Everything but the rows of the images, as JSON can hold it: NaN is `None`."""
        setting = self.setting
        sources = {name: getattr(setting, name) for name in _SOURCES}
        return {
            "setting": asdict(setting),
            # As they may be published, which only this machine can tell from Hub ids.
            "names": {name: source and name_of_source(source) for name, source in sources.items()},
            "protocol": self.result.protocol.to_dict(),
            **_as_json(self.result, self._intervals[0]),
            "baselines": {
                name: _as_json(baseline, intervals)
                for (name, baseline), intervals in zip(self.baselines.items(), self._intervals[1:], strict=True)
            },
            "bootstrap": {"level": 0.95, "seed": self.seed, "num_resamples": self.num_resamples},
            "command": self.command,
            "versions": library_versions() if self.versions is None else self.versions,
        }

    def eval_results(self) -> list["EvalResult"]:
        """Each metric of the model with its data and its protocol, as cards on the Hub hold it."""
        from huggingface_hub import EvalResult

        setting, protocol = self.setting, self.result.protocol
        label = protocol.name if protocol.comparable else f"{protocol.name}, not comparable"
        dataset = setting.dataset or name_of_source(setting.data)
        metrics = self.result.metrics
        flags = {flag: without_place(value) for flag, value in setting.data_flags.items()}
        configuration = flags.pop("data_config", None)
        arguments = {"num_images": metrics["num_images"], "protocol": protocol.to_dict()}
        return [
            EvalResult(
                task_type="depth-estimation",
                task_name="Monocular depth estimation",
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_config=configuration,
                dataset_split=without_place(setting.split),
                dataset_revision=setting.data_revision,
                dataset_args=arguments | ({"data_flags": flags} if flags else {}),
                metric_type=name,
                metric_name=f"{name} ({label})",
                metric_value=round(metrics[name], 6),
            )
            for name in self.result.metric_names
            if not math.isnan(metrics[name])
        ]

    def model_index(self) -> list[dict[str, Any]]:
        """The `model-index` of a model card on the Hub."""
        from huggingface_hub.repocard_data import eval_results_to_model_index

        return eval_results_to_model_index(name_of_source(self.setting.model).rpartition("/")[-1], self.eval_results())

    def write(self, folder: str | Path, worst: Image.Image | None = None) -> list[Path]:
        """Write `metrics.json`, `per_image.csv`, `table.md`, `model-index.yaml` and, given a picture, `worst.png`.

        Each file appears whole or not at all, and nothing of an earlier run stays.

        Raises:
            ValueError: If `folder` is a file.
        """
        import yaml

        folder = make_folder(folder)
        contents = {
            METRICS_FILE: (json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n").encode(),
            "per_image.csv": self._csv().encode(),
            "table.md": self.markdown().encode(),
            "model-index.yaml": yaml.safe_dump({"model-index": self.model_index()}, sort_keys=False).encode(),
        }
        if worst is not None:
            buffer = io.BytesIO()
            worst.save(buffer, format="PNG")
            contents["worst.png"] = buffer.getvalue()
        else:
            (folder / "worst.png").unlink(missing_ok=True)
        for name, content in contents.items():
            unfinished = folder / f".{name}.part"
            unfinished.write_bytes(content)
            os.replace(unfinished, folder / name)
        return [folder / name for name in contents]

    @cached_property
    def _intervals(self) -> list[dict[str, tuple[float, float]]]:
        """Of the model and of each baseline: drawing them takes longer than everything else here."""
        return [each.intervals(self.seed, self.num_resamples) for each in (self.result, *self.baselines.values())]

    def _csv(self) -> str:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        columns = ["index", "name", "num_pixels", *self.result.metric_names]
        writer.writerow(columns)
        for row in self.result.per_image:
            writer.writerow(["" if _none_if_nan(row[column]) is None else row[column] for column in columns])
        return buffer.getvalue()


def _as_json(
    result: EvaluationResult | StoredResult, intervals: dict[str, tuple[float, float]]
) -> dict[str, dict[str, Any]]:
    return {
        "metrics": {name: _none_if_nan(value) for name, value in result.metrics.items()},
        "intervals": {name: [_none_if_nan(limit) for limit in limits] for name, limits in intervals.items()},
    }


def make_folder(folder: str | Path) -> Path:
    """Make a folder for results, where it is not there.

    Raises:
        ValueError: If the place is taken by a file.
    """
    folder = Path(folder)
    if any(path.exists() and not path.is_dir() for path in (folder, *folder.parents)):
        raise ValueError(f"`folder` is {str(folder)!r}, which is a file or lies in one; give a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def name_of_source(source: str) -> str:
    """The last part of a folder or file that is here, and a Hub id whole."""
    return Path(os.path.abspath(source)).name if Path(source).exists() else without_place(source)


def _joined(*parts: str | None) -> str:
    return " / ".join(without_place(part) for part in parts if part)


def _with_interval(mean: float, interval: tuple[float, float]) -> str:
    return "none" if math.isnan(mean) else f"{mean:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _markdown_row(cells: list[str], widths: list[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"


def _none_if_nan(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _nan_if_none(value: Any) -> Any:
    return math.nan if value is None else value


def library_versions() -> dict[str, str]:
    """Versions of what a number depends on, of Python, and of the extras that are installed."""
    import numpy
    import torch
    import transformers

    import llm_mde

    modules = {"llm_mde": llm_mde, "torch": torch, "transformers": transformers, "numpy": numpy}
    versions = {name: str(module.__version__) for name, module in modules.items()}
    for name in ("torchvision", "pillow", "datasets", "peft"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an extra that was not needed
    return versions | {"python": platform.python_version()}


__all__ = ["EvaluationReport", "EvaluationSetting", "library_versions", "make_folder", "name_of_source"]
