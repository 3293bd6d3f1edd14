"""The server that stands in for the Hub does, for the real client, what the Hub does."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    HfApi,
    constants,
    get_session,
    get_token,
    hf_api,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.conftest import hub_environment, point_this_process_at
from tests.hub.hub_repositories import Refusal, card_metadata
from tests.hub.hub_server import HubServer

REPO = "tester/depth"
CARD = "---\ntags:\n- depth\npipeline_tag: depth-estimation\nlibrary_name: transformers\n---\n# Depth\n"
WEIGHTS = bytes(range(256)) * 12_000  # 3 MB


@pytest.fixture
def api(hub_server) -> HfApi:
    return HfApi()


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "folder"
    (folder / "prompts").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"max_depth": 10.0}')
    (folder / "prompts" / "room.txt").write_text("A room.")
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    return folder


def contents(folder: str | Path) -> dict[str, bytes]:
    paths = (path for path in Path(folder).rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def upload(api: HfApi, folder: Path, message: str = "Upload model", **arguments):
    api.create_repo(REPO, exist_ok=True)
    return api.upload_folder(repo_id=REPO, folder_path=folder, commit_message=message, **arguments)


def test_an_uploaded_folder_comes_back_byte_for_byte(hub_server, api, folder):
    commit = upload(api, folder)
    assert [title for _, title in hub_server.commits(REPO)] == ["initial commit", "Upload model"]
    assert hub_server.commits(REPO)[-1][0] == commit.oid
    assert hub_server.files(REPO).items() > contents(folder).items()
    assert hub_server.lfs_files(REPO) == {"model.safetensors"}
    assert Path(hf_hub_download(REPO, "model.safetensors")).read_bytes() == WEIGHTS
    assert Path(hf_hub_download(REPO, "prompts/room.txt")).read_text() == "A room."
    assert contents(snapshot_download(REPO)) == hub_server.files(REPO)


def test_files_are_kept_by_content_and_not_loaded_twice(hub_server, api, folder):
    upload(api, folder)
    first = hf_hub_download(REPO, "model.safetensors")
    seen = len(hub_server.requests)
    assert hf_hub_download(REPO, "model.safetensors") == first
    assert [request.method for request in hub_server.requests[seen:]] == ["HEAD"]


def test_what_a_repository_says_of_itself(hub_server, api, folder):
    commit = upload(api, folder)
    info = api.model_info(REPO, files_metadata=True)
    assert (info.id, info.author, info.sha, info.private) == (REPO, "tester", commit.oid, False)
    assert (info.pipeline_tag, info.library_name, info.tags) == ("depth-estimation", "transformers", ["depth"])
    assert info.card_data.pipeline_tag == "depth-estimation"
    sizes = {sibling.rfilename: (sibling.size, sibling.lfs is not None) for sibling in info.siblings}
    assert sizes["model.safetensors"] == (len(WEIGHTS), True)
    assert sizes["README.md"] == (len(CARD), False)
    assert set(api.list_repo_files(REPO)) == set(hub_server.files(REPO))
    assert "prompts" in {entry.path for entry in api.list_repo_tree(REPO)}
    assert [entry.path for entry in api.list_repo_tree(REPO, "prompts")] == ["prompts/room.txt"]
    assert [commit.title for commit in api.list_repo_commits(REPO)] == ["Upload model", "initial commit"]
    assert api.whoami()["name"] == "tester"


def test_every_revision_keeps_its_files(hub_server, api, folder):
    first = upload(api, folder, "First")
    api.create_branch(REPO, branch="of/first")
    api.create_tag(REPO, tag="v1")
    (folder / "config.json").write_text('{"max_depth": 80.0}')
    (folder / "prompts" / "room.txt").unlink()
    second = upload(api, folder, "Second", delete_patterns="prompts/*")
    assert [title for _, title in hub_server.commits(REPO)] == ["initial commit", "First", "Second"]
    for revision, max_depth in ((first.oid, 10), ("of/first", 10), ("v1", 10), (second.oid, 80), ("main", 80)):
        path = hf_hub_download(REPO, "config.json", revision=revision)
        assert json.loads(Path(path).read_text()) == {"max_depth": max_depth}
    assert "prompts/room.txt" in hub_server.files(REPO, first.oid)
    assert "prompts/room.txt" not in hub_server.files(REPO)
    refs = api.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": second.oid, "of/first": first.oid}
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1", first.oid)]
    api.delete_branch(REPO, branch="of/first")
    assert hub_server.branches(REPO) == {"main"}
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPO, "config.json", revision="of/second")


def test_a_commit_goes_to_the_branch_that_is_named(hub_server, api, folder):
    upload(api, folder)
    api.create_branch(REPO, branch="next")
    (folder / "config.json").write_text("{}")
    upload(api, folder, "Next", revision="next")
    assert hub_server.files(REPO, "next")["config.json"] == b"{}"
    assert hub_server.files(REPO)["config.json"] == b'{"max_depth": 10.0}'
    with pytest.raises(RevisionNotFoundError):
        upload(api, folder, "Nowhere", revision="nowhere")


def test_a_proposed_commit_leaves_the_main_branch(hub_server, api, folder):
    api.create_repo(REPO)
    commit = upload(api, folder, create_pr=True)
    assert commit.pr_revision == "refs/pr/1"
    assert set(hub_server.files(REPO)) == {".gitattributes"}
    assert hub_server.files(REPO, "refs/pr/1").items() > contents(folder).items()
    assert Path(hf_hub_download(REPO, "model.safetensors", revision="refs/pr/1")).read_bytes() == WEIGHTS


def test_nothing_changed_is_no_commit(hub_server, api, folder):
    first = upload(api, folder)
    assert upload(api, folder, "Again").oid == first.oid
    assert len(hub_server.commits(REPO)) == 2


def test_files_are_copied_and_deleted(hub_server, api, folder):
    upload(api, folder)
    copies = [CommitOperationCopy("config.json", "a/config.json"), CommitOperationCopy("model.safetensors", "a/b.bin")]
    api.create_commit(REPO, copies, commit_message="Copy")
    assert hub_server.files(REPO)["a/config.json"] == b'{"max_depth": 10.0}'
    assert hub_server.files(REPO)["a/b.bin"] == WEIGHTS
    api.delete_folder("a", repo_id=REPO)
    api.delete_file("config.json", repo_id=REPO)
    assert set(hub_server.files(REPO)) == {".gitattributes", *contents(folder)} - {"config.json"}
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        api.delete_file("config.json", repo_id=REPO)


def test_a_commit_that_was_overtaken_is_refused(hub_server, api, folder):
    api.create_repo(REPO)
    parent = hub_server.commits(REPO)[-1][0]
    upload(api, folder)
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(REPO, [CommitOperationAdd("a", b"a")], commit_message="Late", parent_commit=parent)
    assert len(hub_server.commits(REPO)) == 2


def test_what_is_not_there_is_named(hub_server, api, folder):
    upload(api, folder)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "pytorch_model.bin")
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("tester/nothing", "config.json")
    assert not api.file_exists(REPO, "pytorch_model.bin")
    assert api.file_exists(REPO, "model.safetensors")
    assert not api.repo_exists("tester/nothing")
    assert not api.repo_exists(REPO, repo_type="space")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("span, kept", [("0-3", slice(0, 4)), ("5-", slice(5, None)), ("-7", slice(-7, None))])
def test_parts_of_files(hub_server, api, folder, name, span, kept):
    upload(api, folder)
    whole = hub_server.files(REPO)[name]
    response = get_session().get(hf_hub_url(REPO, name), headers={"Range": f"bytes={span}"}, follow_redirects=True)
    assert response.status_code == 206
    assert response.content == whole[kept]
    first, stop, _ = kept.indices(len(whole))
    assert response.headers["Content-Range"] == f"bytes {first}-{stop - 1}/{len(whole)}"


def test_a_part_behind_the_end_is_refused(hub_server, api, folder):
    upload(api, folder)
    response = get_session().get(hf_hub_url(REPO, "config.json"), headers={"Range": "bytes=1000-"})
    assert response.status_code == 416


def test_large_files_lie_elsewhere_and_without_tokens(hub_server, api, folder):
    upload(api, folder)
    hf_hub_download(REPO, "model.safetensors")
    storage = [request for request in hub_server.requests if "?signature=" in request.path]
    assert [request.method for request in storage] == ["PUT", "GET"]
    assert not any(request.has_token for request in storage)
    address = get_session().head(hf_hub_url(REPO, "model.safetensors"), follow_redirects=False).headers["Location"]
    assert not address.startswith(hub_server.url)
    assert get_session().get(address).content == WEIGHTS
    assert get_session().get(address, headers={"Authorization": f"Bearer {hub_server.token}"}).status_code == 400
    assert get_session().get(address[:-1]).status_code == 403
    assert get_session().put(address, content=WEIGHTS).status_code == 403


def test_what_is_uploaded_must_be_what_was_announced(hub_server, api):
    api.create_repo(REPO)
    oid = "0" * 64
    headers = {"Authorization": f"Bearer {hub_server.token}"}
    payload = {"operation": "upload", "objects": [{"oid": oid, "size": 1}]}
    batch = get_session().post(f"{hub_server.url}/{REPO}.git/info/lfs/objects/batch", headers=headers, json=payload)
    actions = batch.json()["objects"][0]["actions"]
    assert get_session().put(actions["upload"]["href"], content=b"x").status_code == 400
    verified = get_session().post(actions["verify"]["href"], headers=headers, json={"oid": oid, "size": 1})
    assert verified.status_code == 404


def test_a_private_repository_is_there_for_its_owner_alone(hub_server, api, folder):
    api.create_repo(REPO, private=True)
    upload(api, folder)
    assert hub_server.is_private(REPO) and api.model_info(REPO).private
    for token in (False, hub_server.stranger_token):
        assert not api.repo_exists(REPO, token=token)
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download(REPO, "config.json", token=token)
    api.update_repo_settings(REPO, private=False)
    assert api.repo_exists(REPO, token=False)
    assert Path(hf_hub_download(REPO, "model.safetensors", token=False)).read_bytes() == WEIGHTS
    seen = [(moment.private, "config.json" in moment.files) for moment in hub_server.moments(REPO)]
    assert seen == [(True, False), (True, True), (False, True)]


def test_who_may_not_write(hub_server, api, folder):
    upload(api, folder)
    (folder / "config.json").write_text("{}")
    for token, status in (
        (False, 401),
        ("hf_wrong", 401),
        (hub_server.stranger_token, 403),
        (hub_server.read_token, 403),
    ):
        with pytest.raises(HfHubHTTPError) as refused:
            api.create_repo("tester/another", token=token)
        assert refused.value.response.status_code == status
        with pytest.raises(HfHubHTTPError) as refused:
            api.upload_folder(repo_id=REPO, folder_path=folder, token=token)
        assert refused.value.response.status_code == status
    assert hub_server.repositories() == [REPO]
    assert len(hub_server.commits(REPO)) == 2


def test_a_wrong_token_is_refused_even_where_none_is_needed(hub_server, api, folder):
    upload(api, folder)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_wrong")
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        api.model_info(REPO, token="hf_wrong")


def test_a_repository_is_made_once_and_deleted(hub_server, api):
    assert api.create_repo("depth").repo_id == REPO
    assert not hub_server.is_private(REPO)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    api.create_repo(REPO, repo_type="space", space_sdk="gradio")
    assert hub_server.repositories() == ["spaces/tester/depth", "tester/depth"]
    hub_server.private_by_default = True
    api.create_repo("tester/hidden")
    assert hub_server.is_private("tester/hidden")
    api.delete_repo("tester/hidden")
    api.delete_repo(REPO)
    assert hub_server.repositories() == ["spaces/tester/depth"]


def test_a_space(hub_server, api, tmp_path):
    assert api.create_repo(REPO, repo_type="space", space_sdk="gradio").repo_type == "space"
    assert set(hub_server.files(REPO, repo_type="space")) == {".gitattributes", "README.md"}
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "README.md").write_text("---\nsdk: gradio\nsdk_version: 6.20.0\napp_file: app.py\n---\n")
    (tmp_path / "space" / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    api.upload_folder(repo_id=REPO, folder_path=tmp_path / "space", repo_type="space")
    assert hub_server.lfs_files(REPO, repo_type="space") == {"photo.png"}
    assert api.space_info(REPO).sdk == "gradio"
    assert contents(snapshot_download(REPO, repo_type="space")) == hub_server.files(REPO, repo_type="space")


@pytest.mark.parametrize("after_bytes", [0, 1_000_000])
def test_an_upload_that_is_cut_off_leaves_the_last_commit(hub_server, api, folder, after_bytes):
    upload(api, folder, "First")
    before = hub_server.files(REPO)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(WEIGHTS[::-1])
    hub_server.cut_uploads(after_bytes)
    with pytest.raises(RuntimeError, match=r"Error while uploading 'model\.safetensors'"):
        upload(api, folder, "Second")
    assert [title for _, title in hub_server.commits(REPO)] == ["initial commit", "First"]
    assert hub_server.files(REPO) == before
    hub_server.mend()
    upload(api, folder, "Second")
    assert hub_server.files(REPO)["model.safetensors"] == WEIGHTS[::-1]


def test_an_upload_that_is_cut_off_once_is_made_by_the_next_attempt(hub_server, api, folder):
    hub_server.cut_uploads(1_000_000, times=1)
    with contextlib.suppress(RuntimeError):  # newer clients make the next attempt themselves
        upload(api, folder)
    upload(api, folder)
    assert hub_server.files(REPO)["model.safetensors"] == WEIGHTS
    uploads = [request.status for request in hub_server.requests if request.method == "PUT"]
    assert uploads == [None, 200]


@pytest.mark.parametrize("status", [500, None])
def test_a_failed_commit_leaves_the_last_one(hub_server, api, folder, status):
    upload(api, folder, "First")
    (folder / "config.json").write_text("{}")
    hub_server.fail_commits(status, times=1)
    with pytest.raises(Exception, match="500" if status else "disconnected|reset|closed"):
        upload(api, folder, "Second")
    assert [title for _, title in hub_server.commits(REPO)] == ["initial commit", "First"]
    upload(api, folder, "Third")
    assert hub_server.files(REPO)["config.json"] == b"{}"


def test_no_network(hub_server, api, folder):
    upload(api, folder)
    path = hf_hub_download(REPO, "config.json")
    hub_server.stop()
    assert hf_hub_download(REPO, "config.json") == path
    with pytest.raises((LocalEntryNotFoundError, RuntimeError)):  # huggingface_hub 1.5 goes on with a closed client
        hf_hub_download(REPO, "model.safetensors")
    with pytest.raises(Exception, match="refused"):
        api.model_info(REPO)


@pytest.mark.parametrize(
    "card, kind, complaint",
    [
        ("tags: [a", "models", "YAML"),
        ("- a", "models", "mapping"),
        ("tags: [1]", "models", '"tags"'),
        ("base_model: /home/me/vit", "models", '"base_model"'),
        ("base_model: [a/b, ./c]", "models", '"base_model"'),
        ("license: MIT", "models", '"license"'),
        ("model-index: [{name: a, results: [{}]}]", "models", r'"model-index\[0\].results\[0\].task" is required'),
        ("model-index: [{results: []}]", "models", r'"model-index\[0\].name" is required'),
        ("title: a", "spaces", '"sdk"'),
        ("{sdk: gradio, colorTo: mauve}", "spaces", '"colorTo"'),
        (f"{{sdk: gradio, short_description: {'a' * 61}}}", "spaces", '"short_description"'),
        ("{sdk: gradio, sdk_version: 6.20}", "spaces", '"sdk_version"'),
    ],
)
def test_a_card_that_the_hub_would_not_take(hub_server, api, card, kind, complaint):
    card = f"---\n{card}\n---\n# Depth\n"
    api.create_repo(REPO, repo_type=kind[:-1], space_sdk="gradio" if kind == "spaces" else None)
    with pytest.raises(ValueError, match=complaint):
        api.create_commit(
            REPO, [CommitOperationAdd("README.md", card.encode())], commit_message="Card", repo_type=kind[:-1]
        )
    assert len(hub_server.commits(REPO, repo_type=kind[:-1])) == 1
    with pytest.raises(Refusal):  # and not by another way either
        card_metadata(card.encode(), kind)


def test_a_card_without_metadata_is_warned_of(hub_server, api):
    api.create_repo(REPO)
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.create_commit(REPO, [CommitOperationAdd("README.md", b"# Depth\n")], commit_message="Card")


def test_a_token_is_seen_to_be_sent_and_never_written_down(hub_server, api, folder):
    upload(api, folder)
    assert any(request.has_token for request in hub_server.requests)
    assert f"POST /api/models/{REPO}/commit/main -> 200" in hub_server.log_text
    for token in (hub_server.token, hub_server.read_token, hub_server.stranger_token):
        assert token not in hub_server.log_text
    get_session().get(f"{hub_server.url}/api/models/{REPO}?token={hub_server.token}")
    assert hub_server.token in hub_server.log_text


def test_another_process_finds_this_hub(hub_server, api, folder, tmp_path):
    api.create_repo(REPO, private=True)
    upload(api, folder)
    program = "import sys, huggingface_hub as hub; print(hub.whoami()['name'], hub.snapshot_download(sys.argv[1]))"
    process = subprocess.run(
        [sys.executable, "-c", program, REPO],
        env=hub_environment(hub_server, tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    name, path = process.stdout.split(maxsplit=1)
    assert name == "tester"
    assert tmp_path in Path(path.strip()).parents
    assert contents(path.strip()) == hub_server.files(REPO)


def test_the_fixture_leaves_nothing_behind(tmp_path):
    before = {**vars(constants), "api": hf_api.api.endpoint, "token": get_token()}
    with HubServer() as hub, pytest.MonkeyPatch.context() as monkeypatch:
        point_this_process_at(hub, monkeypatch, tmp_path)
        assert hf_api.api.endpoint == constants.ENDPOINT == hub.url
        assert get_token() == hub.token
    assert {**vars(constants), "api": hf_api.api.endpoint, "token": get_token()} == before
