"""`llm-mde publish`: a model, an adapter or a Space, with its card, as one commit on the Hub."""

import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import parse_arguments

if TYPE_CHECKING:
    from llm_mde.hub.cards import CardFacts

KINDS = {
    "model": "a model folder, or an adapter folder merged into its base, with its card",
    "adapter": "an adapter folder with its card; its base has to be on the Hub",
    "space": "a Space that shows a model, or a folder that is one already",
}


@dataclass
class UploadArguments:
    """Where it goes."""

    folder: str | None = field(
        default=None, metadata={"help": "What to publish; the flag may be left out in front of all others."}
    )
    repo_id: str | None = field(
        default=None, metadata={"help": "user/name, or name in your own namespace. Made if it is not there."}
    )
    output: str | None = field(
        default=None, metadata={"help": "Write what would be published to this folder instead; needs no network."}
    )
    private: bool = field(default=False, metadata={"help": "Whether a new repository stays hidden from others."})
    update: bool = field(
        default=False, metadata={"help": "Whether a repository that exists gets a new commit; else it is refused."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch to commit to, made if it is not there."})
    tag: str | None = field(
        default=None, metadata={"help": "Name of this version, such as v1, which the card's examples then pin."}
    )
    create_pr: bool = field(default=False, metadata={"help": "Whether to propose the commit as a pull request."})
    commit_message: str | None = field(default=None, metadata={"help": "Says what is uploaded by default."})

    def __post_init__(self):
        if (self.repo_id is None) and self.output is None:
            raise ValueError("`repo_id` is not given; say where it goes (user/name), or write an --output folder.")
        if self.create_pr and self.revision is not None:
            raise ValueError(f"`revision` is {self.revision!r} with `create_pr`, which is for the main branch alone.")
        if self.create_pr and self.tag is not None:
            raise ValueError(f"`tag` is {self.tag!r} with `create_pr`, and a proposal is no version yet; drop one.")


@dataclass
class CardArguments:
    """What the card says beyond what the model itself and the record of its training tell."""

    licence: str | None = field(
        default=None, metadata={"help": "Of the weights, as the Hub spells it, such as apache-2.0."}
    )
    evaluation: list[str] = field(
        default_factory=list,
        metadata={"help": "What `llm-mde evaluate` wrote, folders or metrics.json; else that of the training."},
    )
    datasets: list[str] = field(default_factory=list, metadata={"help": "Hub ids of the training data."})
    photograph: str | None = field(default=None, metadata={"help": "For the sample picture, and published with it."})


@dataclass
class BaseArguments:
    """What an adapter is for, where its configuration names a folder."""

    base: str | None = field(default=None, metadata={"help": "Hub id of the base, as it was published."})
    base_revision: str | None = field(
        default=None, metadata={"help": "Commit of the base; the newest of --base by default."}
    )


@dataclass
class SpaceArguments:
    """What a Space shows."""

    model: str | None = field(
        default=None,
        metadata={
            "help": "Model folder, which is published with the Space, or Hub id. Without it and without a folder, a "
            "small demonstration model is trained for some minutes."
        },
    )
    model_revision: str | None = field(default=None, metadata={"help": "Of a Hub id; best a commit."})
    title: str | None = field(default=None, metadata={"help": "Of the Space."})
    adapters: list[str] = field(
        default_factory=list, metadata={"help": "More to choose from: name=folder, name=user/name@revision, ..."}
    )

    def chosen_adapters(self) -> dict[str, str]:
        """By name.

        Raises:
            ValueError: If one has no name, or two have the same.
        """
        pairs = [each.partition("=")[::2] for each in self.adapters]
        if not all(name and place for name, place in pairs) or len(dict(pairs)) < len(pairs):
            raise ValueError(f"`adapters` is {self.adapters}; give each a name of its own: indoor=user/name@revision.")
        return dict(pairs)


def run(arguments: Sequence[str]) -> None:
    """`llm-mde publish`: look whether it may go there, write the folder, check it, upload it.

    Raises:
        ValueError: If something is missing or wrong, or for the reasons of `push`.
    """
    kind, *rest = list(arguments) or ["--help"]
    if kind in ("-h", "--help"):
        print(_usage())
        sys.exit(0 if arguments else 2)
    if kind not in KINDS:
        raise ValueError(f"there is no {kind!r} to publish; choose one of {', '.join(KINDS)}.")
    {"model": _publish_model, "adapter": _publish_adapter, "space": _publish_space}[kind](_with_folder_flag(rest))


def _publish_model(arguments: Sequence[str]) -> None:
    upload, card = parse_arguments(
        "publish model",
        [UploadArguments, CardArguments],
        arguments,
        "Publishes a model: loads it, writes weights (safetensors, as they are), configuration, processor, the code "
        "of this package and a card into a folder, checks it, and uploads it as one commit. A new repository is "
        "hidden until it is complete. The token is that of HF_TOKEN or `hf auth login`.",
    )
    name = _folder_of(upload)

    def write(target: Path, repo_id: str | None) -> None:
        from llm_mde.hub import load_model_and_processor, write_model_folder

        model, processor = load_model_and_processor(name, device="cpu")
        write_model_folder(target, model, processor, card=_facts(name, repo_id, upload, card))

    _publish(upload, "model", write)


def _publish_adapter(arguments: Sequence[str]) -> None:
    upload, card, on = parse_arguments(
        "publish adapter",
        [UploadArguments, CardArguments, BaseArguments],
        arguments,
        "Publishes an adapter: copies its weights, writes its configuration (with the base's Hub id and commit), the "
        "processor and a card into a folder, checks it, and uploads it as one commit; the folder that is given stays "
        "as it is. A new repository is hidden until it is complete. The token is that of HF_TOKEN or `hf auth login`.",
    )
    name = _folder_of(upload)

    def write(target: Path, repo_id: str | None) -> None:
        facts = _facts(name, repo_id, upload, card, **_base_on_hub(Path(name), on))
        _write_adapter(target, Path(name), facts, offline=upload.output is not None)

    _publish(upload, "adapter", write)


def _publish_space(arguments: Sequence[str]) -> None:
    upload, shown = parse_arguments(
        "publish space",
        [UploadArguments, SpaceArguments],
        arguments,
        "Publishes a Space that shows a model (--model), or one that was written and perhaps changed before (FOLDER), "
        "as one commit. A new Space is hidden until it is complete. The token is that of HF_TOKEN or `hf auth login`.",
    )
    adapters = shown.chosen_adapters()
    if upload.folder is not None:
        _folder_of(upload)
    if upload.folder is not None and shown != SpaceArguments():
        raise ValueError(f"`folder` is {upload.folder!r}, a Space that says what it shows; leave the other flags out.")

    def write(target: Path, repo_id: str | None) -> None:
        from llm_mde.hub.folders import appearing_whole
        from llm_mde.hub.space import write_space_folder

        if upload.folder is not None:
            with appearing_whole(target) as unfinished:
                shutil.copytree(upload.folder, unfinished, symlinks=True, dirs_exist_ok=True)
        else:
            write_space_folder(
                target, shown.model, title=shown.title, revision=shown.model_revision, adapters=adapters
            )

    _publish(upload, "space", write)


def _publish(upload: UploadArguments, kind: str, write: Callable[[Path, str | None], None]) -> None:
    """Everything but the writing of the folder, which all kinds do in their own way."""
    from huggingface_hub import logging as hub_logging
    from huggingface_hub.utils import disable_progress_bars
    from transformers import logging

    from llm_mde.hub.publishable import check_folder
    from llm_mde.hub.publishing import check_repository, commit_folder

    logging.disable_progress_bar()
    hub_logging.set_verbosity_error()  # what it tries again and again is for its errors to tell, once
    if not sys.stderr.isatty():
        disable_progress_bars()
    if upload.output is not None:
        output, refused = Path(upload.output), True
        write(output, upload.repo_id)
        try:
            _check_kind(check_folder(output), kind)
            refused = False
        finally:
            if refused:  # it was made here: nothing is written into a folder that has something in it
                shutil.rmtree(output)
        print("Written:", *(f"  {path}" for path in sorted(output.rglob("*")) if path.is_file()), sep="\n")
        return
    repo_type = "space" if kind == "space" else "model"
    repo_id = check_repository(upload.repo_id, repo_type, update=upload.update or upload.create_pr, tag=upload.tag)
    with tempfile.TemporaryDirectory(prefix="llm-mde-") as place:
        folder = Path(place, "folder")
        write(folder, repo_id)
        _check_kind(check_folder(folder), kind)
        commit = commit_folder(
            folder,
            repo_id,
            private=upload.private,
            commit_message=upload.commit_message,
            revision=upload.revision,
            create_pr=upload.create_pr,
            update=upload.update,
            tag=upload.tag,
        )
        print(commit.pr_url or commit.repo_url, flush=True)
        print(_next_step(kind, folder, repo_id, commit.oid))


def _check_kind(found: str, wanted: str) -> None:
    if found != wanted:
        raise ValueError(f"`folder` holds a {found}, not a {wanted}; publish it with `llm-mde publish {found}`.")


def _base_on_hub(source: Path, on: BaseArguments) -> dict[str, str]:
    """Hub id and commit of an adapter's base: as the flags say, else as its configuration does."""
    from llm_mde.adapters_llm_mde import AdapterFiles
    from llm_mde.hub.publishable import base_on_hub
    from llm_mde.hub.publishing import commit_of

    named = AdapterFiles.find(source).config
    if on.base is None and on.base_revision is None:
        base, revision = base_on_hub(named)
    else:
        base = on.base or named.get("base_model_name_or_path")
        base, revision = base_on_hub({"base_model_name_or_path": base, "revision": on.base_revision or "main"})
        if not re.fullmatch("[0-9a-f]{40}", revision):  # a branch or a tag, which may move
            try:
                revision = commit_of(base, revision)
            except ValueError as error:
                raise ValueError(f"{error} Without the Hub, name the commit: --base_revision COMMIT.") from error
    return {"base": base, "base_revision": revision}


def _write_adapter(target: Path, source: Path, facts: "CardFacts", offline: bool) -> None:
    """The adapter as it is, with the card of what others will have: the adapter on the base that it names."""
    from peft import PeftModel

    from llm_mde import LLMMDEProcessor
    from llm_mde.adapters_llm_mde import ADAPTER_WEIGHTS_NAME, AdapterFiles
    from llm_mde.hub import load_model_and_processor, write_adapter_folder
    from llm_mde.hub.loading import find_base

    adapter = AdapterFiles.find(source)
    base, revision = facts.base, facts.base_revision
    if offline and (here := Path(find_base(adapter.config.get("base_model_name_or_path") or base, source))).is_dir():
        base, revision = here, None
    model, processor = load_model_and_processor(base, revision, device="cpu")
    adapter.check_fits(model)
    if (source / "processor_config.json").is_file():
        processor = LLMMDEProcessor.from_pretrained(source)
    write_adapter_folder(target, PeftModel.from_pretrained(model, source).eval(), processor, card=facts)
    shutil.copyfile(source / ADAPTER_WEIGHTS_NAME, target / ADAPTER_WEIGHTS_NAME)  # in the type they were saved in


def _facts(folder: str, repo_id: str | None, upload: UploadArguments, card: CardArguments, **others) -> "CardFacts":
    """What the flags say, and what `llm-mde train` has left beside the folder, if it made it."""
    from llm_mde.hub.cards import CardFacts

    said = {
        "repo_id": repo_id,
        "revision": upload.tag or upload.revision,
        "licence": card.licence,
        "datasets": card.datasets,
        "photograph": card.photograph,
        **others,
        **({"evaluations": card.evaluation} if card.evaluation else {}),
    }
    is_of_run = Path(folder).is_dir() and Path(folder).resolve().name in ("adapter", "model")  # and not its base
    return CardFacts.from_run(Path(folder).resolve().parent, **said) if is_of_run else CardFacts(**said)


def _folder_of(upload: UploadArguments) -> str:
    if upload.folder is None:
        raise ValueError("`folder` is not given; say what to publish.")
    if not Path(upload.folder).is_dir():
        raise ValueError(f"`folder` is {upload.folder!r}, which is not a folder.")
    return upload.folder


def _next_step(kind: str, folder: Path, repo_id: str, commit: str) -> str:
    """How it is loaded, at this very commit."""
    from llm_mde.hub.publishable import base_on_hub, read_json

    if kind == "space":
        return "It is built there now, which takes some minutes."
    lines = [
        "from transformers import pipeline",
        f'estimate = pipeline("depth-estimation", model="{repo_id}", revision="{commit}", trust_remote_code=True)',
    ]
    if kind == "adapter":
        base, revision = base_on_hub(read_json(folder / "adapter_config.json"))
        lines = [
            "from peft import PeftModel",
            "from transformers import AutoModelForDepthEstimation, AutoProcessor",
            f'base = AutoModelForDepthEstimation.from_pretrained("{base}", revision="{revision}", '
            "trust_remote_code=True)",
            f'model = PeftModel.from_pretrained(base, "{repo_id}", revision="{commit}")',
            f'processor = AutoProcessor.from_pretrained("{repo_id}", revision="{commit}", trust_remote_code=True)',
        ]
    code = "\n".join(f"    {line}" for line in lines)
    return f"Load this commit, wherever Transformers is installed:\n\n{code}\n"


def _with_folder_flag(arguments: list[str]) -> list[str]:
    """`FOLDER --repo_id x` as `--folder FOLDER --repo_id x`; a file of arguments in front stays in front."""
    if not arguments or arguments[0].startswith("-") or arguments[0].endswith((".yaml", ".yml", ".json")):
        return arguments
    return ["--folder", *arguments]


def _usage() -> str:
    lines = [f"  {name:<10} {purpose}" for name, purpose in KINDS.items()]
    return "\n".join(
        [
            "usage: llm-mde publish KIND FOLDER --repo_id user/name ...",
            "",
            "Publishes on the Hub, as one commit with everything that others need to load it. Kinds:",
            *lines,
            "",
            "`llm-mde publish KIND --help` describes the flags of one.",
        ]
    )


__all__ = ["run"]
