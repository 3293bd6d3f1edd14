"""What a run trains, with which settings: everything but the steps themselves."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import llm_mde.training
from llm_mde.cli.data_arguments import DataArguments
from llm_mde.evaluation import MedianDepthBaseline
from llm_mde.processing import DepthAugmentation
from llm_mde.studies import lora, prompts, reprogramming
from llm_mde.studies.cnn import CNNForDepthEstimation
from llm_mde.studies.few_shot import FewShotArguments
from llm_mde.studies.runner import Workbench, describe_loss
from llm_mde.studies.surgery import remove_language_model
from llm_mde.training import AugmentedFrames

pytest.importorskip("peft")
pytest.importorskip("datasets")


class RecordingTrainer:
    """Keeps what it was given, and trains nothing."""

    def __init__(self, model, args, train_dataset, data_collator):
        RecordingTrainer.last = self
        self.args, self.frames = args, train_dataset
        self.trained = [name for name, weight in model.named_parameters() if weight.requires_grad]

    def remove_callback(self, callback) -> None:
        pass

    def train(self):
        return SimpleNamespace(training_loss=0.0)


@pytest.fixture(autouse=True)
def trainer(monkeypatch):
    monkeypatch.setattr(llm_mde.training, "DepthTrainer", RecordingTrainer)


def make_bench(base, data, kind=FewShotArguments, dataset="room", **options) -> Workbench:
    options = {"model": str(base), "use_cpu": True, "mixed_precision": "no", **options}
    return Workbench(kind(**options), DataArguments(data=str(data), dataset=dataset))


def rates() -> tuple[float, float | None, float | None]:
    arguments = RecordingTrainer.last.args
    return arguments.learning_rate, arguments.vision_learning_rate, arguments.language_learning_rate


def recipe_of(name: str) -> dict:
    return yaml.safe_load((Path(llm_mde.training.__file__).parent / "recipes" / f"{name}.yaml").read_text())


SCRATCH = {"model": None, "from_scratch": True, "image_height": 32, "image_width": 32}


@pytest.mark.parametrize(
    ("options", "recipe"),
    [({}, "lora"), ({"method": "full"}, "full"), ({"method": "frozen"}, "frozen"), (SCRATCH, "from-scratch")],
)
def test_a_run_trains_as_the_recipe_of_its_method(options, recipe, studied_base, studied_data):
    bench = make_bench(studied_base, studied_data, **options)
    model, numbers = bench.train(*bench.load(3), 3)
    recipe = recipe_of(recipe)
    names = ("learning_rate", "vision_learning_rate", "language_learning_rate")
    assert rates() == tuple(recipe.get(name) for name in names)
    arguments, frames = RecordingTrainer.last.args, RecordingTrainer.last.frames
    for name in ("weight_decay", "warmup_steps", "lr_scheduler_type"):
        assert getattr(arguments, name) == recipe[name]
    assert (arguments.max_steps, arguments.per_device_train_batch_size, arguments.seed) == (300, 8, 3)
    assert (arguments.eval_strategy, arguments.save_strategy, arguments.load_best_model_at_end) == ("no", "no", False)
    assert isinstance(frames, AugmentedFrames) and frames.seed == 3
    assert frames.augmentation == KINDS[recipe["augmentation"]]
    assert model.config.variance_focus == recipe["variance_focus"]
    assert numbers["num_train_frames"] == 8


KINDS = {"mild": DepthAugmentation(), "strong": DepthAugmentation.strong()}


def test_flags_replace_the_recipe(studied_base, studied_data):
    bench = make_bench(
        studied_base, studied_data, learning_rate=7e-4, augmentation="strong", max_steps=9, batch_size=3
    )
    bench.train(*bench.load(), 0)
    assert rates()[0] == 7e-4
    assert RecordingTrainer.last.frames.augmentation == KINDS["strong"]
    assert (RecordingTrainer.last.args.max_steps, RecordingTrainer.last.args.per_device_train_batch_size) == (9, 3)


def test_without_augmentation_the_frames_stay_as_they_are(studied_base, studied_data):
    bench = make_bench(studied_base, studied_data, augmentation="none")
    bench.train(*bench.load(), 0)
    assert not isinstance(RecordingTrainer.last.frames, AugmentedFrames)


def test_seeds_draw_nested_shots_and_share_what_they_can(studied_base, studied_data):
    bench = make_bench(studied_base, studied_data)
    assert bench.data_of(0) is bench.data_of(1) is bench.data
    names = {(seed, shots): set(bench.data_of(seed, shots).load_train().names) for seed in (0, 1) for shots in (2, 4)}
    assert names[0, 2] < names[0, 4] and names[1, 2] < names[1, 4]
    assert names[0, 4] != names[1, 4]
    _, processor = bench.load()
    assert bench._training_frames(bench.data_of(0), processor) is bench._training_frames(bench.data_of(1), processor)


def test_two_encoders_become_a_new_model_for_each_seed(studied_base, studied_data, tmp_path):
    model, processor = make_bench(studied_base, studied_data).load()
    model.vision_tower.save_pretrained(tmp_path / "vit")
    model.language_model.save_pretrained(tmp_path / "bert")
    processor.tokenizer.save_pretrained(tmp_path / "bert")
    encoders = {"vision_model": str(tmp_path / "vit"), "language_model": str(tmp_path / "bert")}
    bench = make_bench(None, studied_data, model=None, **encoders)
    first, again, other = (bench.load(seed)[0] for seed in (0, 0, 1))
    for name in ("vision_tower.embeddings.position_embeddings", "reprogramming.patch_query.weight"):
        assert torch.equal(first.get_parameter(name), again.get_parameter(name))
    positions = model.vision_tower.embeddings.position_embeddings
    assert torch.equal(first.vision_tower.embeddings.position_embeddings, positions)
    assert not torch.equal(first.reprogramming.patch_query.weight, other.reprogramming.patch_query.weight)
    assert [run.name for run in bench.base_runs()] == []  # nothing that was trained before


def test_an_adapter_adapts_what_is_left_of_a_model(studied_base, studied_data):
    bench = make_bench(studied_base, studied_data)
    model, processor = bench.load()
    remove_language_model(model)
    trained, _ = bench.train(model, processor, 0, rank=2)
    adapted = [name for name in RecordingTrainer.last.trained if "lora_A" in name]
    assert adapted and all(".vision_tower." in name for name in adapted)
    assert not hasattr(trained, "merge_and_unload")  # measured without the adapter's detour


def test_words_that_nothing_reads_are_not_trained(studied_base, studied_data):
    bench = make_bench(studied_base, studied_data, method="full")
    model, processor = bench.load()
    words = model.get_input_embeddings().weight.numel()
    language = sum(weight.numel() for weight in model.language_model.parameters())
    whole = bench.train(model, processor, 0)[1]["trained_parameters"]
    remove_language_model(model)
    assert whole - bench.train(model, processor, 0)[1]["trained_parameters"] == language
    assert not model.get_input_embeddings().weight.requires_grad
    assert words < language


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_cnn_of_random_weights_is_optimised_as_such_and_has_the_loss_of_the_others(
    pretrained, studied_base, studied_data, monkeypatch
):
    wanted = []

    def build(config, architecture, pretrained, normalised_with):  # there is no Hub to load from
        wanted.append((pretrained, normalised_with))
        return CNNForDepthEstimation(config, architecture)

    monkeypatch.setattr(reprogramming, "CNNForDepthEstimation", build)
    bench = make_bench(studied_base, studied_data, reprogramming.ReprogrammingArguments, pretrained_cnn=pretrained)
    (row,) = reprogramming._train_cnn(bench, 0)
    chosen = recipe_of("lora" if pretrained else "from-scratch")
    names = ("learning_rate", "vision_learning_rate", "language_learning_rate")
    assert rates() == tuple(chosen.get(name) for name in names)
    arguments = RecordingTrainer.last.args
    assert (arguments.weight_decay, arguments.warmup_steps) == (chosen["weight_decay"], chosen["warmup_steps"])
    images = bench.load()[1].image_processor
    assert wanted == [(pretrained, (images.image_mean, images.image_std) if pretrained else None)]
    assert row["trained_parameters"] > 11e6
    assert ("pretrained" in row["variant"]) == pretrained
    (whole,) = reprogramming._train_variant(bench, "LLM-MDE", 0)
    assert row["loss"] == whole["loss"]
    assert arguments.relative_start == RecordingTrainer.last.args.relative_start


def test_runs_of_few_frames_see_as_many_frames_as_others(studied_base, studied_data):
    bench = make_bench(studied_base, studied_data, max_steps=7, batch_size=4)
    seen = {}
    for shots in (2, 3, 8):
        _, numbers = bench.train(*bench.load(), 0, data=bench.data_of(0, shots))
        frames = RecordingTrainer.last.frames
        assert len(frames) % 4 == 0 and numbers["num_train_frames"] == shots
        names = [frames[index].name for index in range(len(frames))]
        assert {names.count(name) for name in names} == {len(frames) // shots}
        seen[shots] = numbers["frames_seen"]
        if shots == 2:  # each copy draws its own augmentation
            assert names[0] == names[2] and frames[0].image.tobytes() != frames[2].image.tobytes()
    assert set(seen.values()) == {28}


def test_a_trainer_meets_full_batches_alone(studied_base, studied_data, monkeypatch):
    from llm_mde.training.trainer import DepthTrainer

    sizes = []

    class CountingTrainer(DepthTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            sizes.append(len(inputs["labels"]))
            return super().training_step(model, inputs, *args, **kwargs)

    monkeypatch.setattr(llm_mde.training, "DepthTrainer", CountingTrainer)
    bench = make_bench(studied_base, studied_data, max_steps=4, batch_size=4)
    _, numbers = bench.train(*bench.load(), 0, data=bench.data_of(0, 3))
    assert sizes == 4 * [4] and numbers["frames_seen"] == sum(sizes)


def test_the_loss_is_told_in_words(studied_base, studied_data):
    config = make_bench(studied_base, studied_data).load()[0].config
    config.variance_focus, config.relative_weight, config.loss_reduction = 0.15, 4.0, "image"
    assert describe_loss(config) == "SILog (lambda 0.15, reduction image) + 4 x relative error"
    assert describe_loss(config, 0.4).endswith("relative error, which counts after 40% of the steps")
    config.relative_weight = 0.0
    assert describe_loss(config, 0.4) == "SILog (lambda 0.15, reduction image)"
    config.depth_estimation_type = "relative"
    assert describe_loss(config) == "SILog (lambda 1, reduction image)"
    bench = make_bench(None, studied_data, **SCRATCH)
    model, numbers = bench.train(*bench.load(), 0)
    recipe = recipe_of("from-scratch")
    assert RecordingTrainer.last.args.relative_start == recipe["relative_start"]
    assert model.config.relative_weight == recipe["relative_weight"]
    assert numbers["loss"] == describe_loss(model.config, recipe["relative_start"])


def test_medians_are_those_of_the_frames_a_seed_draws_and_of_the_pixels_that_count(studied_base, studied_data):
    bench = make_bench(studied_base, studied_data, prompts.PromptsArguments, protocol_max_depth=3.5)
    bench.data.shots = "2"
    runs = [run for run in prompts.plan(bench) if run.name == "constants"]
    assert [run.seed for run in runs] == bench.options.seeds == [0, 1, 2]
    protocol = bench.options.chosen_protocol()
    for run in runs:
        few = bench.data_of(run.seed).load_train()
        median = MedianDepthBaseline.fit(few, protocol=protocol)
        assert median.depth != MedianDepthBaseline.fit(bench.data.load_train()).depth
        (row,) = run.work()
        assert row["abs_rel"] == bench.measure(predict=median)["abs_rel"]


def test_lora_is_compared_with_the_recipes_of_the_other_methods(studied_base, studied_data):
    bench = make_bench(studied_base, studied_data, lora.LoraArguments)
    for method, rank in (("lora", 4), ("full", None), ("frozen", None)):
        (row,) = lora._train(bench, method, rank, 0)
        assert row["at"] == rank
        assert rates()[1] == recipe_of(method).get("vision_learning_rate")


def test_a_bench_travels_without_its_frames(studied_base, studied_data):
    import pickle

    bench = make_bench(studied_base, studied_data)
    bench.train(*bench.load(), 0)
    assert len(pickle.dumps(bench)) < 5000
    assert pickle.loads(pickle.dumps(bench)).options == bench.options
    assert torch.device("cpu") == bench.device
