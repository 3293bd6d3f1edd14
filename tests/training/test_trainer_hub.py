"""Pushes while training, to a Hub on this machine: what can be seen can be loaded, at every commit."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from transformers import Trainer, TrainerCallback, TrainingArguments

from llm_mde import LLMMDEForDepthEstimation, modeling_llm_mde
from llm_mde.cli import main
from llm_mde.hub import load_model_and_processor, write_model_folder
from llm_mde.hub.cards import CardFacts
from llm_mde.hub.publishing import commit_folder
from llm_mde.processing import DepthCollator, write_depth_png
from llm_mde.publishing_llm_mde import publish_folder
from llm_mde.training import DepthTrainer, lora_config, prepare_for_training
from llm_mde.training import publishing as publishing_module
from tests.conftest import ROOT, make_pair
from tests.hub import conftest as hub_fixtures
from tests.hub.conftest import hub_environment
from tests.training.conftest import make_frames
from tests.training.test_trainer import largest_difference, make_trainer, weights_of

pytest.importorskip("accelerate")
hub_server = hub_fixtures.hub_server

EVERY_REVISION = """
import sys
sys.modules["llm_mde"] = None  # as if it were not installed
from huggingface_hub import snapshot_download
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForDepthEstimation, AutoProcessor, pipeline

repo_id, output, *revisions = sys.argv[1:]
image = Image.new("RGB", (40, 30), (10, 120, 200))
depths = {}
for revision in revisions:
    folder = snapshot_download(repo_id, revision=revision)
    model = AutoModelForDepthEstimation.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    estimate = pipeline("depth-estimation", model=folder, trust_remote_code=True)
    assert type(estimate).__name__ == "LLMMDEDepthEstimationPipeline", type(estimate)
    depths[revision] = estimate(image)["predicted_depth"].contiguous()
    outputs = model(**processor(images=image, return_tensors="pt"))
    (direct,) = processor.post_process_depth_estimation(outputs, target_sizes=[(30, 40)])
    assert (direct["predicted_depth"] - depths[revision]).abs().max() < 1e-5
assert "llm_mde" not in {name for name, module in sys.modules.items() if module is not None}
save_file(depths, output)
"""

TWO_PROCESSES = """
import sys
from types import SimpleNamespace

import torch
from torch.distributed import destroy_process_group
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard

from tests.conftest import make_pair
from tests.training.conftest import make_frames
from tests.training.conftest import make_frames
from tests.training.test_trainer import make_trainer

output, kind = sys.argv[1:]
torch.set_num_threads(1)
model, processor = make_pair()
options = {"push_to_hub": True, "hub_model_id": f"tester/{kind}", "hub_always_push": True}
options |= {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "per_device_train_batch_size": 2}
trainer = make_trainer(f"{output}/{kind}", model, processor, make_frames(8), **options)
if kind == "ddp":
    trainer.train()
else:  # FSDP2 by hand: Accelerate ignores it on CPUs
    fully_shard(model)
    assert isinstance(model, FSDPModule)
    settings = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, cpu_offload=True)
    trainer.is_fsdp_enabled = True
    trainer.accelerator.state.fsdp_plugin = SimpleNamespace(state_dict_type="FULL_STATE_DICT")
    trainer.accelerator.get_state_dict = lambda model: get_model_state_dict(model, options=settings)
trainer.push_to_hub()
trainer.save_model(f"{output}/{kind}/checkpoint", _internal_call=True)
assert isinstance(model, FSDPModule) == (kind == "fsdp2")
destroy_process_group()
"""


def load_every_revision(hub, tmp_path, repo_id: str) -> dict[str, torch.Tensor]:
    """The depth of one photograph by each of the commits, in a process without this package."""
    revisions = [revision for revision, _ in hub.commits(repo_id)[1:]]  # the first is the Hub's own
    output = tmp_path / "depths.safetensors"
    process = subprocess.run(
        [sys.executable, "-c", EVERY_REVISION, repo_id, str(output), *revisions],
        capture_output=True,
        text=True,
        env=hub_environment(hub, tmp_path),
        check=False,
    )
    assert process.returncode == 0, process.stderr[-9000:]
    depths = load(output.read_bytes())
    return {revision: depths[revision] for revision in revisions}


def messages(hub, repo_id: str) -> list[str]:
    return [message for _, message in hub.commits(repo_id)[1:]]


def assert_clean(hub, repo_id: str) -> None:
    """Nothing pickled, nothing of this machine or of other runs, and a card without gaps, at every commit."""
    for revision, _ in hub.commits(repo_id)[1:]:
        files = hub.files(repo_id, revision)
        assert {Path(name).suffix for name in files} <= {".json", ".safetensors", ".py", ".md", ".txt", ".jpg", ""}
        assert not any("/" in name for name in files)
        assert "processor_config.json" in files
        assert "more information needed" not in files["README.md"].decode().lower()
        assert "pipeline_tag: depth-estimation" in files["README.md"].decode()
        assert hub.token.encode() not in b"".join(files.values())


def assert_no_token(folder: Path, token: str) -> None:
    assert not [path for path in folder.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]


def publish_base(hub, folder: Path, repo_id: str = "tester/base"):
    """A model on the Hub, and what comes back from there."""
    write_model_folder(folder, *make_pair())
    commit = publish_folder(folder, repo_id)
    return *load_model_and_processor(repo_id, device="cpu"), commit.oid


def make_publisher(folder, model, processor, frames, **options) -> DepthTrainer:
    options = {
        "push_to_hub": True,
        "hub_model_id": "tester/rooms",
        "hub_always_push": True,
        "save_strategy": "steps",
        "save_steps": 2,
        "max_steps": 4,
        **options,
    }
    return make_trainer(folder, model, processor, frames, **options)


@pytest.mark.slow
def test_every_commit_of_a_training_loads_without_the_package(hub_server, tmp_path, frames, capfd):
    model, processor = make_pair()
    output = tmp_path / "output"
    (output / "runs").mkdir(parents=True)
    (output / "runs" / "notes.txt").write_text("of another run")
    trainer = make_publisher(output, model, processor, frames, hub_token=hub_server.token)
    assert hub_server.repositories() == []
    trainer.train()
    with torch.no_grad():
        next(model.depth_head.parameters()).mul_(1.5)  # what is pushed last is the model as it then is
    commit = trainer.push_to_hub()
    assert commit.oid == hub_server.commits("tester/rooms")[-1][0]
    assert messages(hub_server, "tester/rooms") == [
        "Training in progress, step 2",
        "Training in progress, step 4",
        "End of training",
    ]
    depths = list(load_every_revision(hub_server, tmp_path, "tester/rooms").values())
    assert not torch.equal(depths[0], depths[1]) and not torch.equal(depths[1], depths[2])
    assert_clean(hub_server, "tester/rooms")
    second = hub_server.commits("tester/rooms")[2][0]
    pushed = hub_server.files("tester/rooms", second)["model.safetensors"]
    assert pushed == (output / "checkpoint-4" / "model.safetensors").read_bytes()
    loaded = LLMMDEForDepthEstimation.from_pretrained("tester/rooms")
    assert largest_difference(weights_of(loaded), weights_of(model)) == 0
    assert not hub_server.is_private("tester/rooms")
    seen = [moment.files for moment in hub_server.moments("tester/rooms") if not moment.private]
    assert seen and all({"config.json", "model.safetensors", "modeling_llm_mde.py"} <= files for files in seen)
    assert {path.name for path in output.iterdir()} == {"runs", "checkpoint-2", "checkpoint-4"}  # nothing staged
    assert_no_token(output, hub_server.token)
    assert trainer.args.hub_token == hub_server.token
    assert hub_server.token not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_every_commit_of_an_adapter_loads_with_its_base(hub_server, tmp_path, frames):
    pytest.importorskip("peft")
    base, processor, base_commit = publish_base(hub_server, tmp_path / "base")
    adapted = prepare_for_training(base, "lora", lora_config(base, vision_rank=4))
    trainer = make_publisher(tmp_path / "output", adapted, processor, frames)
    trainer.train()
    trainer.push_to_hub()
    assert len(messages(hub_server, "tester/rooms")) == 2  # the last checkpoint is what there is at the end
    assert len(load_every_revision(hub_server, tmp_path, "tester/rooms")) == 2
    assert_clean(hub_server, "tester/rooms")
    files = hub_server.files("tester/rooms")
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("tester/base", base_commit)
    assert "config.json" not in files and "model.safetensors" not in files
    loaded, _ = load_model_and_processor("tester/rooms", device="cpu")
    merged = adapted.merge_and_unload()
    assert largest_difference(weights_of(loaded), weights_of(merged)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_of_two_processes_one_pushes_the_whole_model(kind, hub_server, tmp_path):
    """With FSDP2 the model's class is one of torch's making, whose code would be written in the place of ours."""
    (tmp_path / "script.py").write_text(TWO_PROCESSES)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.run(
        [sys.executable, *launch, str(tmp_path / "script.py"), str(tmp_path / "output"), kind],
        capture_output=True,
        text=True,
        env=hub_environment(hub_server, tmp_path) | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"},
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-9000:]
    assert len(messages(hub_server, f"tester/{kind}")) == (2 if kind == "ddp" else 1)
    commits = [request for request in hub_server.requests if "/commit/" in request.path]
    assert len(commits) == len(messages(hub_server, f"tester/{kind}"))
    assert_clean(hub_server, f"tester/{kind}")
    code = {path.name: path.read_bytes() for path in (tmp_path / "output" / kind / "checkpoint").glob("*.py")}
    pushed = hub_server.files(f"tester/{kind}")
    assert code == {name: content for name, content in pushed.items() if name.endswith(".py")}
    assert code["modeling_llm_mde.py"] == Path(modeling_llm_mde.__file__).read_bytes()
    assert json.loads(pushed["config.json"])["architectures"] == ["LLMMDEForDepthEstimation"]
    loaded, _ = load_model_and_processor(f"tester/{kind}", device="cpu")
    saved, _ = load_model_and_processor(tmp_path / "output" / kind / "checkpoint", device="cpu")
    assert largest_difference(weights_of(loaded), weights_of(saved)) == 0
    assert (largest_difference(weights_of(loaded), weights_of(make_pair()[0])) == 0) == (kind == "fsdp2")


class AtTheEnd(TrainerCallback):
    """Calls a function when the training is over, before the Trainer waits for what is being pushed."""

    def __init__(self, function: Callable[[], None]):
        self.function = function

    def on_train_end(self, args, state, control, **kwargs):
        self.function()


@pytest.mark.parametrize("always", [True, False])
def test_a_slow_push_keeps_its_checkpoint_and_its_place(always, hub_server, tmp_path, frames, monkeypatch):
    """Checkpoints removed meanwhile are pushed whole; without `hub_always_push` later ones are passed over."""
    gate = threading.Event()

    def slowly(*arguments, **options):
        assert gate.wait(60)
        return commit_folder(*arguments, **options)

    monkeypatch.setattr(publishing_module, "commit_folder", slowly)
    trainer = make_publisher(
        tmp_path / "output",
        *make_pair(),
        frames,
        hub_always_push=always,
        save_steps=1,
        save_total_limit=1,
        max_steps=3,
    )
    trainer.add_callback(AtTheEnd(gate.set))
    trainer.train()
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["checkpoint-3"]
    expected = [f"Training in progress, step {step}" for step in ((1, 2, 3) if always else (1,))]
    assert messages(hub_server, "tester/rooms") == expected
    weights = [
        hub_server.files("tester/rooms", oid)["model.safetensors"] for oid, _ in hub_server.commits("tester/rooms")[1:]
    ]
    assert len(set(weights)) == len(weights)


def test_a_checkpoint_that_is_being_pushed_is_not_written_over(hub_server, tmp_path, frames, monkeypatch):
    """As a resumed training would; what is pushed has links to its files."""
    gate = threading.Event()
    finish = DepthTrainer._finish_current_push

    def slowly(*arguments, **options):
        assert gate.wait(60)
        return commit_folder(*arguments, **options)

    def open_and_finish(trainer):
        gate.set()
        finish(trainer)

    monkeypatch.setattr(publishing_module, "commit_folder", slowly)
    monkeypatch.setattr(DepthTrainer, "_finish_current_push", open_and_finish)
    model, processor = make_pair()
    trainer = make_publisher(tmp_path / "output", model, processor, frames)
    trainer.state.epoch = 0
    checkpoint = tmp_path / "output" / "checkpoint-2"
    trainer.save_model(str(checkpoint), _internal_call=True)
    before = (checkpoint / "model.safetensors").read_bytes()
    trainer._push_from_checkpoint(str(checkpoint))
    with torch.no_grad():
        next(model.depth_head.parameters()).zero_()
    trainer.save_model(str(checkpoint), _internal_call=True)
    trainer._finish_current_push()
    assert hub_server.files("tester/rooms")["model.safetensors"] == before
    assert (checkpoint / "model.safetensors").read_bytes() != before


def test_the_strategy_end_makes_one_commit(hub_server, tmp_path, frames):
    trainer = make_publisher(tmp_path / "output", *make_pair(), frames, hub_strategy="end")
    trainer.train()
    assert hub_server.repositories() == []
    trainer.push_to_hub("Mine", blocking=False).result()
    assert messages(hub_server, "tester/rooms") == ["Mine"]
    assert_clean(hub_server, "tester/rooms")


def test_saving_by_hand_pushes_as_the_stock_trainer_does(hub_server, tmp_path, frames):
    trainer = make_publisher(tmp_path / "output", *make_pair(), frames, hub_strategy="end")
    trainer.save_model(str(tmp_path / "kept"))
    assert messages(hub_server, "tester/rooms") == ["Model save"]
    assert (tmp_path / "kept" / "model.safetensors").is_file()


def test_name_privacy_and_revision_are_honoured(hub_server, tmp_path, frames):
    options = {
        "hub_model_id": None,
        "hub_private_repo": True,
        "hub_revision": "trial",
        "max_steps": 2,
        "save_steps": 1,
    }
    trainer = make_publisher(tmp_path / "my-rooms", *make_pair(), frames, **options)
    trainer.train()
    assert hub_server.repositories() == ["tester/my-rooms"]
    assert hub_server.is_private("tester/my-rooms")
    titles = [[title for _, title in hub_server.commits("tester/my-rooms", name)[1:]] for name in ("trial", "main")]
    first, second = "Training in progress, step 1", "Training in progress, step 2"
    assert titles == [[first, second], [first]]  # an empty main branch would load for nobody


def test_an_adapter_replaces_the_whole_model_that_was_there(hub_server, tmp_path, frames):
    """Both in one repository would load as the adapter on that model."""
    pytest.importorskip("peft")
    make_publisher(tmp_path / "whole", *make_pair(), frames).push_to_hub()
    base, processor, _ = publish_base(hub_server, tmp_path / "base")
    adapted = prepare_for_training(base, "lora")
    make_publisher(tmp_path / "adapter", adapted, processor, frames).push_to_hub()
    files = hub_server.files("tester/rooms")
    assert "adapter_model.safetensors" in files
    assert not {"config.json", "model.safetensors"} & set(files)


def test_a_hub_that_fails_does_not_lose_the_training(hub_server, tmp_path, frames, monkeypatch):
    told = []
    monkeypatch.setattr(publishing_module.logger, "warning", told.append)
    trainer = make_publisher(tmp_path / "output", *make_pair(), frames, hub_token=hub_server.token)
    hub_server.fail_commits(status=500)
    trainer.train()
    assert trainer.state.global_step == 4
    assert (tmp_path / "output" / "checkpoint-4" / "model.safetensors").is_file()
    assert len(told) == 2
    with pytest.raises(ValueError, match="the Hub cannot answer at the moment") as refusal:
        trainer.push_to_hub()
    for line in (*told, str(refusal.value)):
        assert "\n" not in line and "500" in line and hub_server.token not in line
    assert all(moment.private for moment in hub_server.moments("tester/rooms"))
    hub_server.mend()
    trainer.push_to_hub()
    assert messages(hub_server, "tester/rooms") == ["End of training"]
    assert not hub_server.is_private("tester/rooms")
    assert {path.name for path in (tmp_path / "output").iterdir()} == {"checkpoint-2", "checkpoint-4"}


def test_an_adapter_with_a_name_is_pushed_from_its_own_folder(hub_server, tmp_path, frames):
    peft = pytest.importorskip("peft")
    base, processor, _ = publish_base(hub_server, tmp_path / "base")
    adapted = peft.get_peft_model(base, lora_config(base), adapter_name="rooms")
    make_publisher(tmp_path / "output", adapted, processor, frames).train()
    revisions = {title: revision for revision, title in hub_server.commits("tester/rooms")}
    for step in (2, 4):
        saved = tmp_path / "output" / f"checkpoint-{step}" / "rooms" / "adapter_model.safetensors"
        pushed = hub_server.files("tester/rooms", revisions[f"Training in progress, step {step}"])
        assert pushed["adapter_model.safetensors"] == saved.read_bytes()


def test_an_adapter_inside_the_model_is_refused(hub_server, tmp_path, frames):
    pytest.importorskip("peft")
    model, processor = make_pair()
    model.add_adapter(lora_config(model))
    with pytest.raises(ValueError, match="`model` has an adapter inside"):
        make_publisher(tmp_path, model, processor, frames)


def test_a_checkpoint_that_cannot_be_published_does_not_end_the_training(hub_server, tmp_path, frames, monkeypatch):
    told = []
    monkeypatch.setattr(publishing_module.logger, "warning", told.append)
    trainer = make_publisher(tmp_path / "output", *make_pair(), frames, save_steps=4)
    monkeypatch.setattr(trainer, "_card", lambda card: 1 / 0)
    trainer.train()
    assert trainer.state.global_step == 4
    assert len(told) == 1 and told[0].endswith("division by zero")
    assert [path.name for path in (tmp_path / "output").iterdir()] == ["checkpoint-4"]


def test_a_token_that_is_no_header_is_not_repeated(hub_server, tmp_path, frames):
    """The client quotes the header that it refuses."""
    with pytest.raises(ValueError, match="hf auth login") as refusal:
        make_publisher(tmp_path, *make_pair(), frames, hub_token="hf_broken\n")
    assert "hf_broken" not in str(refusal.value)
    assert refusal.value.__cause__ is None and refusal.value.__suppress_context__


def test_what_is_known_of_the_data_gets_into_the_card(hub_server, tmp_path, frames):
    trainer = make_publisher(tmp_path / "output", *make_pair(), frames)
    trainer.push_to_hub(card=CardFacts(licence="apache-2.0", datasets=["someone/rooms"]))
    card = hub_server.files("tester/rooms")["README.md"].decode()
    assert "license: apache-2.0" in card and "someone/rooms" in card and 'model, revision = "tester/rooms"' in card


def test_without_a_network_or_a_known_user_nothing_is_trained(hub_server, tmp_path, frames, monkeypatch):
    with pytest.raises(ValueError, match="hf auth login") as refusal:
        make_publisher(tmp_path, *make_pair(), frames, hub_token="hf_wrong")
    assert "hf_wrong" not in str(refusal.value) and "\n" not in str(refusal.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="hf auth login"):
        make_publisher(tmp_path, *make_pair(), frames)
    hub_server.stop()
    with pytest.raises(ValueError, match="hf auth login"):
        make_publisher(tmp_path, *make_pair(), frames, hub_token=hub_server.token)


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_pickled_optimiser_states_are_not_published(strategy, hub_server, tmp_path, frames):
    with pytest.raises(ValueError, match=f"`hub_strategy` is '{strategy}'.*'every_save'"):
        make_publisher(tmp_path, *make_pair(), frames, hub_strategy=strategy)
    assert hub_server.requests == []


def test_a_repository_without_a_processor_is_refused(hub_server, tmp_path, frames):
    model, processor = make_pair()
    for found, wrong in (("None", None), (f"a {type(processor.tokenizer).__name__}", processor.tokenizer)):
        with pytest.raises(ValueError, match=f"`processing_class` is {found}"):
            make_publisher(tmp_path, model, processor, frames, trainer_class=with_processing_class(wrong))


def with_processing_class(processing_class):
    def build(**options):
        return DepthTrainer(**(options | {"processing_class": processing_class}))

    return build


def test_a_name_that_the_hub_does_not_allow_is_refused(hub_server, tmp_path, frames):
    with pytest.raises(ValueError, match="`hub_model_id` is 'my rooms'"):
        make_publisher(tmp_path, *make_pair(), frames, hub_model_id="my rooms")


@pytest.mark.parametrize("place", ["here", "gone", None])
def test_an_adapter_on_a_base_that_nobody_else_has_is_refused(place, hub_server, tmp_path, frames):
    pytest.importorskip("peft")
    model, processor = make_pair()
    if place is not None:
        model.name_or_path = str(tmp_path / place)
    if place == "here":
        write_model_folder(tmp_path / place, model, processor)
    adapted = prepare_for_training(model, "lora")
    name = {"here": "'here'", "gone": "'gone'", None: "''"}[place]
    with pytest.raises(
        ValueError, match=f"`base_model_name_or_path` of the adapter is {name}.*publish the base first"
    ):
        make_publisher(tmp_path / "output", adapted, processor, frames)
    trainer = make_publisher(tmp_path / "output", adapted, processor, frames, push_to_hub=False)
    with pytest.raises(ValueError, match="`base_model_name_or_path`"):
        trainer.push_to_hub()
    assert hub_server.requests == []


def test_the_token_is_in_no_file_whatever_the_arguments(hub_server, tmp_path, frames):
    """The stock Trainer pickles it into training_args.bin."""
    model, processor = make_pair()
    output = tmp_path / "output"
    for trainer_class, is_written in ((DepthTrainer, False), (Trainer, True)):
        arguments = TrainingArguments(
            str(output),
            hub_token=hub_server.token,
            max_steps=1,
            save_strategy="no",
            remove_unused_columns=False,
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = trainer_class(
            model,
            arguments,
            data_collator=DepthCollator(processor),
            train_dataset=frames,
            processing_class=processor,
        )
        trainer.train()
        trainer.save_model()
        trainer.state.save_to_json(str(output / "trainer_state.json"))
        if is_written:
            with pytest.raises(AssertionError):
                assert_no_token(output, hub_server.token)
        else:
            assert_no_token(output, hub_server.token)


def test_a_card_that_is_asked_for_has_no_gaps(hub_server, tmp_path, frames):
    trainer = make_publisher(tmp_path / "output", *make_pair(), frames)
    trainer.create_model_card()
    card = (tmp_path / "output" / "README.md").read_text()
    assert "tester/rooms" in card
    assert "more information needed" not in card.lower()


@pytest.mark.slow
def test_the_command_pushes_an_adapter_on_a_base_of_the_hub(hub_server, tmp_path, capfd):
    pytest.importorskip("datasets")
    pytest.importorskip("peft")
    base_commit = publish_base(hub_server, tmp_path / "base")[2]
    output, token = tmp_path / "output", hub_server.token
    words = [
        "train",
        "--data",
        str(write_frames(tmp_path / "frames")),
        "--output_dir",
        str(output),
        "--max_steps",
        "2",
    ]
    words += ["--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "steps", "--eval_steps", "1"]
    words += ["--vision_rank", "4", "--mixed_precision", "no", "--push_to_hub", "true", "--hub_always_push", "true"]
    words += ["--hub_model_id", "tester/rooms", "--hub_token", token]
    with pytest.raises(SystemExit):
        main([*words, "--model", str(tmp_path / "base")])
    assert "`base_model_name_or_path` of the adapter is 'base'" in capfd.readouterr().err
    assert hub_server.repositories() == ["tester/base"]
    main([*words, "--model", "tester/base"])
    pushed = [*(f"Training in progress, step {step}" for step in (1, 2)), "End of training"]
    assert messages(hub_server, "tester/rooms") == pushed
    files = hub_server.files("tester/rooms")
    assert files["adapter_model.safetensors"] == (output / "adapter" / "adapter_model.safetensors").read_bytes()
    assert "abs_rel" in files["README.md"].decode()
    assert_clean(hub_server, "tester/rooms")
    config = json.loads(hub_server.files("tester/rooms")["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("tester/base", base_commit)
    assert_no_token(output, token)
    assert token not in "".join(capfd.readouterr())


def write_frames(folder: Path) -> Path:
    for name in ("rgb", "depth"):
        (folder / name).mkdir(parents=True)
    for index, frame in enumerate(make_frames(12)):
        frame.image.save(folder / "rgb" / f"{index}.png")
        write_depth_png(folder / "depth" / f"{index}.png", frame.depth)
    return folder
