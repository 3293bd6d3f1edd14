"""From a folder that was checked to a repository on the Hub: one commit, or one line that says why not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from llm_mde.publishing_llm_mde import (
    find_repository,
    has_revision,
    is_empty,
    is_missing,
    is_unfinished,
    publish_folder,
    reason_of,
)

from .publishable import base_on_hub, check_folder, read_json

# Of whatever HTTP library the client is built on: also what it raises where there is no answer.
HTTPError = HfHubHTTPError.__mro__[1]

# What decides how a repository is loaded: of a former version nothing of this stays unless it comes again. Of models
# and adapters beside each other in folders of their own only what lies on top: the others are not this one's.
STALE = (
    *("*.py", "*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle"),
    *("config.json", "adapter_config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
)
STALE_IN_SPACE = (*STALE, *(f"*/{pattern}" for pattern in STALE))
NOTHING_SENT = "nothing was sent"
NOTHING_VISIBLE = "nothing that can be seen has changed"


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    commit_message: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    update: bool = False,
    tag: str | None = None,
) -> str:
    """
    Publishes a model, an adapter or a Space: checks its folder (see [`check_folder`]), uploads it as one commit and
    prints where it is. A new repository is hidden until it is complete; after an upload that was cut off the same
    call goes on.

    Args:
        folder (`str` or `Path`): Of a model, an adapter or a Space, as `write_model_folder`, `write_adapter_folder`
            and `write_space_folder` leave it.
        repo_id (`str`): `user/name`, or `name` in the user's own namespace.
        private (`bool`, *optional*, defaults to `False`): Whether a new repository stays hidden from others. If not,
            it is what its owner's new ones are: public, unless an organisation decided otherwise. An existing one
            stays as it is.
        token (`str`, *optional*): By default that of `HF_TOKEN` or `hf auth login`.
        commit_message (`str`, *optional*): Says what is uploaded by default.
        revision (`str`, *optional*): Branch to commit to, made if it is not there; defaults to the main one.
        create_pr (`bool`, *optional*, defaults to `False`): Whether to propose the commit to an existing repository.
        update (`bool`, *optional*, defaults to `False`): Whether a repository that exists gets a new commit. Weights,
            code and configuration that it has and the folder lacks are removed with it; all else stays.
        tag (`str`, *optional*): Name of this version, such as `"v1"`, to pin with `revision`; a new one.

    Returns:
        `str`: Address of the repository, or of the pull request.

    Raises:
        ValueError: If the folder should not be published, the repository exists, the Hub refuses (no token, a wrong
            one, somebody else's namespace), or it cannot be reached or stops answering.
    """
    commit = commit_folder(
        folder,
        repo_id,
        private=private,
        token=token,
        commit_message=commit_message,
        revision=revision,
        create_pr=create_pr,
        update=update,
        tag=tag,
    )
    url = commit.pr_url or str(commit.repo_url)
    print(url, flush=True)
    return url


def commit_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    commit_message: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    update: bool = False,
    tag: str | None = None,
) -> CommitInfo:
    """As [`push`], but prints nothing and returns the commit."""
    _check_name(repo_id)
    token = _usable_token(token)
    if tag is not None and create_pr:
        raise ValueError(f"`tag` is {tag!r} with `create_pr`: a proposal is no version yet; leave one of them out.")
    kind = check_folder(folder, token)
    repo_type = "space" if kind == "space" else "model"
    repo_id = check_repository(repo_id, repo_type, token=token, update=update or create_pr, tag=tag)
    api = HfApi(token=token)
    with _in_one_line(api, repo_id, NOTHING_SENT):
        if kind == "adapter":
            _check_base_is_there(api, folder)
    with _in_one_line(api, repo_id, NOTHING_VISIBLE, is_upload=True):
        return publish_folder(
            folder,
            repo_id,
            repo_type=repo_type,
            private=private or None,
            token=token,
            commit_message=commit_message or f"Upload {kind}",
            revision=revision,
            create_pr=create_pr,
            delete_patterns=STALE_IN_SPACE if kind == "space" else STALE,
            tag=tag,
            exist_ok=update,
        )


def check_repository(
    repo_id: str,
    repo_type: str = "model",
    *,
    token: str | None = None,
    update: bool = False,
    tag: str | None = None,
) -> str:
    """
    Refuses a repository to which [`push`] could not go, before there is anything to send. Changes nothing.

    Args:
        repo_id (`str`): `user/name`, or `name` in the user's own namespace.
        repo_type (`str`, *optional*, defaults to `"model"`): `"model"` or `"space"`.
        token (`str`, *optional*): By default that of `HF_TOKEN` or `hf auth login`.
        update (`bool`, *optional*, defaults to `False`): Whether it may exist.
        tag (`str`, *optional*): What must not be a version of it yet.

    Returns:
        `str`: `user/name`.

    Raises:
        ValueError: If it or the tag exists, there is no token or a wrong one, or the Hub cannot be reached.
    """
    _check_name(repo_id)
    api = HfApi(token=_usable_token(token))
    with _in_one_line(api, repo_id, NOTHING_SENT):
        user = _user(api)
        if "/" not in repo_id and user is None:
            raise ValueError(f"`repo_id` is {repo_id!r} and the Hub does not say whose token this is; give user/name.")
        repo_id = repo_id if "/" in repo_id else f"{user}/{repo_id}"
        is_taken = not update and _is_taken(api, repo_id, repo_type)
        has_tag = tag is not None and has_revision(api, repo_id, tag, repo_type)
    if has_tag:
        raise ValueError(
            f"`tag` is {tag!r}, a version of {repo_id!r} that exists and stays what it is; choose another."
        )
    if is_taken:
        raise ValueError(
            f"`repo_id` is {repo_id!r}, a {repo_type} that exists; choose another name, or pass `update=True` "
            "(`--update`) to add a commit to it."
        )
    return repo_id


def commit_of(repo_id: str, revision: str | None = None, *, token: str | None = None) -> str:
    """The commit that a branch or tag of a model repository is at now, and stays pinned to.

    Raises:
        ValueError: If there is none, or the Hub cannot be reached.
    """
    api = HfApi(token=token)
    with _in_one_line(api, repo_id, NOTHING_SENT):
        try:
            return api.repo_info(repo_id, revision=revision).sha
        except HfHubHTTPError as error:
            if not is_missing(error):
                raise
            raise ValueError(
                f"there is no model {repo_id!r} at {revision or 'main'!r} on the Hub, or this token may not see it."
            ) from error


def _check_name(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ValueError(f"`repo_id` is {repo_id!r}; give user/name, such as 'jane/rooms-depth': {error}") from error


def _usable_token(token: str | None) -> str:
    token = get_token() if token is None else token
    if not token:
        raise ValueError(
            "there is no token to publish with; make one with write access at "
            f"{constants.ENDPOINT}/settings/tokens, then run `hf auth login` or set HF_TOKEN."
        )
    if not token.isascii() or not token.isprintable() or " " in token:  # it would come back in an error of the client
        raise ValueError("the token has spaces, line breaks or letters that no token has; copy it again, alone.")
    return token


def _user(api: HfApi) -> str | None:
    try:
        return api.whoami()["name"]
    except HfHubHTTPError as error:
        if error.response.status_code != 404:  # a Hub of one's own may not say
            raise
        return None


def _is_taken(api: HfApi, repo_id: str, repo_type: str) -> bool:
    """Whether there is a repository that an upload of ours did not leave behind, hidden."""
    info = find_repository(api, repo_id, repo_type)
    if info is None or is_unfinished(api, repo_id, repo_type):
        return False
    return not (info.private and is_empty(api, repo_id, repo_type))  # a Hub without branches has no mark of ours


def _check_base_is_there(api: HfApi, folder: str | Path) -> None:
    base, revision = base_on_hub(read_json(Path(folder) / "adapter_config.json"))
    try:
        api.repo_info(base, revision=revision)
    except HfHubHTTPError as error:
        if not is_missing(error):
            raise
        raise ValueError(
            f"the base of the adapter, {base!r} at {revision!r}, is not on the Hub, or this token may not see it; "
            "publish it first, then the adapter with `--base user/name --base_revision COMMIT`."
        ) from error


@contextmanager
def _in_one_line(api: HfApi, repo_id: str, state: str, is_upload: bool = False) -> Iterator[None]:
    """What the client and the Hub say, as a `ValueError` of one line with what can be done about it."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ValueError(f"the Hub is switched off by HF_HUB_OFFLINE, so {state}; unset it.") from error
    except HfHubHTTPError as error:
        raise ValueError(_explain(error, api.endpoint, repo_id, state)) from error
    except (HTTPError, OSError, RuntimeError) as error:
        reason = error.__cause__ or error  # uploads wrap what happened to them
        said = f"{type(reason).__name__}: {' '.join(str(reason).split())}"
        what = f"the upload to {repo_id!r} broke off" if is_upload else f"the Hub ({api.endpoint}) cannot be reached"
        way_out = "the same call goes on where this one ended" if is_upload else "look after the network"
        if is_upload and "xet" in said.lower():
            way_out = "if this Hub does not speak Xet, set HF_HUB_DISABLE_XET=1"
        raise ValueError(f"{what} ({said}): {state}; {way_out}.") from error


def _explain(error: HfHubHTTPError, endpoint: str, repo_id: str, state: str) -> str:
    status = error.response.status_code
    said = reason_of(error)
    if status == 401:
        return (
            f"the Hub does not know the token ({said}): {state}. Make one with write access at "
            f"{endpoint}/settings/tokens, then run `hf auth login` or set HF_TOKEN, which goes before the former."
        )
    if status == 403:
        return (
            f"the Hub refuses to let this token write to {repo_id!r} ({said}): {state}. Publish in your own "
            "namespace or in one of your organisations, with a token that has write access."
        )
    if status == 409:
        return (
            f"`repo_id` is {repo_id!r}, which exists by now or is being changed ({said}): {state}; pass "
            "`update=True` (`--update`) to add a commit to it."
        )
    if status >= 500 or status == 429:
        return f"the Hub cannot answer at the moment ({said}): {state}. Try again later."
    return f"the Hub refuses the upload to {repo_id!r} ({said}): {state}."


__all__ = ["check_repository", "commit_folder", "commit_of", "push"]
