"""What `HubServer` serves: repositories with commits and refs, and what the Hub checks in their cards."""

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property

import yaml

LFS_PATTERNS = ("*.bin", "*.glb", "*.npy", "*.npz", "*.parquet", "*.ply", "*.pt", "*.pth", "*.safetensors", "*.zip")
GIT_ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS).encode()
SPACE_CARD = "---\ntitle: New\nemoji: 👀\ncolorFrom: blue\ncolorTo: red\nsdk: gradio\n---\n".encode()
SPACE_COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
SPACE_SDKS = ("gradio", "streamlit", "docker", "static")


class Refusal(Exception):
    """An answer with an error: the status, and what the Hub says in `X-Error-Message`, `X-Error-Code` and the body."""

    def __init__(self, status: int, message: str, code: str | None = None, errors: list[str] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.errors = status, message, code, errors


@dataclass(frozen=True)
class File:
    content: bytes
    is_lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def stored(self) -> bytes:
        """What git holds: the content, or the pointer to it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return pointer.encode() if self.is_lfs else self.content

    @cached_property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.stored) + self.stored).hexdigest()

    def entry(self, path: str) -> dict:
        """What a listing says of it."""
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.git_oid}
        if self.is_lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.stored)}
        return entry


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    description: str
    author: str
    parent: "Commit | None"
    files: dict[str, File]

    def history(self) -> list["Commit"]:
        """Itself and its ancestors, newest first."""
        commits = [self]
        while commits[-1].parent is not None:
            commits.append(commits[-1].parent)
        return commits

    def entries(self) -> dict[str, dict]:
        """All files, and the folders they lie in, sorted by path."""
        entries = {path: file.entry(path) for path, file in self.files.items()}
        for path in self.files:
            while "/" in path:
                path = path.rsplit("/", 1)[0]
                oid = hashlib.sha1(f"{self.oid}/{path}".encode()).hexdigest()
                entries[path] = {"type": "directory", "path": path, "size": 0, "oid": oid}
        return dict(sorted(entries.items()))


@dataclass(frozen=True)
class Moment:
    """What there was to see of a repository's main branch after one event."""

    private: bool
    commit: str
    files: frozenset[str]


@dataclass
class Repository:
    kind: str  # models, spaces or datasets
    repo_id: str
    private: bool
    sdk: str | None = None
    refs: dict[str, Commit] = field(default_factory=dict)  # refs/heads/main, refs/tags/v1, refs/pr/1
    commits: dict[str, Commit] = field(default_factory=dict)
    moments: list[Moment] = field(default_factory=list)

    def __post_init__(self):
        files = {".gitattributes": File(GIT_ATTRIBUTES)}
        if self.kind == "spaces":
            files["README.md"] = File(SPACE_CARD)
        self.add_commit("refs/heads/main", None, files, self.owner, "initial commit")

    @property
    def owner(self) -> str:
        return self.repo_id.split("/")[0]

    def at(self, revision: str) -> Commit:
        """The commit of a branch, a tag, a full ref or a full id."""
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if name in self.refs:
                return self.refs[name]
        if revision in self.commits:
            return self.commits[revision]
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def add_commit(
        self, ref: str, parent: Commit | None, files: dict[str, File], author: str, title: str, description: str = ""
    ) -> Commit:
        """Moves `ref` to a new commit of all these files at once."""
        names = "".join(f"{path} {file.git_oid}\n" for path, file in sorted(files.items()))
        text = f"{len(self.commits)}\n{parent and parent.oid}\n{author}\n{title}\n{description}\n{names}"
        commit = Commit(hashlib.sha1(text.encode()).hexdigest(), title, description, author, parent, files)
        self.commits[commit.oid] = commit
        self.refs[ref] = commit
        self.remember()
        return commit

    def remember(self) -> None:
        head = self.refs["refs/heads/main"]
        self.moments.append(Moment(self.private, head.oid, frozenset(head.files)))


def card_metadata(card: bytes, kind: str) -> dict:
    """The front matter of a README.md; a `Refusal` unless it is YAML that the Hub would take."""
    block = re.match(r"\s*---[ \t]*\n(.*?)\n?---[ \t]*(?:\n|$)", card.decode().replace("\r\n", "\n"), re.DOTALL)
    try:
        metadata = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError as error:
        raise Refusal(400, "Invalid metadata in README.md", errors=[f"Invalid YAML: {error}"]) from None
    metadata = {} if metadata is None else metadata
    errors = _metadata_errors(metadata, kind) if isinstance(metadata, dict) else ["The metadata must be a mapping"]
    if errors:
        raise Refusal(400, "Invalid metadata in README.md: " + "; ".join(errors), errors=errors)
    return metadata


def _metadata_errors(metadata: dict, kind: str) -> list[str]:
    """What the Hub would not take, of the fields that a model card or a Space header may have."""
    errors = []
    for name in ("tags", "datasets", "metrics"):
        if not all(isinstance(value, str) for value in as_list(metadata.get(name))):
            errors.append(f'"{name}" must be an array of strings')
    for name in ("library_name", "pipeline_tag", "title", "emoji", "sdk_version", "app_file"):
        if not isinstance(metadata.get(name, ""), str):
            errors.append(f'"{name}" must be a string')
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", str(metadata.get("license", "other"))):
        errors.append('"license" must be one of the identifiers of https://hf.co/docs/hub/repositories-licenses')
    for base in as_list(metadata.get("base_model")):
        if not isinstance(base, str) or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", base):
            errors.append(f'"base_model" with value "{base}" is not valid. Use a model id from https://hf.co/models.')
    for i, model in enumerate(as_list(metadata.get("model-index"))):
        errors += _required(model, f"model-index[{i}]", "name", "results")
        for j, result in enumerate(as_list(model.get("results")) if isinstance(model, dict) else []):
            place = f"model-index[{i}].results[{j}]"
            errors += _required(result, place, "task", "dataset", "metrics")
            if isinstance(result, dict):
                errors += _required(result.get("task"), f"{place}.task", "type")
                errors += _required(result.get("dataset"), f"{place}.dataset", "type", "name")
                for k, metric in enumerate(as_list(result.get("metrics"))):
                    errors += _required(metric, f"{place}.metrics[{k}]", "type", "value")
    if kind == "spaces":
        for name, choices in (("sdk", SPACE_SDKS), ("colorFrom", SPACE_COLOURS), ("colorTo", SPACE_COLOURS)):
            if (name in metadata or name == "sdk") and metadata.get(name) not in choices:
                errors.append(f'"{name}" must be one of [{", ".join(choices)}]')
        if len(str(metadata.get("short_description", ""))) > 60:
            errors.append('"short_description" length must be less than or equal to 60 characters long')
    return errors


def _required(fields, place: str, *names: str) -> list[str]:
    if not isinstance(fields, dict):
        return [f'"{place}" must be of type object']
    return [f'"{place}.{name}" is required' for name in names if fields.get(name) is None]


def as_list(value) -> list:
    """A list as it is, nothing as an empty one, anything else as its only element."""
    return value if isinstance(value, list) else [] if value is None else [value]
