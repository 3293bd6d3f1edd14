"""A Space as a folder: its header, its requirements, and everything that it needs to start somewhere else."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import metadata_load
from PIL import Image

from llm_mde import LLMMDEForDepthEstimation
from llm_mde.demonstration import MARK
from llm_mde.hub import load_model_and_processor, write_model_folder
from llm_mde.hub import space as space_module
from llm_mde.hub.publishable import check_folder
from llm_mde.hub.space import write_space_folder
from llm_mde.hub.space_template import space_template
from llm_mde.page.settings import DEMONSTRATION, read_space_settings
from tests.conftest import ROOT, make_pair

TEMPLATE = ROOT / "spaces_demo"

COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
HARDWARE = {
    *("cpu-basic", "cpu-upgrade", "t4-small", "t4-medium", "l4x1", "l4x4", "a10g-small", "a10g-large", "a10g-largex2"),
    *("a10g-largex4", "a100-large", "v5e-1x1", "v5e-2x2", "v5e-2x4"),
}


def is_text(value) -> bool:
    return isinstance(value, str) and value.strip() != "" and value.isprintable()


def are_texts(value) -> bool:
    return isinstance(value, list) and all(map(is_text, value)) and len(set(value)) == len(value)


# The fields of https://huggingface.co/docs/hub/spaces-config-reference for a Gradio Space, and what each may be.
HEADER_FIELDS = {
    "title": is_text,
    "emoji": lambda value: is_text(value) and not value.isascii() and len(value) <= 2,
    "colorFrom": COLOURS.__contains__,
    "colorTo": COLOURS.__contains__,
    "sdk": lambda value: value == "gradio",
    "python_version": lambda value: re.fullmatch(r"3\.\d+(\.\d+)?", value) is not None,
    "sdk_version": lambda value: re.fullmatch(r"\d+\.\d+\.\d+", value) is not None,
    "suggested_hardware": HARDWARE.__contains__,
    "suggested_storage": {"small", "medium", "large"}.__contains__,
    "app_file": is_text,
    "base_path": lambda value: value.startswith("/"),
    "fullWidth": lambda value: isinstance(value, bool),
    "header": {"mini", "default"}.__contains__,
    "short_description": lambda value: is_text(value) and len(value) <= 60,
    "models": are_texts,
    "datasets": are_texts,
    "tags": are_texts,
    "thumbnail": is_text,
    "pinned": lambda value: isinstance(value, bool),
    "license": lambda value: value == "apache-2.0",
    "disable_embedding": lambda value: isinstance(value, bool),
    "startup_duration_timeout": is_text,
    "preload_from_hub": are_texts,
    "hf_oauth": lambda value: isinstance(value, bool),
    "custom_headers": lambda value: isinstance(value, dict),
}
NEEDED_FIELDS = {"title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "app_file", "license"}


def check_header(readme: Path) -> dict:
    header = metadata_load(readme)
    assert header.keys() >= NEEDED_FIELDS
    for name, value in header.items():
        assert name in HEADER_FIELDS, f"{name} is no field of a Space"
        assert HEADER_FIELDS[name](value), f"{name} cannot be {value!r}"
    return header


def digests(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def stated(folder: Path) -> dict:
    return json.loads((folder / "space.json").read_text())


@pytest.fixture
def model_folder(tmp_path):
    return write_model_folder(tmp_path / "model", *make_pair())


@pytest.fixture
def adapter_folder(model_folder, tmp_path):
    """An adapter that changes the depth by far, with a processor of its own."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = LLMMDEForDepthEstimation.from_pretrained(model_folder)
    config = peft.LoraConfig(
        r=4, init_lora_weights=False, target_modules=["self.query"], modules_to_save=["depth_head"]
    )
    adapted = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "modules_to_save" in name:
                parameter.mul_(1.5)
    adapted.save_pretrained(tmp_path / "adapter")
    make_pair(max_prompt_length=80)[1].save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def depth_of(folder, pixel_values) -> torch.Tensor:
    model, _ = load_model_and_processor(folder, device="cpu")
    with torch.no_grad():
        return model(pixel_values=pixel_values).predicted_depth


def test_the_header_has_fields_and_values_of_the_reference():
    header = check_header(TEMPLATE / "README.md")
    assert (TEMPLATE / header["app_file"]).is_file()
    assert "models" not in header  # of a model that is part of the Space there is no id


def test_a_header_with_a_wrong_field_would_be_noticed(tmp_path):
    text = (TEMPLATE / "README.md").read_text()
    for wrong in ("colour: red", "colorFrom: orange", "python_version: 3.12", f"short_description: {'x' * 61}"):
        field = wrong.partition(":")[0]
        changed = re.sub(rf"^{field}:.*\n", "", text, flags=re.MULTILINE).replace("---\n", f"---\n{wrong}\n", 1)
        (tmp_path / "README.md").write_text(changed)
        with pytest.raises((AssertionError, TypeError)):
            check_header(tmp_path / "README.md")


def test_the_requirements_are_those_of_the_package_and_its_extra():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (TEMPLATE / "requirements.txt").read_text().splitlines()
    required = [line for line in lines if not line.startswith("#")]
    assert required == [*project["dependencies"], *project["optional-dependencies"]["space"]]


def test_the_gradio_of_the_header_is_one_that_the_requirements_allow():
    version = metadata_load(TEMPLATE / "README.md")["sdk_version"]
    (bound,) = re.findall(r"^gradio>=([\d.]+)$", (TEMPLATE / "requirements.txt").read_text(), re.MULTILINE)
    numbers = [[int(part) for part in each.split(".")] for each in (bound, version)]
    assert numbers == sorted(numbers)


def test_the_examples_are_three_small_photographs_without_metadata():
    examples = sorted((TEMPLATE / "examples").iterdir())
    assert len(examples) == 3
    for example in examples:
        assert example.suffix == ".jpg"
        assert example.stat().st_size < 80_000
        with Image.open(example) as image:
            assert (image.format, image.size, image.mode, len(image.getexif())) == ("JPEG", (640, 480), "RGB", 0)


def test_a_space_is_whole_and_may_be_published(model_folder, tmp_path):
    folder = write_space_folder(tmp_path / "space", model_folder)
    assert folder == tmp_path / "space"
    assert check_folder(folder) == "space"
    top = {path.name for path in folder.iterdir()}
    assert top == {"README.md", "app.py", "examples", "llm_mde", "model", "requirements.txt", "space.json"}
    for name in ("app.py", "requirements.txt"):
        assert (folder / name).read_bytes() == (TEMPLATE / name).read_bytes()
    assert digests(folder / "examples") == digests(TEMPLATE / "examples")
    text = (TEMPLATE / "README.md").read_text().split("---\n", 2)[2]
    assert (folder / "README.md").read_text().split("---\n", 2)[2] == text
    assert check_header(folder / "README.md") == metadata_load(TEMPLATE / "README.md")
    assert not list(tmp_path.glob(".*"))


def test_its_package_is_the_installed_one_byte_for_byte(model_folder, tmp_path):
    """Exactly what a wheel would have, by pyproject.toml."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    expected = {}
    for package in sorted(set(setuptools["packages"]) - {"llm_mde.space"}):
        place = ROOT / setuptools["package-dir"].get(package, f"modeling_{package.replace('.', '/')}")
        for pattern in ("*.py", *setuptools["package-data"].get(package, [])):
            for file in place.glob(pattern):
                name = f"{package.replace('.', '/')}/{file.relative_to(place).as_posix()}"
                expected[name.removeprefix("llm_mde/")] = hashlib.sha256(file.read_bytes()).hexdigest()
    folder = write_space_folder(tmp_path / "space", model_folder)
    assert digests(folder / "llm_mde") == expected
    assert "hub/space.py" in expected


def test_the_model_in_it_predicts_as_the_one_it_was_made_from(model_folder, tmp_path, pixel_values):
    folder = write_space_folder(tmp_path / "space", model_folder)
    assert torch.equal(depth_of(folder / "model", pixel_values), depth_of(model_folder, pixel_values))
    settings = read_space_settings({}, folder)
    assert (settings.model, settings.revision, settings.adapters) == (str(folder / "model"), None, {})
    assert (settings.name, settings.note) == (model_folder.parent.name, "")  # its own folder is called `model`


def test_the_card_of_the_model_comes_along_but_no_pickle_and_no_checkpoint(model_folder, tmp_path):
    (model_folder / "README.md").write_text("# A card\n")
    torch.save({"lr": 1}, model_folder / "training_args.bin")
    (model_folder / "checkpoint-1").mkdir()
    folder = write_space_folder(tmp_path / "space", model_folder)
    assert (folder / "model" / "README.md").read_text() == "# A card\n"
    assert not list(folder.rglob("*.bin"))
    assert not list(folder.rglob("checkpoint*"))


def test_an_adapter_is_put_in_merged(adapter_folder, model_folder, tmp_path, pixel_values):
    folder = write_space_folder(tmp_path / "space", adapter_folder)
    assert (folder / "model" / "config.json").is_file()
    expected = depth_of(adapter_folder, pixel_values)
    torch.testing.assert_close(depth_of(folder / "model", pixel_values), expected, rtol=0, atol=1e-4)
    assert (expected - depth_of(model_folder, pixel_values)).abs().max() > 0.01
    assert check_folder(folder) == "space"


def test_a_hub_id_is_what_the_application_loads_and_the_header_names(tmp_path):
    folder = write_space_folder(tmp_path / "space", "user/llm-mde-nyu", revision="v1", title="Depth of rooms")
    assert not (folder / "model").exists()
    settings = read_space_settings({}, folder)
    assert (settings.model, settings.revision, settings.note) == ("user/llm-mde-nyu", "v1", "")
    assert settings.name == stated(folder)["name"] == "user/llm-mde-nyu"
    header = check_header(folder / "README.md")
    assert header["models"] == ["user/llm-mde-nyu"]
    assert header["title"] == "Depth of rooms"
    assert check_folder(folder) == "space"


def test_adapters_come_along_or_are_named(adapter_folder, model_folder, tmp_path, pixel_values):
    adapters = {"indoor": adapter_folder, "street": "user/street@v2"}
    folder = write_space_folder(tmp_path / "space", model_folder, adapters=adapters)
    assert stated(folder)["adapters"] == {"indoor": "adapters/indoor", "street": "user/street@v2"}
    settings = read_space_settings({}, folder)
    assert settings.adapters == {"indoor": (str(folder / "adapters/indoor"), None), "street": ("user/street", "v2")}
    assert check_header(folder / "README.md")["models"] == ["user/street"]
    assert check_folder(folder) == "space"
    # By itself it is found on the model of the Space, with its own processor.
    model, processor = load_model_and_processor(folder / "adapters" / "indoor", device="cpu")
    assert processor.max_prompt_length == 80
    with torch.no_grad():
        depth = model(pixel_values=pixel_values).predicted_depth
    torch.testing.assert_close(depth, depth_of(adapter_folder, pixel_values))


def test_an_adapter_beside_a_hub_model_names_that_as_its_base(adapter_folder, tmp_path):
    folder = write_space_folder(tmp_path / "space", "user/base", revision="v1", adapters={"mine": adapter_folder})
    config = json.loads((folder / "adapters" / "mine" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("user/base", "v1")


def test_an_adapter_of_another_model_is_refused(adapter_folder, tmp_path):
    other = write_model_folder(tmp_path / "other", *make_pair(num_prototypes=11, head_hidden_sizes=[24, 16, 8, 8, 8]))
    with pytest.raises(ValueError, match="does not fit this model"):
        write_space_folder(tmp_path / "space", other, adapters={"mine": adapter_folder})
    assert not (tmp_path / "space").exists()


def test_the_demonstration_model_is_trained_and_called_by_its_name(tmp_path, monkeypatch):
    def train(folder):
        write_model_folder(folder, *make_pair())
        (folder / MARK).touch()

    monkeypatch.setattr(space_module, "train_demonstration_model", train)
    folder = write_space_folder(tmp_path / "space")
    settings = read_space_settings({}, folder)
    assert (settings.model, settings.note) == (str(folder / "model"), DEMONSTRATION)
    assert settings.name == "the demonstration model"
    # One that was trained before is still called so, also out of the Space.
    for number in range(2):
        folder = write_space_folder(tmp_path / f"again_{number}", folder / "model")
        again = read_space_settings({}, folder)
        assert (again.name, again.note) == (settings.name, DEMONSTRATION)


@pytest.mark.slow
def test_a_space_runs_on_its_own_package(model_folder, tmp_path):
    """From its folder, with nothing of this clone: also where the package is not installed at all."""
    folder = write_space_folder(tmp_path / "space", model_folder)
    code = (
        "import json, pathlib, sys\n"
        "import llm_mde, llm_mde.hub.space, llm_mde.processing, llm_mde.training, llm_mde.studies, llm_mde.cli\n"
        "from llm_mde.hub import load_model_and_processor\n"
        "from llm_mde.page.settings import read_space_settings\n"
        "model, processor = load_model_and_processor(read_space_settings({}, pathlib.Path.cwd()).model)\n"
        "assert model.num_parameters() > 0\n"
        "ours = [module for name, module in sys.modules.items() if name.partition('.')[0] == 'llm_mde']\n"
        "print(json.dumps(sorted({str(pathlib.Path(module.__file__).parent) for module in ours})))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    places = json.loads(process.stdout.splitlines()[-1])
    assert str(folder / "llm_mde") in places
    assert all(Path(place).is_relative_to(folder) for place in places)


def test_a_failure_leaves_nothing_behind(model_folder, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(space_module, "write_model_folder", fail)
    with pytest.raises(OSError, match="no space left"):
        write_space_folder(tmp_path / "spaces" / "space", model_folder)
    assert not list((tmp_path / "spaces").iterdir())


def test_the_application_is_found_in_a_clone_and_in_a_wheel_and_else_missed(tmp_path, monkeypatch):
    assert space_template() == TEMPLATE
    place = tmp_path / "llm_mde" / "hub" / "space_template.py"
    monkeypatch.setitem(space_template.__globals__, "__file__", str(place))
    with pytest.raises(ValueError, match="there is no application"):
        space_template()
    (tmp_path / "llm_mde" / "space").mkdir(parents=True)
    (tmp_path / "llm_mde" / "space" / "app.py").touch()
    assert space_template() == tmp_path / "llm_mde" / "space"


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("outputs/no/model", {}, "`model` has 'outputs/no/model', which is neither a folder here nor an id"),
        (Path("user/name"), {}, r"`model` has 'user/name', which is neither"),
        ("user/name@v1", {}, r"`model` has 'user/name@v1', which is neither"),
        ("user/name", {"title": " "}, "`title` is ' '"),
        ("user/name", {"title": "two\nlines"}, "`title`"),
        ("user/name", {"adapters": {"none": "user/other"}}, "'none'"),
        ("user/name", {"adapters": {"in door": "user/other"}}, "'in door'"),
        ("user/name", {"adapters": {"indoor": "/no/folder"}}, "`adapters` has '/no/folder'"),
        (None, {"revision": "v1"}, "`revision` is 'v1', but `model` is no Hub id"),
        (None, {"adapters": {"indoor": "user/other"}}, "`adapters` are given without `model`"),
    ],
)
def test_what_cannot_be_a_space_is_refused(model, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_space_folder(tmp_path / "space", model, **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_model_and_one_that_is_not_empty_are_refused(model_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no config\.json|no such folder"):
        write_space_folder(tmp_path / "space", tmp_path / "empty")
    with pytest.raises(ValueError, match="`revision` is 'v1'"):
        write_space_folder(tmp_path / "space", model_folder, revision="v1")
    with pytest.raises(ValueError, match=r"`adapters` has .*model', a folder without adapter_config\.json"):
        write_space_folder(tmp_path / "space", model_folder, adapters={"mine": model_folder})
    assert not (tmp_path / "space").exists()
    with pytest.raises(ValueError, match=r"`folder` is .* not empty"):
        write_space_folder(model_folder, model_folder)
