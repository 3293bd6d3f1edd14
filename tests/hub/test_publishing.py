"""From a folder to a repository that loads: the real client of the Hub against a Hub on this machine."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

import llm_mde
from llm_mde import LLMMDEForDepthEstimation, LLMMDEProcessor
from llm_mde.hub import load_model_and_processor, write_model_folder
from llm_mde.hub.publishable import check_folder, travelling_files
from llm_mde.hub.publishing import commit_folder, push
from llm_mde.publishing_llm_mde import UNFINISHED, publish_folder
from tests.conftest import make_pair
from tests.hub.conftest import hub_environment

CARD = "---\nlibrary_name: transformers\n---\n\n# A tiny model\n"
SPACE_CARD = "---\ntitle: Depth\nemoji: 📏\ncolorFrom: blue\ncolorTo: gray\nsdk: gradio\napp_file: app.py\n---\n"

CLEAN_PROCESS = """
import sys
sys.modules["llm_mde"] = None  # as if it were not installed
import numpy as np, torch
from PIL import Image
from transformers import AutoModel, AutoModelForDepthEstimation, AutoProcessor, pipeline

name, revision, photo, output = sys.argv[1:]
remote = {"revision": revision, "trust_remote_code": True}
model = AutoModelForDepthEstimation.from_pretrained(name, **remote).eval()
assert type(AutoModel.from_pretrained(name, **remote)).__name__ == type(model).__name__
processor = AutoProcessor.from_pretrained(name, **remote)
image = Image.open(photo)
with torch.no_grad():
    outputs = model(**processor(images=image, return_tensors="pt"))
(direct,) = processor.post_process_depth_estimation(outputs, target_sizes=[image.size[::-1]])
result = pipeline("depth-estimation", model=name, **remote)(photo)
assert torch.equal(result["predicted_depth"], direct["predicted_depth"])
np.save(output, direct["predicted_depth"].numpy())
"""

CLEAN_PROCESS_WITH_ADAPTER = """
import sys
sys.modules["llm_mde"] = None
import numpy as np, torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForDepthEstimation, AutoProcessor

name, revision, photo, output = sys.argv[1:]
(adapter, adapter_revision), (base, base_revision) = (name.split("@") for name in (name, revision))
model = AutoModelForDepthEstimation.from_pretrained(base, revision=base_revision, trust_remote_code=True)
model = PeftModel.from_pretrained(model, adapter, revision=adapter_revision).eval()
processor = AutoProcessor.from_pretrained(adapter, revision=adapter_revision, trust_remote_code=True)
image = Image.open(photo)
with torch.no_grad():
    outputs = model(**processor(images=image, return_tensors="pt"))
(result,) = processor.post_process_depth_estimation(outputs, target_sizes=[image.size[::-1]])
np.save(output, result["predicted_depth"].numpy())
"""


def make_folder(folder, seed=0, **overrides):
    """A model folder with a card; other seeds have other weights."""
    model, processor = make_pair(**overrides)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    write_model_folder(folder, model, processor)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def model_folder(tmp_path):
    return make_folder(tmp_path / "model")


@pytest.fixture
def photo(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def contents(folder) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def published(hub, repo_id, revision="main", repo_type="model") -> dict[str, bytes]:
    files = hub.files(repo_id, revision, repo_type)
    return {name: content for name, content in files.items() if name != ".gitattributes"}


def depth_of(folder_or_name, photo, revision="main") -> np.ndarray:
    model, processor = load_model_and_processor(folder_or_name, revision, device="cpu")
    with Image.open(photo) as image, torch.no_grad():
        outputs = model(**processor(images=image, return_tensors="pt"))
        (result,) = processor.post_process_depth_estimation(outputs, target_sizes=[image.size[::-1]])
    return result["predicted_depth"].numpy()


def depth_in_clean_process(script, hub, tmp_path, name, revision, photo) -> np.ndarray:
    """Without this package and without a token."""
    environment = hub_environment(hub, tmp_path)
    del environment["HF_TOKEN"]
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # sums are rounded in another order by others
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), name, revision, str(photo), str(tmp_path / "depth.npy")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return np.load(tmp_path / "depth.npy")


# What a push leaves on the Hub


def test_a_push_is_one_commit_with_all_files_and_prints_the_address(hub_server, model_folder, capsys):
    url = push(model_folder, "tester/rooms")
    assert url == f"{hub_server.url}/tester/rooms"
    assert capsys.readouterr().out == f"{url}\n"
    assert published(hub_server, "tester/rooms") == contents(model_folder)
    assert hub_server.lfs_files("tester/rooms") == {"model.safetensors"}
    assert [message for _, message in hub_server.commits("tester/rooms")] == ["initial commit", "Upload model"]


@pytest.mark.slow
def test_a_pushed_model_predicts_in_a_process_without_the_package_and_an_old_commit_what_it_did(
    hub_server, tmp_path, photo
):
    first, second = make_folder(tmp_path / "first"), make_folder(tmp_path / "second", seed=1)
    commit = commit_folder(first, "tester/rooms")
    commit_folder(second, "tester/rooms", update=True)
    shown = {}
    for revision in (commit.oid, "main"):
        shown[revision] = depth_in_clean_process(CLEAN_PROCESS, hub_server, tmp_path, "tester/rooms", revision, photo)
    assert np.array_equal(shown[commit.oid], depth_of(first, photo))
    assert np.array_equal(shown["main"], depth_of(second, photo))
    assert not np.array_equal(shown[commit.oid], shown["main"])


def test_whoever_sees_the_repository_can_load_it(hub_server, tmp_path, photo):
    """After each event: a first push, one that is cut off, and another."""
    push(make_folder(tmp_path / "first"), "tester/rooms")
    second = make_folder(tmp_path / "second", seed=1)
    hub_server.cut_uploads(after_bytes=1000)
    with pytest.raises(ValueError, match="broke off"):
        push(second, "tester/rooms", update=True)
    hub_server.mend()
    push(second, "tester/rooms", update=True)
    visible = {moment.commit for moment in hub_server.moments("tester/rooms") if not moment.private}
    assert len(visible) == 2
    depths = [depth_of("tester/rooms", photo, revision) for revision in visible]
    assert not np.array_equal(*depths)


def test_a_new_repository_is_hidden_until_it_is_complete(hub_server, model_folder):
    push(model_folder, "tester/rooms")
    moments = hub_server.moments("tester/rooms")
    assert [moment.private for moment in moments] == [True, True, True, False]
    assert moments[1].files == {".gitattributes"}
    assert "model.safetensors" in moments[2].files
    assert hub_server.branches("tester/rooms") == {"main"}


def test_a_private_one_stays_hidden(hub_server, model_folder):
    push(model_folder, "tester/rooms", private=True)
    assert hub_server.is_private("tester/rooms")
    push(make_folder(model_folder.parent / "second", seed=1), "tester/rooms", update=True)
    assert hub_server.is_private("tester/rooms")


def test_a_name_alone_is_the_users_own(hub_server, model_folder):
    assert push(model_folder, "rooms") == f"{hub_server.url}/tester/rooms"


def test_an_update_removes_what_would_still_be_loaded_and_keeps_the_rest(hub_server, tmp_path):
    sharded = make_folder(tmp_path / "sharded")
    model, _ = make_pair()
    (sharded / "model.safetensors").unlink()
    model.save_pretrained(sharded, max_shard_size="100KB")
    (sharded / "notes.txt").write_text("mine")
    (sharded / "indoor").mkdir()
    shutil.copy(next(sharded.glob("model-00001-*")), sharded / "indoor" / "adapter_model.safetensors")
    kept = {name: contents(sharded)[name] for name in ("notes.txt", "indoor/adapter_model.safetensors")}
    push(sharded, "tester/rooms")
    assert "model.safetensors.index.json" in published(hub_server, "tester/rooms")

    whole = make_folder(tmp_path / "whole", seed=1)
    commit = commit_folder(whole, "tester/rooms", update=True, commit_message="Other weights")
    assert published(hub_server, "tester/rooms") == contents(whole) | kept
    assert hub_server.commits("tester/rooms")[-1] == (commit.oid, "Other weights")
    assert len(hub_server.commits("tester/rooms")) == 3


def test_a_branch_of_an_existing_repository_gets_the_commit_alone(hub_server, tmp_path):
    first, second = make_folder(tmp_path / "first"), make_folder(tmp_path / "second", seed=1)
    push(first, "tester/rooms")
    push(second, "tester/rooms", revision="street", update=True)
    assert published(hub_server, "tester/rooms") == contents(first)
    assert published(hub_server, "tester/rooms", "street") == contents(second)


def test_a_branch_of_a_new_repository_does_not_leave_its_main_branch_empty(hub_server, model_folder):
    push(model_folder, "tester/rooms", revision="street")
    for revision in ("main", "street"):
        assert published(hub_server, "tester/rooms", revision) == contents(model_folder)


def test_a_proposal_changes_nothing_but_can_be_loaded(hub_server, tmp_path, photo):
    first, second = make_folder(tmp_path / "first"), make_folder(tmp_path / "second", seed=1)
    push(first, "tester/rooms")
    url = push(second, "tester/rooms", create_pr=True)
    assert url == f"{hub_server.url}/tester/rooms/discussions/1"
    assert published(hub_server, "tester/rooms") == contents(first)
    assert np.array_equal(depth_of("tester/rooms", photo, "refs/pr/1"), depth_of(second, photo))
    with pytest.raises(ValueError, match="no model 'tester/nothing' to propose"):
        push(first, "tester/nothing", create_pr=True)
    assert hub_server.repositories() == ["tester/rooms"]


def test_the_same_folder_again_makes_no_commit(hub_server, model_folder):
    commit = commit_folder(model_folder, "tester/rooms")
    assert commit_folder(model_folder, "tester/rooms", update=True).oid == commit.oid
    assert len(hub_server.commits("tester/rooms")) == 2


# Uploads that do not arrive


@pytest.mark.parametrize("fault", ["in the weights", "at the commit", "an error of the Hub"])
def test_an_upload_cut_off_leaves_the_last_commit(fault, hub_server, tmp_path):
    first, second = make_folder(tmp_path / "first"), make_folder(tmp_path / "second", seed=1)
    push(first, "tester/rooms")
    if fault == "in the weights":
        hub_server.cut_uploads(after_bytes=1000)
    else:
        hub_server.fail_commits(None if fault == "at the commit" else 500)
    with pytest.raises(ValueError, match="nothing that can be seen has changed") as error:
        push(second, "tester/rooms", update=True)
    assert "\n" not in str(error.value)
    assert published(hub_server, "tester/rooms") == contents(first)
    hub_server.mend()
    push(second, "tester/rooms", update=True)
    assert published(hub_server, "tester/rooms") == contents(second)


@pytest.mark.parametrize("fault", ["in the weights", "at the commit"])
def test_after_a_first_upload_cut_off_there_is_nothing_to_see_and_the_same_call_goes_on(
    fault, hub_server, model_folder
):
    if fault == "in the weights":
        hub_server.cut_uploads(after_bytes=1000)
    else:
        hub_server.fail_commits(None)
    with pytest.raises(ValueError, match="broke off"):
        push(model_folder, "tester/rooms")
    assert all(moment.private for moment in hub_server.moments("tester/rooms"))
    assert published(hub_server, "tester/rooms") == {}
    hub_server.mend()
    push(model_folder, "tester/rooms")
    assert not hub_server.is_private("tester/rooms")
    assert published(hub_server, "tester/rooms") == contents(model_folder)
    assert hub_server.branches("tester/rooms") == {"main"}


def test_a_push_that_was_cut_off_before_it_could_show_the_repository_is_ended_by_the_next(
    hub_server, model_folder, monkeypatch
):
    change_settings = HfApi.update_repo_settings

    def cut_when_shown(self, *args, private, **kwargs):
        if not private:
            raise OSError("cut")
        return change_settings(self, *args, private=private, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(HfApi, "update_repo_settings", cut_when_shown)
        with pytest.raises(ValueError, match="cut"):
            push(model_folder, "tester/rooms")
    assert hub_server.is_private("tester/rooms")
    push(model_folder, "tester/rooms")
    assert not hub_server.is_private("tester/rooms")
    assert len(hub_server.commits("tester/rooms")) == 2


def test_an_empty_repository_that_somebody_hid_stays_hidden_and_that_is_said(hub_server, model_folder, warnings):
    HfApi().create_repo("tester/rooms", private=True)
    push(model_folder, "tester/rooms")
    assert published(hub_server, "tester/rooms") == contents(model_folder)
    assert hub_server.is_private("tester/rooms")
    assert warnings == ["tester/rooms was hidden before and stays so; its settings page can change that."]


def answer_with(status):
    def answer(*args, **kwargs):
        raise HfHubHTTPError(
            "", response=SimpleNamespace(headers={}, request=None, status_code=status, reason_phrase="No")
        )

    return answer


def test_a_token_that_may_not_change_settings_leaves_the_repository_hidden_and_says_so(
    hub_server, model_folder, monkeypatch
):
    warnings = []
    monkeypatch.setattr(HfApi, "update_repo_settings", answer_with(403))
    monkeypatch.setattr("llm_mde.publishing_llm_mde.logger.warning", warnings.append)
    push(model_folder, "tester/rooms")
    assert published(hub_server, "tester/rooms") == contents(model_folder)
    assert hub_server.is_private("tester/rooms")
    assert len(warnings) == 1 and "tester/rooms is complete but hidden" in warnings[0]


def test_without_a_network_there_is_one_line(hub_server, model_folder):
    hub_server.stop()
    with pytest.raises(ValueError, match=f"the Hub \\({hub_server.url}\\) cannot be reached .*: nothing was sent"):
        push(model_folder, "tester/rooms")


# Hubs of one's own, which speak less


@pytest.fixture
def warnings(monkeypatch):
    """What the upload warns of; each in one line."""
    said = []
    monkeypatch.setattr("llm_mde.publishing_llm_mde.logger.warning", said.append)
    yield said
    assert all("\n" not in line for line in said)


SPARE_ROUTES = {"settings", "delete", "create_branch", "delete_branch", "create_tag", "refs", "commits", "tree"}


def test_a_hub_with_nothing_to_spare_is_enough(hub_server, model_folder, warnings, photo):
    hub_server.missing_routes = {*SPARE_ROUTES, "paths_info"}
    hub_server.has_error_codes = hub_server.has_siblings = False
    push(model_folder, "tester/rooms")
    assert published(hub_server, "tester/rooms") == contents(model_folder)
    assert not hub_server.is_private("tester/rooms")
    assert len(warnings) == 1 and "tester/rooms can be seen while it is uploaded" in warnings[0]
    with pytest.raises(ValueError, match="a model that exists"):
        push(model_folder, "tester/rooms")
    push(make_folder(model_folder.parent / "second", seed=1), "tester/rooms", update=True)
    assert "does not list the files of tester/rooms" in warnings[1]
    for each in make_pair():
        for name in ("both", "both", type(each).__name__):
            each.push_to_hub(name, tags=["indoor"])
    assert "- indoor" in hub_server.files("tester/both")["README.md"].decode()
    assert all(not hub_server.is_private(name) for name in hub_server.repositories())
    assert depth_of("tester/both", photo).shape == (40, 60)


def test_a_hub_without_info_takes_a_new_model_and_an_update(hub_server, model_folder, warnings):
    hub_server.missing_routes = {*SPARE_ROUTES, "info"}
    push(model_folder, "tester/rooms")
    second = make_folder(model_folder.parent / "second", seed=1)
    with pytest.raises(ValueError, match=r"'tester/rooms', which exists by now .*`update=True`"):
        push(second, "tester/rooms")
    assert published(hub_server, "tester/rooms") == contents(model_folder)
    push(second, "tester/rooms", update=True)
    assert published(hub_server, "tester/rooms") == contents(second)
    make_pair()[0].push_to_hub("tester/rooms")
    assert any("does not list the files of tester/rooms" in line for line in warnings)


def test_a_hub_that_could_not_show_a_hidden_repository_gets_a_visible_one(
    hub_server, model_folder, warnings, monkeypatch
):
    """Also where only the repository itself tells so; and where it cannot be made anew, that is said."""
    monkeypatch.setattr("llm_mde.publishing_llm_mde._has_settings", lambda api, where: True)
    hub_server.missing_routes = {"settings"}
    push(model_folder, "tester/rooms")
    assert not hub_server.is_private("tester/rooms")
    assert len(warnings) == 1 and "can be seen while it is uploaded" in warnings[0]
    hub_server.missing_routes = {"settings", "delete"}
    push(model_folder, "tester/street")
    assert hub_server.is_private("tester/street")
    assert published(hub_server, "tester/street") == contents(model_folder)
    assert "tester/street is complete but hidden, since this Hub has no route to change its visibility" in warnings[1]


@pytest.mark.parametrize("refused", ["tag 'v1'", "branch 'street'"])
def test_a_refused_tag_or_branch_comes_after_a_complete_commit_that_can_be_seen(refused, hub_server, model_folder):
    names = {"tag": "v1"} if refused.startswith("tag") else {"revision": "street"}
    hub_server.missing_routes = {"create_tag", "create_branch"}
    with pytest.raises(
        ValueError, match=rf"^the commit is there \(\w{{40}}\), but the {refused} was refused \(404: .*\)"
    ) as e:
        push(model_folder, "tester/rooms", **names)
    assert "\n" not in str(e.value)
    assert published(hub_server, "tester/rooms") == contents(model_folder)
    assert not hub_server.is_private("tester/rooms")


def test_a_branch_that_the_hub_does_not_make_is_named(hub_server, model_folder):
    push(model_folder, "tester/rooms")
    HfApi().create_branch("tester/rooms", branch="old")
    hub_server.missing_routes = {"create_branch"}
    with pytest.raises(ValueError, match="`revision` is 'street', a branch that 'tester/rooms' lacks"):
        push(model_folder, "tester/rooms", revision="street", update=True)
    model, _ = make_pair()
    with pytest.raises(ValueError, match="`revision` is 'street'"):
        model.push_to_hub("tester/rooms", revision="street")
    model.push_to_hub("tester/rooms", revision="old")
    assert published(hub_server, "tester/rooms") == contents(model_folder)


def test_a_repository_made_by_hand_is_not_taken_for_an_upload_of_ours(hub_server, model_folder):
    HfApi().create_repo("tester/rooms")
    with pytest.raises(ValueError, match="a model that exists"):
        push(model_folder, "tester/rooms")
    assert published(hub_server, "tester/rooms") == {}
    push(model_folder, "tester/rooms", update=True)
    assert published(hub_server, "tester/rooms") == contents(model_folder)


def test_without_a_list_of_files_stale_ones_are_found_in_the_tree(hub_server, tmp_path):
    model_folder = make_folder(tmp_path / "first")
    (model_folder / "model.safetensors").unlink()
    make_pair()[0].save_pretrained(model_folder, max_shard_size="100KB")
    push(model_folder, "tester/rooms")
    hub_server.has_siblings = False
    whole = make_folder(tmp_path / "whole")
    push(whole, "tester/rooms", update=True)
    assert published(hub_server, "tester/rooms") == contents(whole)


def test_a_client_that_speaks_xet_to_a_hub_that_does_not_is_told_how_to_stop_it(hub_server, model_folder, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("Data processing error: xet-write-token")

    monkeypatch.setattr(HfApi, "create_commit", fail)
    with pytest.raises(ValueError, match="does not speak Xet, set HF_HUB_DISABLE_XET=1"):
        push(model_folder, "tester/rooms")


# Who may


def test_a_hub_that_does_not_say_who_one_is_needs_a_whole_name(hub_server, model_folder, monkeypatch):
    monkeypatch.setattr(HfApi, "whoami", answer_with(404))
    with pytest.raises(ValueError, match="`repo_id` is 'rooms' and the Hub does not say whose token this is"):
        push(model_folder, "rooms")
    push(model_folder, "tester/rooms")
    assert published(hub_server, "tester/rooms") == contents(model_folder)
    assert not hub_server.is_private("tester/rooms")


@pytest.mark.parametrize(
    ("of", "repo_id", "message"),
    [
        (None, "tester/rooms", "there is no token to publish with; .* `hf auth login` or set HF_TOKEN"),
        ("wrong", "tester/rooms", r"does not know the token \(401.*: nothing was sent"),
        ("two lines", "tester/rooms", "the token has spaces, line breaks"),
        ("reader", "tester/rooms", r"refuses to let this token write to 'tester/rooms' \(403"),
        ("user", "stranger/rooms", r"to 'stranger/rooms' \(403.* in your own namespace"),
    ],
)
def test_who_may_not_publish_is_told_in_one_line_without_the_token(
    of, repo_id, message, hub_server, model_folder, monkeypatch, capsys, caplog
):
    tokens = {"wrong": "hf_" + "a" * 34, "two lines": "hf_" + "b" * 34 + "\nX", "reader": hub_server.read_token}
    token = tokens.get(of, hub_server.token)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match=message) as error:
        push(model_folder, repo_id, token=None if of is None else token)
    chain, links = error.value, []
    while chain is not None:
        links.append(str(chain))
        chain = chain.__cause__ or chain.__context__
    assert "\n" not in links[0]
    said = "".join([*links, caplog.text, *capsys.readouterr(), hub_server.log_text])
    assert "hf_aaaa" not in said and "hf_bbbb" not in said and token not in said
    assert hub_server.repositories() == []


def test_a_repository_that_exists_is_not_touched_without_update(hub_server, tmp_path):
    first, second = make_folder(tmp_path / "first"), make_folder(tmp_path / "second", seed=1)
    push(first, "tester/rooms")
    with pytest.raises(ValueError, match=r"`repo_id` is 'tester/rooms', a model that exists; .*`update=True`"):
        push(second, "tester/rooms")
    assert published(hub_server, "tester/rooms") == contents(first)


def test_nothing_is_sent_where_the_hub_is_switched_off(hub_server, model_folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE, so nothing was sent"):
        push(model_folder, "tester/rooms")
    assert hub_server.requests == []


@pytest.mark.parametrize("repo_id", ["a/b/c", "tester/ro oms", "tester/-", ""])
def test_a_name_that_no_repository_can_have_is_refused(repo_id, model_folder):
    with pytest.raises(ValueError, match="`repo_id` is "):
        push(model_folder, repo_id)


# What may be published


def test_a_written_folder_has_exactly_the_code_of_the_package(model_folder):
    assert check_folder(model_folder) == "model"
    assert {file.name for file in model_folder.glob("*.py")} == set(travelling_files())


def spoil(folder, name, content="x"):
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)


def edit_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "loss_llm_mde.py").unlink(), "'loss_llm_mde.py' is missing"),
        (lambda f: spoil(f, "loss_llm_mde.py", "import os"), "'loss_llm_mde.py' is not the file of the installed"),
        (lambda f: spoil(f, "extra.py"), "'extra.py' does not belong"),
        (lambda f: spoil(f, "code/loss_llm_mde.py"), "'code/loss_llm_mde.py' does not belong"),
        (lambda f: spoil(f, "training_args.bin"), "'training_args.bin' can hold a pickle"),
        (lambda f: spoil(f, "old/weights.PT"), "'old/weights.PT' can hold a pickle"),
        (lambda f: spoil(f, "depth.npy"), "'depth.npy' can hold a pickle"),
        (lambda f: spoil(f, ".env"), "'.env' is hidden"),
        (lambda f: spoil(f, "__pycache__/x.txt"), "'__pycache__' is hidden or a cache"),
        (lambda f: (f / "link.txt").symlink_to(f / "config.json"), "'link.txt' is a symbolic link"),
        (lambda f: (f / "model.safetensors").unlink(), "'model.safetensors' is missing"),
        (lambda f: spoil(f, "model.safetensors"), "'model.safetensors' is not a whole safetensors file"),
        (lambda f: (f / "processor_config.json").unlink(), "'processor_config.json' is missing"),
        (lambda f: (f / "tokenizer.json").unlink(), "'tokenizer.json' is missing"),
        (lambda f: (f / "README.md").unlink(), "'README.md' is missing"),
        (lambda f: spoil(f, "README.md", CARD + "[More Information Needed]"), "More Information Needed"),
        (lambda f: spoil(f, "README.md", "---\na: [\n---\n"), "front matter that cannot be read"),
        (lambda f: spoil(f, "notes.txt", "hf_" + "aB3" * 12), "'notes.txt' contains a Hugging Face token"),
        (lambda f: spoil(f, "notes.txt", "opensesame"), "'notes.txt' contains a Hugging Face token"),
        (lambda f: edit_json(f / "config.json", origin=str(f.parent)), "'config.json' names '.*', a folder of this"),
        (lambda f: edit_json(f / "config.json", origin=str(f / "x")), "'config.json' names '.*', a folder of this"),
        (lambda f: edit_json(f / "config.json", model_type="bert"), "'config.json' is of a 'bert' model"),
        (lambda f: (f / "config.json").unlink(), "which has neither config.json"),
    ],
)
def test_a_folder_with_a_defect_is_refused_by_the_name_of_the_file(
    change, message, hub_server, model_folder, monkeypatch
):
    monkeypatch.chdir(model_folder.parent)
    change(model_folder)
    with pytest.raises(ValueError, match=message):
        check_folder(model_folder, token="opensesame")
    with pytest.raises(ValueError):
        push(model_folder, "tester/rooms", token="opensesame")
    assert hub_server.requests == []


def test_a_word_of_a_vocabulary_is_no_folder_of_this_machine(model_folder, monkeypatch):
    monkeypatch.setenv("HOME", "/root")  # Qwen's vocabulary has it
    vocabulary = json.loads((model_folder / "tokenizer.json").read_text())
    vocabulary["model"]["vocab"]["/root"] = len(vocabulary["model"]["vocab"])
    (model_folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert check_folder(model_folder) == "model"
    edit_json(model_folder / "config.json", origin="/root/models")
    with pytest.raises(ValueError, match=r"'config\.json' names '/root'"):
        check_folder(model_folder)


def test_a_missing_shard_is_refused(tmp_path):
    folder = make_folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    make_pair()[0].save_pretrained(folder, max_shard_size="100KB")
    assert check_folder(folder) == "model"
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(ValueError, match=r"'model-00002-of-.*' is missing"):
        check_folder(folder)


# Adapters


@pytest.fixture
def adapter_folder(model_folder, tmp_path):
    """An adapter that was trained on a folder, and says so."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = LLMMDEForDepthEstimation.from_pretrained(model_folder)
    config = peft.LoraConfig(
        r=4, init_lora_weights=False, target_modules=["self.query"], modules_to_save=["reprogramming"]
    )
    trained = peft.get_peft_model(base, config)
    trained.save_pretrained(tmp_path / "adapter")
    LLMMDEProcessor.from_pretrained(model_folder).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "README.md").write_text(CARD)
    return tmp_path / "adapter"


@pytest.mark.slow
def test_an_adapter_is_published_with_its_base_and_predicts_in_a_clean_process(
    hub_server, model_folder, adapter_folder, tmp_path, photo
):
    expected = depth_of(adapter_folder, photo)
    with pytest.raises(ValueError, match=r"`base_model_name_or_path` .* nobody else can load: publish the base first"):
        push(adapter_folder, "tester/street")
    base = commit_folder(model_folder, "tester/rooms")
    edit_json(adapter_folder / "adapter_config.json", base_model_name_or_path="tester/rooms")
    with pytest.raises(ValueError, match=r"`revision` in adapter_config.json is None"):
        push(adapter_folder, "tester/street")
    edit_json(adapter_folder / "adapter_config.json", revision="0" * 40)
    with pytest.raises(ValueError, match=r"'tester/rooms' at '0000.* is not on the Hub"):
        push(adapter_folder, "tester/street")
    assert hub_server.repositories() == ["tester/rooms"]

    edit_json(adapter_folder / "adapter_config.json", revision=base.oid)
    commit = commit_folder(adapter_folder, "tester/street")
    commit_folder(make_folder(tmp_path / "other", seed=1), "tester/rooms", update=True)  # the base moves on
    assert published(hub_server, "tester/street") == contents(adapter_folder)
    assert hub_server.commits("tester/street")[-1] == (commit.oid, "Upload adapter")
    assert np.array_equal(depth_of("tester/street", photo), expected)
    names = (f"tester/street@{commit.oid}", f"tester/rooms@{base.oid}")
    shown = depth_in_clean_process(CLEAN_PROCESS_WITH_ADAPTER, hub_server, tmp_path, *names, photo)
    np.testing.assert_allclose(shown, expected, rtol=0, atol=1e-5)  # not merged there


@pytest.mark.parametrize(
    "base", ["/models/base", "./base", "../base", "base", r"C:\\models\\base", "", None, "tmp/base"]
)
def test_a_base_that_is_no_repository_is_refused(base, adapter_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp" / "base").mkdir(parents=True)
    edit_json(adapter_folder / "adapter_config.json", base_model_name_or_path=base, revision="main")
    with pytest.raises(ValueError, match=r"publish the base first.*`--base user/name --base_revision COMMIT`"):
        check_folder(adapter_folder)


def test_an_adapter_has_the_code_of_its_processor_alone(adapter_folder, model_folder):
    edit_json(adapter_folder / "adapter_config.json", base_model_name_or_path="tester/rooms", revision="main")
    assert check_folder(adapter_folder) == "adapter"
    shutil.copy(model_folder / "loss_llm_mde.py", adapter_folder)
    with pytest.raises(ValueError, match=r"'loss_llm_mde.py' does not belong"):
        check_folder(adapter_folder)
    (adapter_folder / "loss_llm_mde.py").unlink()
    (adapter_folder / "adapter_model.safetensors").rename(adapter_folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"'adapter_model.bin' can hold a pickle"):
        check_folder(adapter_folder)


def test_an_adapter_in_the_place_of_a_model_is_not_mixed_with_it(hub_server, model_folder, adapter_folder):
    base = commit_folder(model_folder, "tester/rooms")
    commit_folder(model_folder, "tester/other")
    edit_json(adapter_folder / "adapter_config.json", base_model_name_or_path="tester/rooms", revision=base.oid)
    push(adapter_folder, "tester/other", update=True)
    assert published(hub_server, "tester/other") == contents(adapter_folder)
    push(model_folder, "tester/other", update=True)
    assert published(hub_server, "tester/other") == contents(model_folder)


# Spaces


@pytest.fixture
def space_folder(model_folder, tmp_path):
    folder = tmp_path / "space"
    shutil.copytree(model_folder, folder / "model")
    (folder / "README.md").write_text(SPACE_CARD)
    (folder / "app.py").write_text("import gradio\n")
    (folder / "requirements.txt").write_text("gradio\n")
    (folder / "depth.npy").write_bytes(b"0")
    return folder


def test_a_space_is_published_as_a_space(hub_server, space_folder):
    url = push(space_folder, "tester/depth")
    assert url == f"{hub_server.url}/spaces/tester/depth"
    files = published(hub_server, "tester/depth", repo_type="space")
    assert files["README.md"].decode() == SPACE_CARD
    assert {"app.py", "requirements.txt", "model/model.safetensors", "model/modeling_llm_mde.py"} <= set(files)
    moments = hub_server.moments("tester/depth", repo_type="space")
    assert [moment.private for moment in moments] == [True, True, True, False]
    with pytest.raises(ValueError, match="a space that exists"):
        push(space_folder, "tester/depth")


def test_a_space_that_cannot_start_or_brings_other_code_is_refused(space_folder):
    assert check_folder(space_folder) == "space"
    code = space_folder / "model" / "loss_llm_mde.py"
    text = code.read_text()
    code.write_text(text + "\n")
    with pytest.raises(ValueError, match=r"'loss_llm_mde.py' is not the file of the installed package"):
        check_folder(space_folder)
    code.write_text(text)
    package = Path(llm_mde.__file__).parent
    (space_folder / "llm_mde").mkdir()
    for file in package.glob("*_llm_mde.py"):
        shutil.copy(file, space_folder / "llm_mde")
    with pytest.raises(ValueError, match=r"'__init__.py' is missing"):  # the package is there as a whole or not at all
        check_folder(space_folder)
    shutil.rmtree(space_folder / "llm_mde")
    code = space_folder / "loss_llm_mde.py"
    code.write_text(text + "\n")
    with pytest.raises(ValueError, match=r"'loss_llm_mde.py' is not the file of the installed package"):
        check_folder(space_folder)
    code.unlink()
    (space_folder / "README.md").write_text(SPACE_CARD.replace("gradio", "static"))
    with pytest.raises(ValueError, match=r"`sdk` in 'README.md' is 'static'"):
        check_folder(space_folder)
    (space_folder / "README.md").write_text(SPACE_CARD)
    (space_folder / "requirements.txt").unlink()
    with pytest.raises(ValueError, match=r"'requirements.txt' is missing"):
        check_folder(space_folder)


# The methods of Transformers


def test_push_to_hub_of_a_model_is_one_commit_that_loads_with_a_card_of_its_own(hub_server, photo):
    model, processor = make_pair()
    commit = model.push_to_hub("rooms", tags=["indoor"], commit_description="with care")
    assert commit.repo_url == f"{hub_server.url}/tester/rooms"
    processor.push_to_hub("tester/rooms")
    files = published(hub_server, "tester/rooms")
    assert {name for name in files if name.endswith(".py")} == set(travelling_files())
    card = files["README.md"].decode()
    assert "tester/rooms" in card and "- indoor" in card and "More Information Needed" not in card
    assert [title for _, title in hub_server.commits("tester/rooms")[1:]] == ["Upload model", "Upload processor"]
    moments = hub_server.moments("tester/rooms")
    assert all("model.safetensors" in moment.files for moment in moments if not moment.private)
    assert [moment.private for moment in moments] == [True, True, True, False, False]
    assert depth_of("tester/rooms", photo).shape == (40, 60)


def test_saving_is_over_before_anything_is_created(hub_server, monkeypatch, tmp_path):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    model, processor = make_pair()
    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fail)
    monkeypatch.setattr("transformers.tokenization_utils_base.PreTrainedTokenizerBase.save_pretrained", fail)
    for each in (model, processor):
        for push_it in (
            lambda each=each: each.push_to_hub("rooms"),
            lambda each=each: each.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="rooms"),
        ):
            with pytest.raises(OSError, match="disk full"):
                push_it()
    assert hub_server.repositories() == []


def test_a_card_that_somebody_wrote_stays_and_gets_new_tags_alone(hub_server, model_folder):
    model, processor = make_pair()
    (model_folder / "README.md").write_text("---\nlicense: mit\ntags:\n- mine\n---\n\n# By hand\n")
    push(model_folder, "tester/rooms")
    by_hand = hub_server.files("tester/rooms")["README.md"]
    model.push_to_hub("tester/rooms", tags="mine")
    processor.push_to_hub("tester/rooms")
    assert hub_server.files("tester/rooms")["README.md"] == by_hand
    model.push_to_hub("tester/rooms", tags=["indoor"])
    processor.push_to_hub("tester/rooms", tags=["street"])
    card = hub_server.files("tester/rooms")["README.md"].decode()
    assert card == "---\nlicense: mit\ntags:\n- mine\n- indoor\n- street\n---\n\n# By hand\n"


def test_shards_pushed_over_one_file_are_what_is_loaded_then(hub_server, pixel_values):
    """A repository with both would load the one file, which is the older."""
    model, _ = make_pair()
    model.push_to_hub("rooms")
    with torch.no_grad():
        next(model.depth_head.parameters()).add_(0.1)
    model.push_to_hub("rooms", max_shard_size="100KB")
    files = published(hub_server, "tester/rooms")
    assert "model.safetensors" not in files and "model.safetensors.index.json" in files
    loaded = LLMMDEForDepthEstimation.from_pretrained("tester/rooms")
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values).predicted_depth, model(pixel_values).predicted_depth)


def test_a_whole_model_pushed_over_an_adapter_is_what_is_loaded_then(hub_server):
    api = HfApi()
    api.create_repo("tester/rooms")
    card = "---\nlibrary_name: peft\nbase_model: tester/base\n---\n\n# An adapter\n"
    for name, content in (("adapter_config.json", "{}"), ("adapter_model.safetensors", "x"), ("README.md", card)):
        api.upload_file(path_or_fileobj=content.encode(), path_in_repo=name, repo_id="tester/rooms")
    make_pair(max_depth=50.0)[0].push_to_hub("rooms")
    files = published(hub_server, "tester/rooms")
    assert not [name for name in files if name.startswith("adapter_")]
    assert b"An adapter" not in files["README.md"]
    assert LLMMDEForDepthEstimation.from_pretrained("tester/rooms").config.max_depth == 50.0


def test_saving_and_pushing_uploads_what_was_saved_and_nothing_else_of_the_folder(hub_server, tmp_path):
    model, processor = make_pair()
    folder = tmp_path / "rooms"
    folder.mkdir()
    (folder / "diary.txt").write_text("private")
    model.save_pretrained(folder, push_to_hub=True, commit_message="First", private=True)
    processor.save_pretrained(folder, push_to_hub=True, repo_id="tester/rooms", commit_message="Second")
    files = published(hub_server, "tester/rooms")
    assert set(files) == {file.name for file in folder.iterdir()} - {"diary.txt"} | {"README.md"}
    assert [title for _, title in hub_server.commits("tester/rooms")[1:]] == ["First", "Second"]
    assert hub_server.is_private("tester/rooms")
    assert LLMMDEProcessor.from_pretrained("tester/rooms").max_prompt_length == 96


def test_branches_and_proposals_by_the_methods(hub_server, tmp_path):
    model, processor = make_pair()
    for each in (model, processor):
        each.push_to_hub("tester/rooms")
    main = published(hub_server, "tester/rooms")
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    model.push_to_hub("tester/rooms", revision="street")
    processor = make_pair(max_prompt_length=80)[1]
    processor.push_to_hub("tester/rooms", revision="street")
    assert model.push_to_hub("tester/rooms", create_pr=True).pr_revision == "refs/pr/1"
    assert processor.push_to_hub("tester/rooms", create_pr=True).pr_revision == "refs/pr/2"
    assert published(hub_server, "tester/rooms") == main
    assert published(hub_server, "tester/rooms", "street")["model.safetensors"] != main["model.safetensors"]
    assert LLMMDEProcessor.from_pretrained("tester/rooms", revision="street").max_prompt_length == 80
    assert LLMMDEProcessor.from_pretrained("tester/rooms", revision="refs/pr/2").max_prompt_length == 80


def test_a_branch_of_a_new_repository_by_the_model_does_not_leave_its_main_branch_empty(hub_server):
    make_pair()[0].push_to_hub("tester/rooms", revision="street")
    assert hub_server.files("tester/rooms") == hub_server.files("tester/rooms", "street")
    assert hub_server.branches("tester/rooms") == {"main", "street"}


def test_a_processor_alone_is_one_commit(hub_server):
    _, processor = make_pair()
    processor.push_to_hub("words", tags="prompts", private=True)
    assert [title for _, title in hub_server.commits("tester/words")] == ["initial commit", "Upload processor"]
    assert hub_server.files("tester/words")["README.md"] == b"---\ntags:\n- prompts\n---\n"
    assert hub_server.is_private("tester/words")
    LLMMDEProcessor.from_pretrained("tester/words")
    processor.push_to_hub("more", revision="street")
    assert "processor_config.json" in hub_server.files("tester/more", "street")
    assert not hub_server.is_private("tester/more")


def test_a_model_that_carries_an_adapter_pushes_the_adapter(hub_server, adapter_folder):
    model, _ = make_pair()
    model.load_adapter(str(adapter_folder))
    model.push_to_hub("street")
    files = published(hub_server, "tester/street")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(files)
    assert "model.safetensors" not in files and "README.md" not in files


def test_an_organisation_that_hides_its_new_repositories_is_followed(tmp_path, model_folder, monkeypatch):
    """Organisations are beyond the server of these tests: the calls are looked at instead."""
    calls = []

    class Api(FakeApi):
        default_is_private = True

    api = Api(calls)
    monkeypatch.setattr("llm_mde.publishing_llm_mde.HfApi", lambda token: api)
    publish_folder(model_folder, "org/rooms")
    assert api.private is True and "update_repo_settings" not in calls
    calls.clear()
    Api.default_is_private = False
    api.private = None
    publish_folder(model_folder, "org/rooms")
    assert calls.index("update_repo_settings") < calls.index("create_commit")
    assert api.private is False and api.branches == set()


class FakeApi:
    """A Hub with one organisation, of which "tester" is a member."""

    def __init__(self, calls):
        self.calls, self.private, self.branches = calls, None, set()

    def whoami(self):
        return {"name": "tester"}

    def create_repo(self, repo_id, repo_type, private, space_sdk):
        self.private = self.default_is_private if private is None else private

    def repo_info(self, repo_id, repo_type):
        if self.private is None:
            answer_with(404)()
        return type("Info", (), {"private": self.private})

    def update_repo_settings(self, repo_id, repo_type, private):
        self.calls.append("update_repo_settings")
        self.private = private

    def create_branch(self, repo_id, repo_type, branch):
        self.branches.add(branch)

    def delete_branch(self, repo_id, repo_type, branch):
        self.branches.remove(branch)

    def create_commit(self, **options):
        self.calls.append("create_commit")
        assert self.private and (self.default_is_private or self.branches == {UNFINISHED})
