"""From a folder to a repository on the Hub: one commit, and nothing to be seen before it is whole."""

import inspect
import os
import tempfile
import uuid
from collections.abc import Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    ModelInfo,
    SpaceInfo,
)
from huggingface_hub.utils import (
    DEFAULT_IGNORE_PATTERNS,
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    filter_repo_objects,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from .finite_weights_llm_mde import refuse_undefined
from .model_card_llm_mde import basic_model_card

logger = logging.get_logger(__name__)

# A branch of repositories that an upload has hidden and not shown again: who goes on with it may show them.
UNFINISHED = "llm-mde-unfinished-upload"

# Whole weights under all the names they may have. Of two kinds in one repository, the one file would be loaded.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
# Beside whole weights, loaders would take these and look for a base.
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")

# What a Hub of one's own says of something that it cannot do at all.
NO_ROUTE = (404, 405, 501)


class PublishingMixin:
    """
    `push_to_hub` and `save_pretrained(push_to_hub=True)` with the arguments that they have in Transformers, but as one
    commit with everything that a model needs to be loaded, and a card that says what the model is. Weights that are
    not finite are neither pushed nor saved.
    """

    @wraps(PreTrainedModel.save_pretrained)
    def save_pretrained(self, *args, **kwargs):
        options = inspect.signature(PreTrainedModel.save_pretrained).bind(self, *args, **kwargs)
        options.apply_defaults()
        options = options.arguments
        del options["self"]
        if not options.get("distributed_checkpoint"):
            refuse_undefined(self.state_dict() if options["state_dict"] is None else options["state_dict"])
        if not options["push_to_hub"] or options.get("distributed_checkpoint"):
            return super().save_pretrained(*args, **kwargs)
        folder, of_hub = Path(options["save_directory"]), options.pop("kwargs")
        before = _times(folder)
        super().save_pretrained(**options | {"push_to_hub": False})
        if self.should_save_on_this_rank(options["is_main_process"]):
            written = [name for name, time in _times(folder).items() if before.get(name) != time]
            repo_id = of_hub.pop("repo_id", folder.resolve().name)
            self._publish(folder, written, repo_id, token=options["token"], **of_hub)

    @wraps(PreTrainedModel.push_to_hub)
    def push_to_hub(self, repo_id: str, *, max_shard_size: int | str | None = "50GB", **kwargs) -> CommitInfo:
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            return self._publish(Path(folder), os.listdir(folder), repo_id, **kwargs)

    def _publish(
        self,
        folder: Path,
        files: Sequence[str],
        repo_id: str,
        *,
        tags: str | Sequence[str] | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> CommitInfo:
        api = HfApi(token=token)
        repo_id = full_name(repo_id, api)
        card = None
        if (folder / "README.md").is_file():
            card = ModelCard.load(folder / "README.md")
        elif not getattr(self, "_hf_peft_config_loaded", False):  # what is saved then is an adapter alone
            card = basic_model_card(self.config, self.num_parameters(), repo_id)
        tags = [*(self.model_tags or ()), *([tags] if isinstance(tags, str) else tags or ())]
        return publish_folder(
            folder,
            repo_id,
            token=token,
            revision=revision,
            allow_patterns=[name for name in files if name != "README.md"],
            delete_patterns=(*WEIGHTS, *_ADAPTER_FILES) if any(name in WEIGHTS for name in files) else None,
            readme=readme_for(api, repo_id, revision, tags, card),
            **options,
        )


def publish_folder(
    folder: str | Path,
    repo_id: str,
    *,
    repo_type: str = "model",
    private: bool | None = None,
    token: bool | str | None = None,
    commit_message: str | None = None,
    commit_description: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    allow_patterns: Sequence[str] | None = None,
    ignore_patterns: Sequence[str] | None = None,
    delete_patterns: Sequence[str] | None = None,
    readme: str | None = None,
    tag: str | None = None,
    exist_ok: bool = True,
) -> CommitInfo:
    """
    Uploads a folder as one commit. A repository that is not there yet is made hidden and shown when the commit is in
    it, so that whoever sees it can load it; after an upload that was cut off it stays hidden, and the next one goes
    on with it. An existing one keeps its last commit until the new one is complete.

    `HfApi.upload_folder` is not used: it may split what it uploads into several commits.

    Args:
        folder (`str` or `Path`): What to upload, all of it.
        repo_id (`str`): `user/name`, or `name` in the user's own namespace.
        repo_type (`str`, *optional*, defaults to `"model"`): `"model"` or `"space"`, a Gradio one.
        private (`bool`, *optional*): Whether a new repository stays hidden; by default what its owner's are. An
            existing one stays as it is.
        token (`bool` or `str`, *optional*): As in `huggingface_hub`: by default the one that was logged in with.
        commit_message (`str`, *optional*, defaults to `"Upload model"`): Of the commit.
        commit_description (`str`, *optional*): Of the commit.
        revision (`str`, *optional*): Branch to commit to, made if it is not there; defaults to the main one. In a new
            repository the commit is on both: nobody can load an empty main branch.
        create_pr (`bool`, *optional*, defaults to `False`): Whether to propose the commit instead.
        allow_patterns, ignore_patterns (`Sequence[str]`, *optional*): As in `huggingface_hub.HfApi.upload_folder`.
        delete_patterns (`Sequence[str]`, *optional*): As there, but one without a slash means files on top only.
        readme (`str`, *optional*): README.md of the commit, instead of the folder's.
        tag (`str`, *optional*): Another name for the commit, which stays with it; not with `create_pr`.
        exist_ok (`bool`, *optional*, defaults to `True`): Whether the repository may turn out to exist when it is
            made, on a Hub that does not tell before.

    Returns:
        `huggingface_hub.CommitInfo`: Where the commit is.

    Raises:
        ValueError: If `create_pr` is set and there is no such repository, or the branch or tag cannot be made.
    """
    api = HfApi(token=token)
    repo_id = full_name(repo_id, api)
    where = {"repo_id": repo_id, "repo_type": repo_type}
    info = find_repository(api, **where)
    is_new = info is None
    if is_new and create_pr:
        raise ValueError(
            f"`create_pr` is set, but there is no {repo_type} {repo_id!r} to propose a commit to; leave it out to "
            "make the repository."
        )
    show = stays_hidden = False
    if is_new:
        try:
            show = _create_hidden(api, where, private)
        except HfHubHTTPError as error:
            if error.response.status_code != 409 or not exist_ok:
                raise
            is_new = False
    elif not create_pr:
        is_new = is_unfinished(api, **where)
        show = is_new and not private
        stays_hidden = not is_new and info.private and private is None and is_empty(api, **where)

    is_main_or_proposal = revision in (None, "main") or revision.startswith("refs/pr/")
    branch = None if create_pr or is_main_or_proposal else revision
    if branch is not None and not is_new:
        _make_branch(api, where, branch)
    target = None if is_new else revision
    added = _files(Path(folder), allow_patterns, ignore_patterns)
    if readme is not None:
        added["README.md"] = readme.encode()
    removed = []
    if delete_patterns and not is_new:
        there = files_in(api, **where, revision=target)
        if there is None:
            logger.warning(f"This Hub does not list the files of {repo_id}: what a former version left there stays.")
        for name in sorted((there or set()) - {".gitattributes", *added}):
            patterns = [pattern for pattern in delete_patterns if "/" in pattern or "/" not in name]
            removed += filter_repo_objects([name], allow_patterns=patterns)
    commit = api.create_commit(
        **where,
        operations=[
            *(CommitOperationDelete(name) for name in removed),
            *(CommitOperationAdd(name, content) for name, content in added.items()),
        ],
        commit_message=commit_message or "Upload model",
        commit_description=commit_description,
        revision=target,
        create_pr=create_pr,
    )
    refused = None
    try:
        if branch is not None and is_new:
            refused = f"branch {branch!r}"
            api.create_branch(**where, branch=branch, exist_ok=True)
        if tag is not None:
            refused = f"tag {tag!r}"
            api.create_tag(**where, tag=tag, revision=commit.oid)
    except HfHubHTTPError as error:  # the repository is complete nevertheless
        failure = error
    else:
        failure = None
    if show:
        _show(api, where)
    elif stays_hidden:
        logger.warning(f"{repo_id} was hidden before and stays so; its settings page can change that.")
    if failure is not None:
        raise ValueError(
            f"the commit is there ({commit.oid}), but the {refused} was refused ({reason_of(failure)})."
        ) from failure
    return commit


def full_name(repo_id: str, api: HfApi) -> str:
    """`user/name`, also for a `name` alone, which is the user's own."""
    return repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"


def is_missing(error: Exception) -> bool:
    """Whether an error of the client says that something is not there, if only by its status."""
    if isinstance(error, LocalEntryNotFoundError):  # also where there is no network: then nobody knows
        error = error.__cause__
    return isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 404)


def reason_of(error: HfHubHTTPError) -> str:
    """Status and words of a refusal, in one line."""
    said = error.server_message or error.response.reason_phrase
    return f"{error.response.status_code}: {' '.join(said.split())}"


def find_repository(api: HfApi, repo_id: str, repo_type: str = "model") -> ModelInfo | SpaceInfo | None:
    """What the Hub tells of a repository; `None` if there is none that this token may see."""
    try:
        return api.repo_info(repo_id, repo_type=repo_type)
    except HfHubHTTPError as error:
        if not is_missing(error):
            raise
        return None


def has_revision(api: HfApi, repo_id: str, revision: str, repo_type: str = "model") -> bool:
    """Whether there is such a branch, tag or commit."""
    try:
        return api.revision_exists(repo_id, revision, repo_type=repo_type)
    except HfHubHTTPError as error:
        if not is_missing(error):
            raise
        return False


def files_in(api: HfApi, repo_id: str, repo_type: str = "model", revision: str | None = None) -> set[str] | None:
    """Names of the files of a repository; `None` if the Hub does not list them."""
    where = {"repo_id": repo_id, "repo_type": repo_type, "revision": revision}
    for listing in (
        lambda: [file.rfilename for file in api.repo_info(**where).siblings],
        lambda: api.list_repo_files(**where),
    ):
        try:
            return set(listing())
        except TypeError:  # without siblings
            continue
        except HfHubHTTPError as error:
            if error.response.status_code not in NO_ROUTE:
                raise
    return None


def is_empty(api: HfApi, repo_id: str, repo_type: str = "model") -> bool:
    """Whether a repository has nothing but what the Hub puts into new ones."""
    made_by_hub = {".gitattributes", "README.md"} if repo_type == "space" else {".gitattributes"}
    files = files_in(api, repo_id, repo_type)
    return files is not None and files <= made_by_hub


def is_unfinished(api: HfApi, repo_id: str, repo_type: str = "model") -> bool:
    """Whether [`publish_folder`] made this repository, and was cut off before it could show it."""
    return api.repo_info(repo_id, repo_type=repo_type).private and has_revision(api, repo_id, UNFINISHED, repo_type)


def readme_for(
    api: HfApi, repo_id: str, revision: str | None, tags: Sequence[str], new_card: ModelCard | None
) -> str | None:
    """README.md to upload: the repository's with the tags that it lacks, or the new one; `None` for no change."""
    card = _published_card(api, repo_id, revision)
    if card is not None and new_card is not None and card.data.library_name == "peft" != new_card.data.library_name:
        card = None  # that of an adapter, where a whole model comes now
    is_new, card = card is None, card or new_card
    if card is None:
        return None
    known = card.data.tags or []
    missing = [tag for tag in dict.fromkeys(tags) if tag not in known]
    card.data.tags = [*known, *missing] or None
    return str(card) if is_new or missing else None


def _times(folder: Path) -> dict[str, int]:
    """When each file of a folder was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*") if path.is_file()}


def _published_card(api: HfApi, repo_id: str, revision: str | None) -> ModelCard | None:
    """The card of a branch; that of the main branch for one that is not there yet."""
    for each in dict.fromkeys([revision, None]):
        try:
            return ModelCard.load(api.hf_hub_download(repo_id, "README.md", revision=each))
        except (EntryNotFoundError, HfHubHTTPError) as error:
            if not is_missing(error):
                raise
    return None


def _files(
    folder: Path, allow_patterns: Sequence[str] | None, ignore_patterns: Sequence[str] | None
) -> dict[str, Path | bytes]:
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    allowed = None if allow_patterns is None else list(allow_patterns)
    ignored = [*DEFAULT_IGNORE_PATTERNS, *(ignore_patterns or ())]
    return {name: files[name] for name in filter_repo_objects(files, allow_patterns=allowed, ignore_patterns=ignored)}


def _create_hidden(api: HfApi, where: dict[str, str], private: bool | None) -> bool:
    """Makes a repository that only its owner sees; returns whether it is to be shown in the end."""
    hidden = True
    if private is None and not _is_own(api, where["repo_id"]):
        hidden = None  # an organisation may have its own default, which only a new repository tells
    elif not private and not _has_settings(api, where):
        hidden = private  # what cannot be shown again is not hidden
    space_sdk = "gradio" if where["repo_type"] == "space" else None
    api.create_repo(**where, private=hidden, space_sdk=space_sdk)
    if private:
        return False
    if hidden is None and getattr(find_repository(api, **where), "private", False):
        return False
    try:
        api.update_repo_settings(**where, private=True)
    except HfHubHTTPError as error:
        if not hidden or _replace_by_visible(api, where, error, space_sdk):
            name = where["repo_id"]
            logger.warning(f"{name} can be seen while it is uploaded: it may not be hidden ({reason_of(error)}).")
            return False
    try:
        api.create_branch(**where, branch=UNFINISHED)
    except HfHubHTTPError as error:
        logger.info(f"If the upload is cut off, {where['repo_id']} will have to be shown by hand: {reason_of(error)}")
    return True


def _has_settings(api: HfApi, where: dict[str, str]) -> bool:
    """Whether the Hub may be able to show a hidden repository: it is asked for one that nobody has."""
    nobodys = f"{where['repo_id'].split('/')[0]}/{uuid.uuid4().hex}"
    try:
        api.update_repo_settings(nobodys, repo_type=where["repo_type"], private=True)
    except RepositoryNotFoundError:
        return True
    except HfHubHTTPError as error:
        return error.response.status_code not in NO_ROUTE
    return True


def _replace_by_visible(api: HfApi, where: dict[str, str], error: HfHubHTTPError, space_sdk: str | None) -> bool:
    """A repository that was just made, is empty and could not be shown later, made again for all to see."""
    if error.response.status_code not in NO_ROUTE:
        return False
    try:
        api.delete_repo(**where)
    except HfHubHTTPError:
        return False
    api.create_repo(**where, private=False, space_sdk=space_sdk)
    return True


def _make_branch(api: HfApi, where: dict[str, str], branch: str) -> None:
    try:
        api.create_branch(**where, branch=branch, exist_ok=True)
    except HfHubHTTPError as error:
        if error.response.status_code not in NO_ROUTE:
            raise
        if not has_revision(api, where["repo_id"], branch, where["repo_type"]):
            raise ValueError(
                f"`revision` is {branch!r}, a branch that {where['repo_id']!r} lacks and this Hub does not make "
                f"({reason_of(error)}); leave it out to commit to the main one."
            ) from error


def _show(api: HfApi, where: dict[str, str]) -> None:
    try:
        api.update_repo_settings(**where, private=False)
    except HfHubHTTPError as error:
        if not getattr(find_repository(api, **where), "private", True):
            return  # a Hub that hides nothing
        cause = "this Hub has no route to change its visibility"
        way_out = "ask who runs it"
        if error.response.status_code not in NO_ROUTE:
            cause, way_out = "the token may not change its settings", "change its visibility on its settings page"
        logger.warning(f"{where['repo_id']} is complete but hidden, since {cause} ({reason_of(error)}); {way_out}.")
        return
    try:
        api.delete_branch(**where, branch=UNFINISHED)
    except HfHubHTTPError as error:
        logger.info(f"The branch {UNFINISHED!r} of {where['repo_id']} is of no use any more: {reason_of(error)}")


def _is_own(api: HfApi, repo_id: str) -> bool:
    """Whether a repository is in the user's own namespace, where new ones can be seen unless said otherwise."""
    try:
        return api.whoami()["name"] == repo_id.split("/")[0]
    except HfHubHTTPError:
        return False


__all__ = [
    "UNFINISHED",
    "PublishingMixin",
    "find_repository",
    "full_name",
    "has_revision",
    "is_empty",
    "is_missing",
    "is_unfinished",
    "publish_folder",
    "readme_for",
    "reason_of",
]
