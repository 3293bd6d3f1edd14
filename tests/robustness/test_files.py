"""Models and adapters that are damaged, foreign or hostile: one line that says what and where, and nothing is run."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm_mde import LLMMDEForDepthEstimation
from llm_mde.cli import main
from llm_mde.hub import load_model_and_processor, write_adapter_folder
from tests.conftest import make_pair
from tests.space.conftest import load_app, set_environment
from tests.training.conftest import make_frames

WEIGHTS = "model.safetensors"


class Mark:
    """A pickle of it writes a file when it is opened."""

    path: Path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def mark(tmp_path):
    mark = Mark()
    mark.path = tmp_path / "a pickle was opened"
    return mark


@pytest.fixture
def changed(tiny_folder, tmp_path):
    """A copy of the model folder after a change."""

    def change(name, do) -> Path:
        folder = tmp_path / f"copy {name}".replace("/", "_")
        shutil.copytree(tiny_folder, folder)
        do(folder)
        return folder

    return change


def bytes_of(file, change):
    def do(folder):
        (folder / file).write_bytes(change((folder / file).read_bytes()))

    return do


def weights(change):
    def do(folder):
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return do


def fields(file, change):
    def do(folder):
        stored = json.loads((folder / file).read_text())
        change(stored)
        (folder / file).write_text(json.dumps(stored))

    return do


def set_shape(tensors):
    tensors["depth_head.to_logits.bias"] = torch.zeros(3, 5)


def keep_others(tensors):
    tensors.clear()
    tensors["encoder.weight"] = torch.zeros(3)


def vision(**values):
    return fields("config.json", lambda stored: stored["vision_config"].update(values))


def processor(**values):
    return fields("processor_config.json", lambda stored: stored.update(values))


DAMAGE = {
    **{
        f"{file} cut at {tenth}0 %": bytes_of(file, lambda content, tenth=tenth: content[: len(content) * tenth // 10])
        for file in (WEIGHTS, "config.json", "processor_config.json", "tokenizer.json")
        for tenth in range(10)
    },
    "weights of zeros": bytes_of(WEIGHTS, lambda content: bytes(len(content))),
    "weights with a header of many bytes": bytes_of(
        WEIGHTS, lambda content: (2**60).to_bytes(8, "little") + content[8:]
    ),
    "weights that are a pickle": bytes_of(WEIGHTS, lambda content: pickle.dumps(content[:100])),
    "a weight of another shape": weights(set_shape),
    "other weights": weights(keep_others),
    "a weight less": weights(lambda tensors: tensors.pop("depth_head.to_logits.bias")),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "a newer format": fields("config.json", lambda stored: stored.update(format_version=99)),
    "a configuration that is a list": bytes_of("config.json", lambda content: b"[1, 2]"),
    "a configuration of brackets": bytes_of("config.json", lambda content: b'{"a":' * 100_000),
    "a configuration in other bytes": bytes_of("config.json", lambda content: b"\xff\xfe" + content),
    "another kind of model": fields("config.json", lambda stored: stored.update(model_type="bert")),
    "a field that Python has taken": fields("config.json", lambda stored: stored.update(__class__="y")),
    "no kind of model": fields("config.json", lambda stored: stored.pop("model_type")),
    "a trillion prototypes": fields("config.json", lambda stored: stored.update(num_prototypes=10**12)),
    "prototypes in words": fields("config.json", lambda stored: stored.update(num_prototypes="many")),
    "no depth": fields("config.json", lambda stored: stored.update(min_depth=0, max_depth=0)),
    "no vision encoder": fields("config.json", lambda stored: stored.update(vision_config=None)),
    "an unknown vision encoder": vision(model_type="nobody/knows"),
    "a language model for eyes": vision(model_type="gpt2"),
    "a billion features": vision(hidden_size=10**9),
    "ten million layers": vision(num_hidden_layers=10**7),
    "negative features": vision(hidden_size=-32),
    "no heads": vision(num_attention_heads=0),
    "a processor of words": processor(max_prompt_length="long"),
    "an unknown perspective": processor(perspectives=["{0.__class__}"]),
    "no tokenizer": lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
    "a tokenizer that is a list": bytes_of("tokenizer.json", lambda content: b"[]"),
    "no processor": lambda folder: (folder / "processor_config.json").unlink(),
    "an index that names files elsewhere": lambda folder: (
        (folder / WEIGHTS).unlink(),
        (folder / "model.safetensors.index.json").write_text(
            '{"metadata": {}, "weight_map": {"a": "../../etc/passwd"}}'
        ),
    ),
    "an index that is a list": lambda folder: (
        (folder / WEIGHTS).unlink(),
        (folder / "model.safetensors.index.json").write_text("[]"),
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_model_is_one_line_that_names_it(name, changed, tally):
    folder = changed(name, DAMAGE[name])
    counts = tally("model folders that are damaged or hostile")
    counts.attempt(name, lambda: load_model_and_processor(folder, device="cpu"), None)
    counts.check(least=1)


def test_unknown_fields_change_nothing(changed, tiny_folder, pixel_values, tally):
    def add(folder):
        for file in ("config.json", "processor_config.json"):
            fields(file, lambda stored: stored.update(surprise={"a": [1]}, auto_maps="x"))(folder)

    folder = changed("unknown", add)
    expected, _ = load_model_and_processor(tiny_folder, device="cpu")

    def is_right(loaded) -> bool:
        with torch.no_grad():
            return torch.equal(loaded[0](pixel_values).predicted_depth, expected(pixel_values).predicted_depth)

    counts = tally("model folders that are damaged or hostile")
    counts.attempt("unknown fields", lambda: load_model_and_processor(folder, device="cpu"), is_right)
    counts.check(least=1)


@pytest.mark.parametrize("command", ["predict", "evaluate", "export"])
def test_a_command_tells_of_a_damaged_model_in_one_line(command, changed, tmp_path, capsys):
    pytest.importorskip("datasets")
    folder = changed("cut", DAMAGE[f"{WEIGHTS} cut at 50 %"])
    make_frames(1)[0].image.save(tmp_path / "photo.png")
    words = {
        "predict": ["predict", str(tmp_path / "photo.png"), "--output", str(tmp_path / "out")],
        "evaluate": ["evaluate", "--data", str(tmp_path), "--output", str(tmp_path / "out")],
        "export": ["export", "--output", str(tmp_path / "out"), "--format", "torch"],
    }[command]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--model", str(folder)])
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"llm-mde {command}: ")]
    assert len(lines) == 1
    if command != "evaluate":  # which looks at the data first
        assert "cut short" in lines[0]
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("name", [name for name in DAMAGE if "cut at" not in name])
def test_the_space_does_not_start_with_a_hostile_model_and_says_why_in_one_line(
    name, changed, tmp_path, monkeypatch, capsys, tally
):
    folder = changed(name, DAMAGE[name])
    set_environment(monkeypatch, LLM_MDE_MODEL=folder, GRADIO_TEMP_DIR=tmp_path / "gradio")
    app = load_app()
    monkeypatch.setattr(app.gr.Blocks, "launch", lambda self, **options: None)  # one that starts must not wait

    def start():
        status, error = app.main(), capsys.readouterr().err
        told = [line for line in error.splitlines() if line.startswith("app.py: ")]
        assert status == 2 and len(told) == 1 and "Traceback" not in error, error
        raise ValueError(told[0])

    counts = tally("model folders that are damaged or hostile, at the start of the Space")
    counts.attempt(name, start, None)
    counts.check(least=1)


def test_from_pretrained_names_the_folder_whose_weights_are_cut_short(changed):
    folder = changed("cut", DAMAGE[f"{WEIGHTS} cut at 50 %"])
    with pytest.raises(OSError, match="has weights that are cut short"):
        LLMMDEForDepthEstimation.from_pretrained(folder)


# Adapters


@pytest.fixture(scope="module")
def adapter(tiny_folder, tmp_path_factory):
    pytest.importorskip("peft")
    from llm_mde.training import prepare_for_training

    model, tools = load_model_and_processor(tiny_folder, device="cpu")
    return write_adapter_folder(
        tmp_path_factory.mktemp("adapters") / "one", prepare_for_training(model, "lora"), tools
    )


ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def settings(**values):
    return fields(ADAPTER_CONFIG, lambda stored: stored.update(values))


def adapter_weights(change):
    def do(folder):
        tensors = load_file(folder / ADAPTER_WEIGHTS)
        change(tensors)
        save_file(tensors, folder / ADAPTER_WEIGHTS)

    return do


def first_shape(tensors):
    tensors[sorted(tensors)[0]] = torch.zeros(3, 5)


ADAPTER_DAMAGE = {
    **{
        f"{file} cut at {tenth}0 %": bytes_of(file, lambda content, tenth=tenth: content[: len(content) * tenth // 10])
        for file in (ADAPTER_WEIGHTS, ADAPTER_CONFIG)
        for tenth in range(10)
    },
    "no base": settings(base_model_name_or_path=None),
    "a base that is nowhere": settings(base_model_name_or_path="../nobody/nothing"),
    "a base that is no model": settings(base_model_name_or_path="/etc"),
    "a base of words with spaces": settings(base_model_name_or_path="not a name\n{x}"),
    "an unknown kind": settings(peft_type="NOBODY"),
    "another kind": settings(peft_type="IA3"),
    "a huge rank": settings(r=10**9),
    "a negative rank": settings(r=-1),
    "a rank of words": settings(r="many"),
    "no target": settings(target_modules=["nothing"]),
    "a broken pattern": settings(target_modules="(("),
    "a pattern that takes years": settings(target_modules=r"([a-z_.0-9]+)+!"),
    "another that does": settings(target_modules=r"(a|[a-z_.0-9])*!"),
    "a configuration that is a list": bytes_of(ADAPTER_CONFIG, lambda content: b"[]"),
    "a weight of another shape": adapter_weights(first_shape),
    "a weight less": adapter_weights(lambda tensors: tensors.pop(sorted(tensors)[0])),
    "a weight more": adapter_weights(lambda tensors: tensors.update(more=torch.zeros(2))),
    "no weights": lambda folder: (folder / ADAPTER_WEIGHTS).unlink(),
}


@pytest.mark.parametrize("name", ADAPTER_DAMAGE)
def test_a_damaged_adapter_is_one_line(name, adapter, tmp_path, tally):
    folder = tmp_path / "copy"
    shutil.copytree(adapter, folder)
    ADAPTER_DAMAGE[name](folder)
    counts = tally("adapter folders that are damaged or hostile")
    counts.attempt(name, lambda: load_model_and_processor(folder, device="cpu"), None)
    counts.check(least=1)


# Pickles and code


def test_no_pickle_is_opened_wherever_one_lies(changed, mark, adapter, tmp_path):
    """Beside good weights, instead of them, as a base's, as an adapter's, and under every usual name."""
    names = ("pytorch_model.bin", "model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "model.pt")
    content = pickle.dumps(mark)
    pickle.loads(content)
    assert mark.path.exists()  # it would tell
    mark.path.unlink()

    def add(folder):
        for name in names:
            (folder / name).write_bytes(content)

    load_model_and_processor(changed("beside", add), device="cpu")
    for remove, folder in ((WEIGHTS, changed("instead", add)), (ADAPTER_WEIGHTS, tmp_path / "adapter")):
        if remove == ADAPTER_WEIGHTS:
            shutil.copytree(adapter, folder)
            add(folder)
        (folder / remove).unlink()
        with pytest.raises(ValueError):
            load_model_and_processor(folder, device="cpu")
    with pytest.raises(OSError, match="Pickled weights are not read"):
        LLMMDEForDepthEstimation.from_pretrained(
            changed("alone", lambda folder: (add(folder), (folder / WEIGHTS).unlink()))
        )
    assert not mark.path.exists()


def test_a_checkpoint_with_a_hostile_optimiser_is_not_resumed_from(mark, tmp_path):
    """The Trainer reads its state with `weights_only=True`."""
    pytest.importorskip("accelerate")
    from tests.training.test_trainer import make_trainer

    model, tools = make_pair()
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    make_trainer(tmp_path / "run", model, tools, make_frames(8), **options).train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    for name in ("optimizer.pt", "rng_state.pth", "scheduler.pt"):
        good = (checkpoint / name).read_bytes()
        torch.save(mark, checkpoint / name)
        trainer = make_trainer(tmp_path / "other", *make_pair(), make_frames(8), **options | {"max_steps": 2})
        with pytest.raises(pickle.UnpicklingError, match="weights_only"):
            trainer.train(resume_from_checkpoint=str(checkpoint))
        (checkpoint / name).write_bytes(good)
    assert not mark.path.exists()


def test_code_in_a_folder_is_not_run_unless_asked_for(changed, tmp_path):
    """`load_model_and_processor` and the commands use the classes of the package, whatever `auto_map` says."""
    sign = tmp_path / "code was run"

    def add(folder):
        (folder / "hostile.py").write_text(f"open({str(sign)!r}, 'w')\n")
        for file in ("config.json", "processor_config.json", "tokenizer_config.json"):
            path = folder / file
            stored = json.loads(path.read_text())
            names = ("AutoConfig", "AutoModel", "AutoModelForDepthEstimation", "AutoProcessor", "AutoImageProcessor")
            stored["auto_map"] = {name: "hostile.Hostile" for name in names} | {
                "AutoTokenizer": ["hostile.Hostile", None]
            }
            path.write_text(json.dumps(stored))

    load_model_and_processor(changed("code", add), device="cpu")
    assert not sign.exists()


@pytest.mark.parametrize(
    "prompt",
    [
        "{0.__class__.__mro__}",
        "%s%n%x",
        "\x00\x07\x1b[2J",
        "'; DROP TABLE images; --",
        "\u202eabc",
        "<script>1</script>",
    ],
)
def test_a_prompt_is_text_whatever_it_says(prompt):
    model, tools = make_pair()
    image = make_frames(1)[0].image
    for name in ("text", "prompt", "camera"):
        inputs = tools(images=image, return_prompt=True, return_tensors="pt", **{name: prompt})
        assert prompt in inputs.pop("prompt")[0]
        with torch.no_grad():
            assert model(**inputs).predicted_depth.isfinite().all()


def test_a_megabyte_of_prompt_is_cut_to_its_limit():
    model, tools = make_pair()
    image = make_frames(1)[0].image
    for prompt in ("street " * 150_000, "a" * 2**20):
        for name in ("text", "prompt"):
            inputs = tools(images=image, return_tensors="pt", **{name: prompt})
            assert inputs["input_ids"].shape[1] <= tools.max_prompt_length
            with torch.no_grad():
                assert model(**inputs).predicted_depth.isfinite().all()


@pytest.mark.parametrize("values", [{"size": {"height": 10**9, "width": 10**9}}, {"ensure_multiple_of": 10**9}])
def test_a_processor_that_asks_for_all_memory_is_refused(values, changed):
    folder = changed("huge", fields("processor_config.json", lambda stored: stored["image_processor"].update(values)))
    _, tools = load_model_and_processor(folder, device="cpu")
    with pytest.raises(ValueError, match=r"`size` is .* no side may have more than"):
        tools(images=make_frames(1)[0].image, return_tensors="pt")


def test_a_token_is_in_no_report_and_in_no_error(monkeypatch, capsys, tiny_folder):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecrettoken")
    main(["env", "--model", str(tiny_folder)])
    main(["env", "--as_json", "true"])
    with pytest.raises(SystemExit):
        main(
            [
                "publish",
                "model",
                "--folder",
                str(tiny_folder),
                "--repo_id",
                "a/b",
                "--token",
                f"hf_{'anothersecret' * 3}",
            ]
        )
    printed = capsys.readouterr()
    assert "secret" not in printed.out + printed.err
    assert "Hub token: set" in printed.out
