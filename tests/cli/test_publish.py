"""`llm-mde publish` from the first argument to what others load, against a Hub on this machine."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from huggingface_hub.utils import logging as hub_logging
from PIL import Image
from transformers import ViTConfig

from llm_mde.cli import main
from llm_mde.hub import load_model_and_processor, write_adapter_folder, write_model_folder
from llm_mde.hub.publishable import check_folder, travelling_files
from tests.conftest import make_pair
from tests.hub.conftest import hub_environment, hub_server  # noqa: F401
from tests.hub.test_cards import make_report

SPACE_CARD = "---\ntitle: Depth\nsdk: gradio\n---\n"


@pytest.fixture(autouse=True)
def the_client_as_it_was():
    """The command silences the client of this process."""
    verbosity, silent = hub_logging.get_verbosity(), are_progress_bars_disabled()
    yield
    hub_logging.set_verbosity(verbosity)
    if not silent:
        enable_progress_bars()


@pytest.fixture
def photo(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def model_folder(tmp_path):
    return write_model_folder(tmp_path / "run" / "base", *make_pair())


@pytest.fixture
def adapter_folder(model_folder):
    """As `llm-mde train` leaves it: beside its base, in half precision."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model, processor = load_model_and_processor(model_folder, device="cpu")
    config = peft.LoraConfig(
        r=4, init_lora_weights=False, target_modules=["self.query"], modules_to_save=["reprogramming"]
    )
    trained = peft.get_peft_model(model, config)
    return write_adapter_folder(model_folder.parent / "adapter", trained, processor, dtype="bfloat16")


def publish(capsys, *words) -> list[str]:
    """Runs the command; the lines that it prints."""
    main(["publish", *map(str, words)])
    return capsys.readouterr().out.splitlines()


def refusal(capsys, *words) -> str:
    """Runs a command that is to be refused; the one line that says why."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        main(["publish", *map(str, words)])
    assert exit_info.value.code == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("llm-mde publish: ")
    assert "hf_" not in said.out + said.err
    return said.err


def depth_of(name, photo, revision=None) -> np.ndarray:
    model, processor = load_model_and_processor(name, revision, device="cpu")
    with Image.open(photo) as image, torch.no_grad():
        outputs = model(**processor(images=image, return_tensors="pt"))
        (result,) = processor.post_process_depth_estimation(outputs, target_sizes=[image.size[::-1]])
    return result["predicted_depth"].numpy()


def run_as_printed(lines, use, hub, tmp_path) -> np.ndarray:
    """The printed lines, and then some that save a depth, without this package and without a token."""
    code = "\n".join(line[4:] for line in lines if line.startswith("    "))
    script = f'import sys\nsys.modules["llm_mde"] = None\n{code}\n{use}'
    environment = hub_environment(hub, tmp_path)
    del environment["HF_TOKEN"]
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # sums are rounded in another order by others
    process = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert process.returncode == 0, process.stderr
    return np.load(tmp_path / "depth.npy")


@pytest.mark.slow
def test_a_model_is_published_as_it_is_and_loads_by_the_lines_that_are_printed(
    hub_server,  # noqa: F811
    model_folder,
    photo,
    tmp_path,
    capsys,
):
    lines = publish(capsys, "model", model_folder, "--repo_id", "rooms")
    assert lines[0] == f"{hub_server.url}/tester/rooms"
    published = hub_server.files("tester/rooms")
    assert published["model.safetensors"] == (model_folder / "model.safetensors").read_bytes()
    assert set(travelling_files()) <= set(published)
    assert [title for _, title in hub_server.commits("tester/rooms")] == ["initial commit", "Upload model"]
    assert not hub_server.is_private("tester/rooms")
    assert hub_server.token not in "\n".join(lines)
    use = "import numpy\nnumpy.save('depth.npy', estimate('photo.png')['predicted_depth'].numpy())"
    shown = run_as_printed(lines, use, hub_server, tmp_path)
    assert np.array_equal(shown, depth_of(model_folder, photo))


def test_the_card_says_what_the_flags_and_the_training_say(hub_server, model_folder, photo, tmp_path, capsys):  # noqa: F811
    pytest.importorskip("matplotlib")
    make_report().write(tmp_path / "measured")
    words = [
        "--licence",
        "mit",
        "--evaluation",
        tmp_path / "measured",
        "--photograph",
        photo,
        "--datasets",
        "user/rgbd",
    ]
    publish(
        capsys, "model", model_folder, "--repo_id", "tester/rooms", *words, "--private", "--commit_message", "Hello"
    )
    files = hub_server.files("tester/rooms")
    card = ModelCard(files["README.md"].decode())
    assert (card.data.license, card.data.datasets) == ("mit", ["user/rgbd"])
    assert card.data.eval_results[0].metric_type == "abs_rel"
    assert "sample.jpg" in files and "(sample.jpg)" in card.text
    assert "tester/rooms" in card.text and "More Information Needed" not in card.content
    assert hub_server.commits("tester/rooms")[-1][1] == "Hello"
    assert hub_server.is_private("tester/rooms")


def test_what_the_training_measured_is_in_the_card_of_what_it_left_and_not_of_its_base(
    model_folder, adapter_folder, tmp_path, capsys
):
    make_report(model=str(adapter_folder)).write(model_folder.parent / "evaluation")
    base = ["--base", "tester/rooms", "--base_revision", "1" * 40]
    for kind, folder, flags in (("adapter", adapter_folder, base), ("model", model_folder, [])):
        publish(capsys, kind, folder, "--output", tmp_path / kind, *flags)
    assert ModelCard.load(tmp_path / "adapter" / "README.md").data.eval_results
    assert not ModelCard.load(tmp_path / "model" / "README.md").data.eval_results


def test_a_folder_instead_of_the_hub_is_the_same_and_sends_nothing(hub_server, model_folder, tmp_path, capsys):  # noqa: F811
    lines = publish(capsys, "model", model_folder, "--repo_id", "tester/rooms", "--output", tmp_path / "out")
    assert hub_server.requests == []
    assert f"  {tmp_path / 'out' / 'README.md'}" in lines
    assert check_folder(tmp_path / "out") == "model"
    publish(capsys, "model", model_folder, "--repo_id", "tester/rooms")
    published = hub_server.files("tester/rooms")
    del published[".gitattributes"]
    assert published == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert "not empty" in refusal(capsys, "model", model_folder, "--output", tmp_path / "out")


def test_a_folder_that_is_refused_does_not_stay(tmp_path, capsys):
    space = tmp_path / "space"
    space.mkdir()
    for name, content in (("README.md", SPACE_CARD), ("app.py", ""), ("requirements.txt", ""), ("x.pt", "")):
        (space / name).write_text(content)
    assert "can hold a pickle" in refusal(capsys, "space", space, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (space / "x.pt").unlink()
    (tmp_path / "out").mkdir()
    publish(capsys, "space", space, "--output", tmp_path / "out")
    assert (tmp_path / "out" / "app.py").is_file()


def test_an_update_is_another_commit_and_the_old_one_stays(hub_server, model_folder, photo, tmp_path, capsys):  # noqa: F811
    publish(capsys, "model", model_folder, "--repo_id", "tester/rooms")
    (_, (first, _)) = hub_server.commits("tester/rooms")
    other = write_model_folder(tmp_path / "other", *make_pair(max_depth=5.0))
    said = refusal(capsys, "model", other, "--repo_id", "tester/rooms")
    assert "'tester/rooms', a model that exists" in said and "`--update`" in said
    publish(capsys, "model", other, "--repo_id", "tester/rooms", "--update")
    assert np.array_equal(depth_of("tester/rooms", photo, first), depth_of(model_folder, photo))
    assert np.array_equal(depth_of("tester/rooms", photo), depth_of(other, photo))
    third = write_model_folder(tmp_path / "third", *make_pair(max_depth=3.0))
    lines = publish(capsys, "model", third, "--repo_id", "tester/rooms", "--create_pr")
    assert lines[0] == f"{hub_server.url}/tester/rooms/discussions/1"
    publish(capsys, "model", third, "--repo_id", "tester/rooms", "--revision", "near", "--update")
    assert np.array_equal(depth_of("tester/rooms", photo), depth_of(other, photo))
    for revision in ("refs/pr/1", "near"):
        assert np.array_equal(depth_of("tester/rooms", photo, revision), depth_of(third, photo))


@pytest.mark.slow
def test_a_tag_is_what_the_card_pins_and_stays_with_its_commit(hub_server, model_folder, photo, tmp_path, capsys):  # noqa: F811
    publish(capsys, "model", model_folder, "--repo_id", "tester/rooms", "--tag", "v1")
    assert 'model, revision = "tester/rooms", "v1"' in hub_server.files("tester/rooms")["README.md"].decode()
    other = write_model_folder(tmp_path / "other", *make_pair(num_prototypes=11))
    assert "`tag` is 'v1'" in refusal(capsys, "model", other, "--repo_id", "tester/rooms", "--update", "--tag", "v1")
    publish(capsys, "model", other, "--repo_id", "tester/rooms", "--update", "--tag", "v2")
    assert np.array_equal(depth_of("tester/rooms", photo, "v1"), depth_of(str(model_folder), photo))
    assert np.array_equal(depth_of("tester/rooms", photo, "v2"), depth_of(str(other), photo))


def test_an_adapter_is_published_for_its_published_base_and_loads_by_the_lines_that_are_printed(
    hub_server,  # noqa: F811
    model_folder,
    adapter_folder,
    photo,
    tmp_path,
    capsys,
):
    before = {file.name: file.read_bytes() for file in adapter_folder.iterdir()}
    to = ["--repo_id", "tester/street"]
    said = refusal(capsys, "adapter", adapter_folder, *to)
    assert "publish the base first, then this adapter with `--base user/name --base_revision COMMIT`" in said
    assert "there is no model 'tester/rooms'" in refusal(
        capsys, "adapter", adapter_folder, *to, "--base", "tester/rooms"
    )
    assert hub_server.repositories() == []
    publish(capsys, "model", model_folder, "--repo_id", "tester/rooms")
    (_, (base_commit, _)) = hub_server.commits("tester/rooms")

    lines = publish(capsys, "adapter", adapter_folder, *to, "--base", "tester/rooms")
    published = hub_server.files("tester/street")
    config = json.loads(published["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("tester/rooms", base_commit)
    assert published["adapter_model.safetensors"] == before["adapter_model.safetensors"]
    card = ModelCard(published["README.md"].decode())
    assert card.data.base_model == "tester/rooms" and base_commit in card.text
    assert {file.name: file.read_bytes() for file in adapter_folder.iterdir()} == before

    pinned = ["--base", "tester/rooms", "--base_revision", "main", "--output", tmp_path / "pinned"]
    publish(capsys, "adapter", adapter_folder, *pinned)
    assert json.loads((tmp_path / "pinned" / "adapter_config.json").read_text())["revision"] == base_commit

    expected = depth_of(adapter_folder, photo)
    assert np.array_equal(depth_of("tester/street", photo), expected)
    use = """
import numpy, torch
from PIL import Image
image = Image.open("photo.png")
with torch.no_grad():
    outputs = model.eval()(**processor(images=image, return_tensors="pt"))
(result,) = processor.post_process_depth_estimation(outputs, target_sizes=[image.size[::-1]])
numpy.save("depth.npy", result["predicted_depth"].numpy())
"""
    shown = run_as_printed(lines, use, hub_server, tmp_path)
    np.testing.assert_allclose(shown, expected, rtol=0, atol=1e-5)  # not merged there


def test_an_adapter_that_names_a_published_base_needs_no_flag(
    hub_server,  # noqa: F811
    model_folder,
    adapter_folder,
    tmp_path,
    capsys,
):
    publish(capsys, "model", model_folder, "--repo_id", "tester/rooms")
    (_, (base_commit, _)) = hub_server.commits("tester/rooms")
    config = json.loads((adapter_folder / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": "tester/rooms", "revision": base_commit}
    (adapter_folder / "adapter_config.json").write_text(json.dumps(config))
    shutil.rmtree(model_folder)
    publish(capsys, "adapter", adapter_folder, "--repo_id", "tester/street")
    config = json.loads(hub_server.files("tester/street")["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("tester/rooms", base_commit)


def test_an_adapter_for_another_base_is_refused(hub_server, adapter_folder, tmp_path, capsys):  # noqa: F811
    """Although its own base is still there."""
    vision_config = ViTConfig(
        **{"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    )
    other = write_model_folder(tmp_path / "other", *make_pair(vision_config=vision_config))
    publish(capsys, "model", other, "--repo_id", "tester/other")
    said = refusal(capsys, "adapter", adapter_folder, "--repo_id", "tester/street", "--base", "tester/other")
    assert "does not fit this model" in said
    assert hub_server.repositories() == ["tester/other"]


def test_an_adapter_can_be_published_as_a_whole_model(hub_server, adapter_folder, photo, capsys):  # noqa: F811
    publish(capsys, "model", adapter_folder, "--repo_id", "tester/merged")
    assert "adapter_config.json" not in hub_server.files("tester/merged")
    assert np.array_equal(depth_of("tester/merged", photo), depth_of(adapter_folder, photo))


def test_a_space_that_was_written_before_is_published_as_it_is(hub_server, tmp_path, capsys):  # noqa: F811
    folder = tmp_path / "space"
    folder.mkdir()
    for name, content in (("README.md", SPACE_CARD), ("app.py", "import gradio\n"), ("requirements.txt", "gradio\n")):
        (folder / name).write_text(content)
    lines = publish(capsys, "space", folder, "--repo_id", "tester/depth")
    assert lines[0] == f"{hub_server.url}/spaces/tester/depth"
    assert hub_server.files("tester/depth", repo_type="space")["README.md"].decode() == SPACE_CARD
    assert "`folder` holds a space, not a model" not in "\n".join(lines)
    assert "a space that exists" in refusal(capsys, "space", folder, "--repo_id", "tester/depth")


@pytest.mark.slow
def test_a_space_that_shows_a_model_is_written_and_published(hub_server, model_folder, capsys):  # noqa: F811
    publish(capsys, "space", "--model", model_folder, "--title", "Rooms", "--repo_id", "tester/depth", "--private")
    files = hub_server.files("tester/depth", repo_type="space")
    assert b"title: Rooms" in files["README.md"]
    assert {"app.py", "requirements.txt", "model/model.safetensors"} <= set(files)
    assert hub_server.is_private("tester/depth", repo_type="space")


def test_a_model_folder_is_no_space(hub_server, model_folder, capsys):  # noqa: F811
    said = refusal(capsys, "space", model_folder, "--repo_id", "tester/depth")
    assert "`folder` holds a model, not a space; publish it with `llm-mde publish model`" in said


# Refusals, each in one line


def test_who_may_not_is_told_before_the_model_is_read(hub_server, model_folder, monkeypatch, capsys):  # noqa: F811
    (model_folder / "model.safetensors").write_text("x")  # it would not load
    to = ["model", model_folder, "--repo_id"]
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    assert "the Hub does not know the token (401" in refusal(capsys, *to, "tester/rooms")
    monkeypatch.delenv("HF_TOKEN")
    assert "there is no token to publish with" in refusal(capsys, *to, "tester/rooms")
    monkeypatch.setenv("HF_TOKEN", hub_server.token)
    assert "`repo_id` is 'a b/c'" in refusal(capsys, *to, "a b/c")
    hub_server.stop()
    assert f"the Hub ({hub_server.url}) cannot be reached" in refusal(capsys, *to, "tester/rooms")


def test_somebody_elses_namespace_and_a_read_token_are_refused(hub_server, model_folder, monkeypatch, capsys):  # noqa: F811
    assert "write to 'stranger/rooms' (403" in refusal(capsys, "model", model_folder, "--repo_id", "stranger/rooms")
    monkeypatch.setenv("HF_TOKEN", hub_server.read_token)
    assert "write to 'tester/rooms' (403" in refusal(capsys, "model", model_folder, "--repo_id", "tester/rooms")
    assert hub_server.repositories() == []


def test_an_upload_that_breaks_off_is_one_line_and_goes_on_when_it_is_started_again(
    hub_server,  # noqa: F811
    model_folder,
    capsys,
):
    hub_server.cut_uploads(after_bytes=1000)
    said = refusal(capsys, "model", model_folder, "--repo_id", "tester/rooms")
    assert "the upload to 'tester/rooms' broke off" in said and "nothing that can be seen has changed" in said
    hub_server.mend()
    publish(capsys, "model", model_folder, "--repo_id", "tester/rooms")
    assert not hub_server.is_private("tester/rooms")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["everything"], "there is no 'everything' to publish; choose one of model, adapter, space"),
        (["model", "--repo_id", "a/b"], "`folder` is not given"),
        (["model", "/no/such", "--repo_id", "a/b"], "`folder` is '/no/such', which is not a folder"),
        (["adapter", "/no/such", "--repo_id", "a/b"], "`folder` is '/no/such', which is not a folder"),
        (["space", "/no/such", "--repo_id", "a/b"], "`folder` is '/no/such', which is not a folder"),
        (["model", "."], "`repo_id` is not given"),
        (["model", ".", "--repo_id", "a/b", "--create_pr", "--revision", "x"], "`revision` is 'x' with `create_pr`"),
        (["space", ".", "--repo_id", "a/b", "--model", "x/y"], "a Space that says what it shows"),
        (["space", "--repo_id", "a/b", "--model", "x/y", "--adapters", "z"], "give each a name of its own"),
        (["space", "--repo_id", "a/b", "--adapters", "z=a/b", "z=a/c"], "give each a name of its own"),
    ],
)
def test_a_wrong_argument_ends_in_one_line(words, message, capsys):
    assert message in refusal(capsys, *words)


def test_the_list_of_kinds_and_the_flags_of_each_have_no_token(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["publish", "--help"])
    assert exit_info.value.code == 0
    listing = capsys.readouterr().out
    assert all(f"  {kind} " in listing for kind in ("model", "adapter", "space"))
    for kind in ("model", "adapter", "space"):
        with pytest.raises(SystemExit) as exit_info:
            main(["publish", kind, "--help"])
        assert exit_info.value.code == 0
        printed = capsys.readouterr().out
        assert "--repo_id" in printed and "--token" not in printed
