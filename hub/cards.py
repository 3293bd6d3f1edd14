"""Cards of models and adapters on the Hub, written from what is recorded: data, protocol, errors, limits."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData
from PIL import Image
from transformers.utils import logging

from llm_mde.evaluation import EvaluationReport
from llm_mde.evaluation.report import METRICS_FILE
from llm_mde.model_card_llm_mde import (
    CITATION,
    PIPELINE_TAG,
    describe_parts,
    install,
    introduction,
    join_card,
    licence,
    limits,
    outputs_and_units,
    quick_start,
    tags_of,
    title_of,
)

from .card_sections import (
    adapter_quick_start,
    describe_adapted,
    eval_results,
    evaluation_section,
    parameter_table,
    training_section,
    what_it_reads,
)
from .publishable import is_hub_id, read_json
from .sample_pictures import SAMPLE_PHOTOGRAPH, SAMPLE_PICTURE, sample_picture

if TYPE_CHECKING:
    from peft import PeftModel

    from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor
    from llm_mde.training.record import TrainingRecord


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class CardFacts:
    """What a card says beyond what the model itself tells. Nothing is made up for what is left out.

    Args:
        repo_id (`str`, *optional*): Where it is published; by default the examples read the folder they are run in.
        revision (`str`, *optional*): Branch, tag or commit that the examples pin; the main branch by default.
        licence (`str`, *optional*): Of the weights, as the Hub spells it, such as `"apache-2.0"`. For their publisher
            to choose: without one, the card says that none is stated.
        base (`str`, *optional*): Hub id of what an adapter adapts, or of what a model was trained from; by default
            what the adapter or the record names.
        base_revision (`str`, *optional*): Of the base.
        evaluations (`Sequence`): [`EvaluationReport`]s, or what `llm-mde evaluate` wrote: `metrics.json` or its
            folder, or the dictionary in it.
        training (`TrainingRecord`, *optional*): How the weights came about.
        datasets (`Sequence[str]`): Hub ids of the training data; one that the record names need not be given.
        photograph (`str`, `Path` or `PIL.Image.Image`, *optional*): For the sample picture; published with it. By
            default one that came with the package, if there is any.

    Raises:
        ValueError: If an id is none, or an evaluation cannot be read.
    """

    repo_id: str | None = None
    revision: str | None = None
    licence: str | None = None
    base: str | None = None
    base_revision: str | None = None
    evaluations: Sequence["EvaluationReport | Mapping[str, Any] | str | Path"] = ()
    training: "TrainingRecord | None" = None
    datasets: Sequence[str] = ()
    photograph: str | Path | Image.Image | None = None

    def __post_init__(self):
        for name, ids in (("repo_id", [self.repo_id]), ("base", [self.base]), ("datasets", self.datasets)):
            wrong = [each for each in ids if each is not None and not _is_repository(each)]
            if wrong:
                raise ValueError(f"`{name}` has {wrong[0]!r}, which is no id on the Hub; give one such as user/name.")
        object.__setattr__(self, "evaluations", tuple(_report(each) for each in self.evaluations))

    @classmethod
    def from_run(cls, output_dir: str | Path, **others: Any) -> "CardFacts":
        """
        What `llm-mde train` left in its output folder: `training.json`, and `evaluation/metrics.json` if it is about
        the model or the adapter there.

        Args:
            output_dir (`str` or `Path`): The folder; what it does not have is not known.
            others: More facts.

        Raises:
            ValueError: If there is no such folder, or one of the files is damaged.
        """
        from llm_mde.training.record import RECORD_FILE, TrainingRecord

        output_dir = Path(output_dir)
        if not output_dir.is_dir():
            raise ValueError(f"`output_dir` is {str(output_dir)!r}, which is no folder; give that of a training.")
        found = {}
        if (output_dir / RECORD_FILE).is_file():
            found["training"] = TrainingRecord.read(output_dir / RECORD_FILE)
        if (output_dir / "evaluation" / METRICS_FILE).is_file() and "evaluations" not in others:
            report = _report(output_dir / "evaluation")
            measured = read_json(output_dir / "evaluation" / METRICS_FILE)["setting"]["model"]
            if _is_of_run(Path(measured), output_dir):
                found["evaluations"] = [report]
            else:
                logger.warning(
                    f"{str(output_dir / 'evaluation')!r} is about {measured!r}, and so not in this "
                    "card; evaluate this model, or name what it was measured to (`--evaluation`)."
                )
        return cls(**found | others)


def model_card(
    model: "LLMMDEForDepthEstimation",
    processor: "LLMMDEProcessor",
    facts: CardFacts,
    with_sample: bool = False,
) -> ModelCard:
    """
    The card of a whole model.

    Args:
        model ([`LLMMDEForDepthEstimation`]): The model.
        processor ([`LLMMDEProcessor`]): Its processor.
        facts ([`CardFacts`]): What else is known.
        with_sample (`bool`, *optional*, defaults to `False`): Whether the sample picture and its photograph lie beside
            the card.
    """
    config, training = model.config, facts.training
    bases = [facts.base] if facts.base else training.start.hub_ids if training else []
    data = _front_matter(facts, config, "transformers", bases, "finetune", tags=[])
    size = f"{model.num_parameters():,} weights: {describe_parts(config)}."
    sections = {
        "Quick start": quick_start(config, facts.repo_id, facts.revision, SAMPLE_PHOTOGRAPH if with_sample else None),
        "Inputs": what_it_reads(processor),
        "Outputs and units": outputs_and_units(config),
        "How it was trained": training_section(training),
        "Evaluation": evaluation_section(facts.evaluations, training),
        "Size": size if training is None else f"{size}\n\n{parameter_table(training)}",
        **_end(config, facts),
    }
    return join_card(data, title_of(facts.repo_id), _beginning(introduction(config), with_sample), sections)


def adapter_card(
    model: "PeftModel", processor: "LLMMDEProcessor", facts: CardFacts, with_sample: bool = False
) -> ModelCard:
    """
    The card of an adapter.

    Args:
        model (`peft.PeftModel`): The adapted model; the card is that of its active adapter.
        processor ([`LLMMDEProcessor`]): Its processor.
        facts ([`CardFacts`]): What else is known. Without a `base`, the card names the one in the adapter's
            configuration if that is on the Hub.
        with_sample (`bool`, *optional*, defaults to `False`): Whether the sample picture and its photograph lie beside
            the card.
    """
    from llm_mde.training.recording import describe_adapter

    adapter = model.active_adapters[0]
    config, peft_config = model.get_base_model().config, model.peft_config[adapter]
    base, base_revision = facts.base, facts.base_revision
    named = peft_config.base_model_name_or_path
    if base is None and named and is_hub_id(named):
        base, base_revision = named, base_revision or peft_config.revision
    described = describe_adapter(model)
    data = _front_matter(facts, config, "peft", [base] if base else [], "adapter", tags=[described.kind.lower()])

    weights = {name: weight for name, weight in model.named_parameters() if adapter in name.split(".")}
    whole = sum(weight.numel() for name, weight in weights.items() if ".modules_to_save." in f".{name}.")
    num_weights = sum(weight.numel() for weight in weights.values())
    size = (
        f"{num_weights:,} weights: {describe_adapted(described.kind, described.parts)} ({num_weights - whole:,}), and "
        f"whole copies of {', '.join(described.whole_modules) or 'no module'} ({whole:,})."
    )
    of_base = "a base that is not on the Hub yet"
    if base is not None:
        of_base = f"[{base}](https://huggingface.co/{base})" + (f" at `{base_revision}`" if base_revision else "")
    beginning = f"An adapter ({described.kind}) for {of_base}. {introduction(config)}"
    photograph = SAMPLE_PHOTOGRAPH if with_sample else None
    start = adapter_quick_start(facts.repo_id, facts.revision, base, base_revision, photograph)
    sections = {
        "Quick start": f"{install(config, 'peft')}\n\n{start}",
        "Inputs": what_it_reads(processor),
        "Outputs and units": outputs_and_units(config),
        "How it was trained": training_section(facts.training),
        "Evaluation": evaluation_section(facts.evaluations, facts.training),
        "Size": size if facts.training is None else f"{size}\n\n{parameter_table(facts.training)}",
        **_end(config, facts),
    }
    title = title_of(facts.repo_id, "LLM-MDE adapter")
    return join_card(data, title, _beginning(beginning, with_sample), sections)


def add_evaluations(folder: str | Path, facts: CardFacts) -> None:
    """
    Puts evaluations into the card of a folder that was written before there were any.

    Args:
        folder (`str` or `Path`): Of a model or an adapter, as `write_model_folder` or `write_adapter_folder` left it.
        facts ([`CardFacts`]): Those that it was written with, and the evaluations.

    Raises:
        ValueError: If the card has evaluations already, or was not written here.
    """
    file = Path(folder) / "README.md"
    card = ModelCard.load(file)
    before, after = (
        f"## Evaluation\n\n{evaluation_section(each, facts.training)}\n" for each in ((), facts.evaluations)
    )
    if before not in card.text:
        raise ValueError(f"`folder` is {str(folder)!r}, whose card has no place for evaluations; write it anew.")
    card.text = card.text.replace(before, after)
    card.data.model_name, card.data.eval_results = title_of(facts.repo_id), eval_results(facts.evaluations) or None
    unfinished = file.with_name(".README.md.part")
    card.save(unfinished)
    unfinished.replace(file)


def _front_matter(
    facts: CardFacts, config: Any, library: str, bases: Sequence[str], relation: str, tags: Sequence[str]
) -> ModelCardData:
    datasets = list(facts.datasets)
    if facts.training is not None and facts.training.data.is_on_hub:
        datasets.append(facts.training.data.name)
    results = eval_results(facts.evaluations)
    measured = {"model_name": title_of(facts.repo_id), "eval_results": results} if results else {}
    related = {"base_model": bases[0] if len(bases) == 1 else list(bases), "base_model_relation": relation}
    return ModelCardData(
        license=facts.licence,
        library_name=library,
        pipeline_tag=PIPELINE_TAG,
        tags=[*tags_of(config), *tags],
        datasets=list(dict.fromkeys(datasets)) or None,
        **(related if bases else {}),
        **measured,
    )


def _beginning(text: str, with_sample: bool) -> str:
    picture = f"![A photograph, and the depth that this model sees in it, in colours]({SAMPLE_PICTURE})"
    return f"{text}\n\n{picture}" if with_sample else text


def _end(config: Any, facts: CardFacts) -> dict[str, str]:
    text = limits(config)
    if facts.training is not None:
        text += f"\n- What it has seen of depth: {facts.training.data.depth}. What is unlike that is out of its reach."
    citation = CITATION
    if facts.training is not None or facts.datasets:
        citation += "\n\nPlease cite the authors of the data and of pretrained encoders, too, as they ask for it."
    return {"Limits": text, "Licence": licence(facts.licence), "Citation": citation}


def _is_of_run(measured: Path, output_dir: Path) -> bool:
    """Whether what was measured is the model of a run. The run's folder may have been moved since."""
    own = output_dir / measured.name
    return measured.name in ("adapter", "model") and own.is_dir() and (not measured.exists() or measured.samefile(own))


def _report(evaluation: "EvaluationReport | Mapping[str, Any] | str | Path") -> EvaluationReport:
    if isinstance(evaluation, EvaluationReport):
        return evaluation
    if isinstance(evaluation, Mapping):
        return EvaluationReport.from_dict(evaluation)
    file = Path(evaluation)
    return EvaluationReport.read(file / METRICS_FILE if file.is_dir() else file)


def _is_repository(name: str) -> bool:
    return re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name) is not None


__all__ = ["CardFacts", "adapter_card", "add_evaluations", "model_card", "sample_picture"]
