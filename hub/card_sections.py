"""Sections of a card: how the weights came about, how far they are off, and how an adapter is loaded."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llm_mde.evaluation.report import LOWER_OR_HIGHER, EvaluationReport, name_of_source
from llm_mde.model_card_llm_mde import ANY_COMMIT
from llm_mde.public_names import without_place

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from llm_mde import LLMMDEProcessor
    from llm_mde.training.record import DataRecord, StartRecord, TrainingRecord

NOT_RECORDED = "How these weights were trained is not recorded."
NOT_MEASURED = "How far the depth of this model is off was not measured."
METRIC_UNITS = "abs_rel and delta1-3 are shares (1 is all), rmse and sq_rel are in metres, silog is multiplied by 100."
_METHODS = {
    "lora": "low-rank updates in the attention of both encoders, and the layers between and behind them whole",
    "full": "every weight",
    "frozen": "the layers between and behind the encoders; the encoders stayed as they were",
}
_PARTS = {
    "vision_tower": "vision encoder",
    "language_model": "language model",
    "word_basis": "word basis",
    "text_prototypes": "text prototypes",
    "reprogramming": "reprogramming",
    "depth_head": "depth head",
}


def what_it_reads(processor: "LLMMDEProcessor") -> str:
    """Size of the photographs and sentences of the prompt."""
    image_processor = processor.image_processor
    height, width = image_processor.size["height"], image_processor.size["width"]
    size = f"A photograph of any size is read at {height} x {width} pixels (height x width)"
    if not image_processor.do_resize:
        size = "A photograph is read at its own size"
    elif image_processor.keep_aspect_ratio:
        size += " or about as many, its aspect ratio kept"
    camera = f" and about the camera “{processor.camera_prompt}”" if processor.camera_prompt else ""
    return (
        f"{size}. The processor writes a prompt for each from its pixels; about the scene it says “"
        f"{processor.dataset_prompt}”{camera} What you know better, pass as `text`."
    )


def training_section(record: "TrainingRecord | None") -> str:
    """How the weights came about, in words and as a table."""
    if record is None:
        return NOT_RECORDED
    lines = [
        f"Started from {_start(record.start)}. Trained: {_METHODS[record.method]}.",
        f"Trained on {_frames(record.data)}.",
    ]
    if record.best is not None:
        best, step = record.best, "" if record.best.step is None else f", at step {record.best.step}"
        lines.append(
            f"Of several states the one with the best {best.metric} on {_frames(record.eval_data)} was kept"
            f" ({best.value:.3f} at the resolution of the model{step})."
        )
    else:
        lines.append("The weights are those of the last step.")
    rows = "\n".join(f"| {name} | {value} |" for name, value in _settings(record).items())
    text = f"{' '.join(lines)}\n\n| setting | value |\n|---|---|\n{rows}"
    return text if record.command is None else f"{text}\n\n```bash\n{record.command}\n```"


def parameter_table(record: "TrainingRecord") -> str:
    """Weights of each part, and those of them that were trained."""
    rows = [(_PARTS.get(part.part, part.part), part.total, part.trained) for part in record.parts]
    rows.append(("all", record.num_parameters, record.num_trained_parameters))
    lines = "\n".join(f"| {name} | {total:,} | {trained:,} |" for name, total, trained in rows)
    return f"While it was trained:\n\n| part | weights | trained |\n|---|---:|---:|\n{lines}"


def evaluation_section(reports: Sequence[EvaluationReport], record: "TrainingRecord | None") -> str:
    """A table for each protocol, with everything one has to know beside it."""
    if not reports:
        return NOT_MEASURED
    parts = []
    for report in reports:
        conditions = report.conditions()
        del conditions["model"]  # this one
        heading = f"### Protocol {report.result.protocol.name}, on {conditions['data']}"
        beginning = " ".join([*_in_words(report), *_warnings(report, record)])
        listing = "\n".join(f"- {name}: {value}" for name, value in conditions.items())
        blocks = [heading, beginning, report.table(), f"{LOWER_OR_HIGHER} {METRIC_UNITS}", listing]
        parts.append("\n\n".join(block for block in blocks if block))
    return "\n\n".join(parts)


def eval_results(reports: Sequence[EvaluationReport]) -> "list[EvalResult]":
    """
    Every metric of every report. The Hub keeps one set of arguments for each data set, so where several protocols
    share one, it has the arguments of all, and each metric the name of its own.
    """
    groups: dict[tuple, list[EvaluationReport]] = {}
    for report in reports:
        results = report.eval_results()
        if results:
            groups.setdefault(results[0].unique_identifier, []).append(report)
    joined = []
    for group in groups.values():
        results = [(report.result.protocol.name, report.eval_results()) for report in group]
        if len(group) == 1:
            joined += results[0][1]
            continue
        arguments = {"evaluations": [of_one[0].dataset_args for _, of_one in results]}
        for protocol, of_one in results:
            own = {"dataset_args": arguments, "metric_args": {"protocol": protocol}}
            joined += [replace(result, **own) for result in of_one]
    return joined


def adapter_quick_start(
    adapter: str | None, revision: str | None, base: str | None, base_revision: str | None, photograph: str | None
) -> str:
    """
    An adapter on its base, in a process that has Transformers and PEFT and not this package; both at one state.

    Args:
        adapter (`str`, *optional*): Its repository; by default the lines read the folder that they are run in.
        revision (`str`, *optional*): Of the adapter; defaults to its main branch.
        base (`str`, *optional*): Repository of the base; by default what the adapter's configuration names.
        base_revision (`str`, *optional*): Of the base; defaults to its main branch.
        photograph (`str`, *optional*): A file beside the adapter to look at; by default a file of the reader's.
    """
    imports = ["import torch"]
    pinned = f'adapter, revision = "{adapter}", "{revision or "main"}"'
    source, remark = '"room.jpg"', "  # a photograph of yours: a file, a URL or a PIL image"
    if photograph is not None:
        source, remark = f'"{photograph}"', ""
        if adapter is not None:
            source = f'hf_hub_download(adapter, "{photograph}", revision=revision)'
            imports.append("from huggingface_hub import hf_hub_download")
    if revision is None:
        pinned += "  # or a commit's hash, which pins code and weights"
    names = [pinned] if adapter is not None else ['adapter, revision = ".", None']
    if base is not None:
        imports.append("from peft import PeftModel")
        names.append(f'base, base_revision = "{base}", "{base_revision or "main"}"')
    else:
        imports.append("from peft import PeftConfig, PeftModel")
        names += ["base, base_revision = PeftConfig.from_pretrained(adapter).base_model_name_or_path, None"]
    imports += [
        "from transformers import AutoModelForDepthEstimation, AutoProcessor",
        "from transformers.image_utils import load_image",
    ]
    use = [
        "model = AutoModelForDepthEstimation.from_pretrained(base, revision=base_revision, trust_remote_code=True)",
        "model = PeftModel.from_pretrained(model, adapter, revision=revision).eval()",
        "processor = AutoProcessor.from_pretrained(adapter, revision=revision, trust_remote_code=True)",
        "",
        f"image = load_image({source}){remark}",
        "with torch.no_grad():",
        '    outputs = model(**processor(images=image, return_tensors="pt"))',
        "(result,) = processor.post_process_depth_estimation(outputs, target_sizes=[image.size[::-1]])",
        'depth = result["predicted_depth"]  # torch.Tensor (height, width), float32',
        'print(f"{depth.min():.2f} to {depth.max():.2f}")',
    ]
    code = "\n".join([*imports, "", *names, *use])
    note = f"`revision` is {ANY_COMMIT}: `trust_remote_code=True` runs the `.py` files of the base and of the adapter."
    if adapter is None:
        note = "Run it in this folder, or put the folder's path, or the id of its repository, in place of the dot."
    return f"```python\n{code}\n```\n\n{note}\n\n{_OTHER_WAYS}"


_OTHER_WAYS = """Other ways, with the names above; each of them is enough:

```python
from peft import AutoPeftModelForFeatureExtraction, PeftModel
from transformers import AutoModelForDepthEstimation, pipeline

# The adapter on the base, and at the revision, that its configuration names.
model = AutoPeftModelForFeatureExtraction.from_pretrained(adapter, revision=revision, trust_remote_code=True)

# Merged into the base: an ordinary model, with nothing left of PEFT.
model = AutoModelForDepthEstimation.from_pretrained(base, revision=base_revision, trust_remote_code=True)
model = PeftModel.from_pretrained(model, adapter, revision=revision).merge_and_unload()

# Transformers alone, 5.23 or newer; `set_adapter` switches between several, `disable_adapters` gives the base back.
model = AutoModelForDepthEstimation.from_pretrained(base, revision=base_revision, trust_remote_code=True)
model.load_adapter(adapter, adapter_kwargs={"revision": revision})

# In one line, from the main branch of the adapter; also 5.23 or newer.
model = AutoModelForDepthEstimation.from_pretrained(adapter, trust_remote_code=True)
estimate = pipeline("depth-estimation", model=adapter, trust_remote_code=True)
```"""


def _start(start: "StartRecord") -> str:
    if start.kind == "random":
        return "random weights: nothing was pretrained"
    link = "[{0}](https://huggingface.co/{0})"
    names = [link.format(name) if name in start.hub_ids else f"`{name}`" for name in start.names]
    if start.kind == "encoders":
        return f"the pretrained encoders {' and '.join(names)}, joined by new layers of random weights"
    at = f" at `{start.revision}`" if start.revision else ""
    if start.kind == "adapter":
        return f"the adapter {names[0]}{at}, merged into its base"
    return f"the LLM-MDE model {names[0]}{at}"


def _frames(data: "DataRecord") -> str:
    count = "a stream of frames" if data.num_frames is None else f"{data.num_frames} frames"
    chosen = [part for part in (data.dataset, data.split) if part]
    if data.revision:
        chosen.append(f"revision {data.revision}")
    if data.shots is not None:
        chosen.append(f"few-shot subset {data.shots} of seed {data.shots_seed}")
    name = f"[{data.name}](https://huggingface.co/datasets/{data.name})" if data.is_on_hub else f"`{data.name}`"
    return f"{count} of {name} ({', '.join(chosen)})"


def _settings(record: "TrainingRecord") -> dict[str, str]:
    run, data = record.optimisation, record.data
    settings = {"recipe": f"`{record.recipe}`"} if record.recipe else {}
    settings["depth of the frames"] = data.depth
    if data.flags:
        settings["data flags"] = ", ".join(f"{flag}={value}" for flag, value in data.flags.items())
    if record.adapter is not None:
        adapter = record.adapter
        whole = ", ".join(_PARTS.get(name, name) for name in adapter.whole_modules) or "none"
        settings["adapter"] = f"{describe_adapted(adapter.kind, adapter.parts)}; whole: {whole}"
    settings |= {
        "augmentation": record.augmentation,
        "length": f"{run.steps:,} steps, {run.epochs:g} epochs"
        + ("" if run.resumed_at_step is None else f", resumed at step {run.resumed_at_step:,}"),
        "effective batch size": f"{run.effective_batch_size}"
        + (f" over {run.num_processes} processes" if run.num_processes > 1 else ""),
        "learning rate": f"{run.learning_rate:g} (vision encoder {run.vision_learning_rate:g}, language model "
        f"{run.language_learning_rate:g})",
        "schedule": f"{run.schedule}, warm-up {_warm_up(run.warmup_steps)}",
        "optimiser": f"{run.optimiser}, weight decay {run.weight_decay:g}, gradients clipped at {run.max_grad_norm:g}",
        "loss": _loss(record.loss),
        "precision": record.precision,
        "time": f"{_duration(record.seconds)} on {record.device}"
        + ("" if run.resumed_at_step is None else ", since it was resumed"),
        "seed": f"{run.seed}",
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
    }
    return settings


def describe_adapted(kind: str, parts: Sequence) -> str:
    """Kind, layers, ranks and scales of an adapter in words."""
    of_parts = [
        f"{part.num_layers} layers of the {_PARTS.get(part.part, part.part)}"
        + (f" (rank {_listing(part.ranks)}, alpha {_listing(part.alphas)})" if part.ranks else "")
        for part in parts
    ]
    return f"{kind} in {' and '.join(of_parts)}"


def _listing(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _loss(fields: dict) -> str:
    if not fields.get("relative_weight"):
        parts = []
    else:
        start = fields.get("relative_start")
        late = f" after {start:.0%} of the steps" if start else ""
        parts = [f"{fields['relative_weight']:g} times the mean relative error{late}"]
    return " + ".join([f"SILog of each {fields['loss_reduction']}, λ = {fields['variance_focus']:g}", *parts])


def _warm_up(steps: float) -> str:
    return f"{steps:.0%} of the steps" if steps < 1 else f"{steps:g} steps"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "below 1 s"


def _in_words(report: EvaluationReport) -> list[str]:
    """The two figures that most people look for, beside the best that needs no photograph."""
    metrics, baselines = report.result.metrics, report.baselines
    if "abs_rel" not in metrics:
        return []
    words = [f"On average over {metrics['num_images']} photographs, depth is off by {metrics['abs_rel']:.0%}"]
    words[0] += f" of the distance (abs_rel), and by {metrics['rmse']:.2f} m in root mean square (rmse)."
    if baselines:
        name = min(baselines, key=lambda baseline: baselines[baseline].metrics["abs_rel"])
        error = baselines[name].metrics["abs_rel"]
        words.append(f"What has not seen the photograph ({name}) is off by {error:.0%}.")
    return words


def _warnings(report: EvaluationReport, record: "TrainingRecord | None") -> list[str]:
    """What would make the numbers look better than they are."""
    warnings, protocol, setting = [], report.result.protocol, report.setting
    if not protocol.comparable:
        warnings.append("**These numbers are not comparable with published ones in metres.**")
    elif protocol.alignment != "none":
        warnings.append(
            "**The prediction is aligned to each measured map first: these numbers say nothing of its scale.**"
        )
    if record is not None:
        data, split = (name_of_source(setting.data), setting.dataset), without_place(setting.split)
        trained, evaluated = record.data, record.eval_data
        if data == (trained.name, trained.dataset) and (split == trained.split or "all" in (split, trained.split)):
            warnings.append("**The model was trained on these very frames; expect far worse numbers on others.**")
        elif record.best is not None and (*data, split) == (evaluated.name, evaluated.dataset, evaluated.split):
            warnings.append("The weights were chosen by these very frames; expect worse numbers on others.")
    return warnings


__all__ = [
    "NOT_MEASURED",
    "NOT_RECORDED",
    "adapter_quick_start",
    "describe_adapted",
    "eval_results",
    "evaluation_section",
    "parameter_table",
    "training_section",
    "what_it_reads",
]
