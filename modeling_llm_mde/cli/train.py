"""`llm-mde train`: from RGB-D frames to an adapter, or to a small model of its own, and a table of how good it is."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .arguments import parse_arguments, read_argument_file, starts_with_file

RECIPES = ("lora", "full", "frozen", "from-scratch")


@dataclass
class RunArguments:
    """The run as a whole."""

    recipe: str = field(
        default="lora",
        metadata={
            "help": "Values that a file or flags replace: 'lora' (the paper's), 'full', 'frozen', or 'from-scratch'.",
            "choices": RECIPES,
        },
    )
    protocol: str = field(
        default="plain",
        metadata={
            "help": "How the result is measured; see `llm-mde evaluate`. Here 'plain' goes as far as the model's "
            "depth, and of relative depth the median is aligned."
        },
    )
    protocol_max_depth: float | None = field(
        default=None, metadata={"help": "Metres up to which the result is measured; replaces the protocol's."}
    )
    eval_data: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id whose --eval_split is measured with, instead of --data; its layout is "
            "recognised, and --layout, --dataset, --depth_scale, columns, configuration and revision are not its."
        },
    )
    eval_layout: str | None = field(default=None, metadata={"help": "--layout of --eval_data."})
    eval_dataset: str | None = field(default=None, metadata={"help": "--dataset of --eval_data."})
    eval_depth_scale: float | None = field(default=None, metadata={"help": "--depth_scale of --eval_data."})

    def __post_init__(self):
        from llm_mde.evaluation import get_protocol

        limit = {} if self.protocol_max_depth is None else {"max_depth": self.protocol_max_depth}
        get_protocol(self.protocol, **limit)  # refused now, and not when everything is loaded
        for name in ("eval_layout", "eval_dataset", "eval_depth_scale"):
            value = getattr(self, name)
            if value is not None and self.eval_data is None:
                raise ValueError(f"`{name}` is {value!r} without `eval_data`; `--data` has --{name[5:]}.")


def run(arguments: Sequence[str]) -> None:
    """`llm-mde train`: load, adapt, train, keep, measure."""
    from llm_mde.hub.cards import CardFacts, add_evaluations
    from llm_mde.hub.publishing import push
    from llm_mde.public_names import public_command
    from llm_mde.training.arguments import DepthTrainingArguments
    from llm_mde.training.model_arguments import FrameArguments, ModelArguments
    from llm_mde.training.run import train

    from .data_arguments import DataArguments
    from .evaluate import EvaluateArguments, evaluate

    recipe = _recipe_of(arguments)
    run_arguments, model_arguments, frame_arguments, data_arguments, training_arguments = parse_arguments(
        "train",
        [RunArguments, ModelArguments, FrameArguments, DataArguments, DepthTrainingArguments],
        arguments,
        "Adapts LLM-MDE to RGB-D frames with the Trainer of Transformers, measures the result on the evaluation split "
        "beside the trivial baselines, and leaves an adapter or a model folder. Start it through `accelerate launch "
        "-m llm_mde.cli train ...` for several processes.",
        defaults=Path(__file__).parent.parent / "training" / "recipes" / f"{recipe}.yaml",
    )
    if data_arguments.shots_seed is None:
        data_arguments.shots_seed = training_arguments.seed  # the baselines below read the same few samples
    eval_data_arguments = data_arguments
    baselines = {"baselines": not data_arguments.streaming}  # they would read the whole stream again
    if run_arguments.eval_data is not None:
        eval_data_arguments = data_arguments.of_another_set(
            run_arguments.eval_data,
            run_arguments.eval_layout,
            run_arguments.eval_dataset,
            run_arguments.eval_depth_scale,
        )
        # The measurement can tell another training set by its name and depth scale alone.
        data, depth_scale = data_arguments.data, data_arguments.depth_scale
        if data_arguments == data_arguments.of_another_set(data, depth_scale=depth_scale):
            if baselines["baselines"]:
                baselines |= {"train_data": data, "train_depth_scale": depth_scale}
        else:
            baselines = {"baselines": False}
    command = public_command(["llm-mde", "train", *arguments])
    folder = train(
        model_arguments,
        frame_arguments,
        data_arguments,
        training_arguments,
        eval_data_arguments,
        command=command,
        recipe=recipe,
        protocol=run_arguments.protocol,
        protocol_max_depth=run_arguments.protocol_max_depth,
    )
    measure = EvaluateArguments(
        model=str(folder),
        output=str(folder.parent / "evaluation"),
        protocol=run_arguments.protocol,
        max_depth=run_arguments.protocol_max_depth,
        device=str(training_arguments.device),
        **baselines,
    )
    evaluate(measure, eval_data_arguments, command, after_training=True)
    if training_arguments.process_index == 0:
        repo_id = training_arguments.hub_model_id or folder.parent.resolve().name
        is_pushed = training_arguments.push_to_hub
        add_evaluations(folder, CardFacts.from_run(folder.parent, repo_id=repo_id if is_pushed else None))
        print(f"\nKept in {folder}", flush=True)
        if is_pushed:  # after the checkpoints: what is kept, and measured
            push(
                folder,
                repo_id,
                private=bool(training_arguments.hub_private_repo),
                token=training_arguments.hub_token,
                commit_message="End of training",
                revision=training_arguments.hub_revision,
                update=True,
            )


def _recipe_of(arguments: Sequence[str]) -> str:
    """The recipe named by a flag, else by the file of arguments, else the paper's."""
    import argparse

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe")
    recipe = parser.parse_known_args(list(arguments))[0].recipe
    if recipe is None and starts_with_file(arguments):
        recipe = read_argument_file(Path(arguments[0])).get("recipe")
    recipe = RunArguments.recipe if recipe is None else recipe
    if recipe not in RECIPES:
        raise ValueError(f"`recipe` is {recipe!r}; choose one of {', '.join(RECIPES)}.")
    return recipe
