"""A small Hub on 127.0.0.1, for tests with the real `huggingface_hub` client.

Spoken: whoami; repositories of models, Spaces and data sets (create, info, settings, delete); branches, tags, pull
request refs and full commit ids as revisions; tree, paths-info, refs, commits; validate-yaml; preupload, LFS batch
(basic transfer), upload and verify; commits as ndjson (file, lfsFile, deletedFile, deletedFolder); `resolve` by HEAD
and GET, with ranges and etags. As on the Hub, a new repository has a first commit with `.gitattributes` (a Space also
with README.md), LFS files lie on another origin behind signed addresses, which refuses tokens, and whoever may not see
a repository is told that there is none.

Not spoken: Xet, multipart uploads, gated repositories, organisations, discussions, `.gitignore`, pagination, running
Spaces. Who is not the owner may not write, not even a pull request.
"""

import base64
import fnmatch
import hashlib
import hmac
import json
import re
import secrets
import threading
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.hub_http import Handler, Request, Response, Server, content_response, json_response
from tests.hub.hub_repositories import Commit, File, Moment, Refusal, Repository, as_list, card_metadata

DATE = "2026-01-01T00:00:00.000Z"
LARGEST_REGULAR_FILE = 10 * 2**20  # bytes; what is larger goes to LFS whatever its name

KIND = r"(?P<kind>models|spaces|datasets)"
API = rf"/api/{KIND}/(?P<repo_id>[^/]+/[^/]+)"
PAGE = rf"/(?:{KIND}/)?(?P<repo_id>[^/]+/[^/]+)"  # where browsers, git and downloads find a repository
REVISION = r"(?P<revision>[^/]+)"
READ, WRITE = False, True
ROUTES = (
    ("GET", r"/api/whoami-v2", READ, "whoami"),
    ("POST", r"/api/validate-yaml", READ, "validate_yaml"),
    ("POST", r"/api/repos/create", READ, "create"),  # these two look up themselves what they write to
    ("DELETE", r"/api/repos/delete", READ, "delete"),
    ("PUT", rf"{API}/settings", WRITE, "settings"),
    ("GET", rf"{API}(?:/revision/{REVISION})?", READ, "info"),
    ("GET", rf"{API}/refs", READ, "refs"),
    ("GET", rf"{API}/commits/{REVISION}", READ, "commits"),
    ("GET", rf"{API}/tree/{REVISION}(?:/(?P<path>.+))?", READ, "tree"),
    ("POST", rf"{API}/paths-info/{REVISION}", READ, "paths_info"),
    ("POST", rf"{API}/branch/(?P<name>[^/]+)", WRITE, "create_branch"),
    ("DELETE", rf"{API}/branch/(?P<name>[^/]+)", WRITE, "delete_branch"),
    ("POST", rf"{API}/tag/{REVISION}", WRITE, "create_tag"),
    ("POST", rf"{API}/preupload/{REVISION}", WRITE, "preupload"),
    ("POST", rf"{API}/commit/{REVISION}", WRITE, "commit"),
    ("POST", rf"{PAGE}\.git/info/lfs/objects/batch", WRITE, "lfs_batch"),
    ("POST", rf"{PAGE}\.git/info/lfs/verify", WRITE, "lfs_verify"),
    ("GET", rf"{PAGE}/resolve/{REVISION}/(?P<path>.+)", READ, "resolve"),
)


@dataclass
class Fault:
    """What goes wrong, and how often; `None` is always."""

    what: int | None
    times: int | None

    def happens(self) -> bool:
        if self.times is None or self.times > 0:
            self.times = None if self.times is None else self.times - 1
            return True
        return False


class HubServer:
    """
    The server; `with HubServer() as hub:` starts and stops it.

    Attributes:
        url (`str`): What `HF_ENDPOINT` is to be.
        token, read_token, stranger_token (`str`): Of the user "tester", of the same but only for reading, and of the
            user "stranger".
        requests (`list[Request]`): All that were seen, oldest first.
        private_by_default (`bool`): Whether accounts are set to make new repositories private; `False` unless set.
        missing_routes (`set[str]`): What this Hub does not speak, by the names in `ROUTES`; empty unless set.
        has_error_codes (`bool`): Whether refusals say by `X-Error-Code` what is not there; `True` unless set.
        has_siblings (`bool`): Whether the info of a repository lists its files; `True` unless set.
    """

    def __init__(self):
        self.token, self.read_token, self.stranger_token = (f"hf_{secrets.token_hex(17)}" for _ in range(3))
        self._users = {
            self.token: ("tester", True),
            self.read_token: ("tester", False),
            self.stranger_token: ("stranger", True),
        }
        self.requests: list[Request] = []
        self.private_by_default = False
        self.missing_routes: set[str] = set()
        self.has_error_codes = self.has_siblings = True
        self._repositories: dict[tuple[str, str], Repository] = {}
        self._objects: dict[str, bytes] = {}  # LFS files by SHA-256
        self._signing_key = secrets.token_bytes()
        self._lock = threading.Lock()
        self.mend()
        self._hub = Server(self._answer_hub)
        self._storage = Server(self._answer_storage)
        self.url = self._hub.url

    def __enter__(self) -> "HubServer":
        self._hub.start()
        self._storage.start()
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    # What a test breaks

    def stop(self) -> None:
        """No network any more: open connections are cut and new ones refused."""
        self._hub.stop()
        self._storage.stop()

    def cut_uploads(self, after_bytes: int, times: int | None = None) -> None:
        """Cuts the connections of the next LFS uploads after so many bytes of each."""
        self._upload_fault = Fault(after_bytes, times)

    def fail_commits(self, status: int | None = 500, times: int | None = None) -> None:
        """Answers the next commits with an error instead of making them; `None` cuts the connection instead."""
        self._commit_fault = Fault(status, times)

    def mend(self) -> None:
        """Takes back what `cut_uploads` and `fail_commits` broke."""
        self._upload_fault = self._commit_fault = Fault(None, times=0)

    # What a test looks at

    def repositories(self) -> list[str]:
        """Names as in their addresses: `tester/model`, `spaces/tester/demo`."""
        return sorted(repo_id if kind == "models" else f"{kind}/{repo_id}" for kind, repo_id in self._repositories)

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        files = self._repositories[f"{repo_type}s", repo_id].at(revision).files
        return {path: file.content for path, file in files.items()}

    def lfs_files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> set[str]:
        files = self._repositories[f"{repo_type}s", repo_id].at(revision).files
        return {path for path, file in files.items() if file.is_lfs}

    def commits(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> list[tuple[str, str]]:
        """Ids and messages, oldest first; the first is the Hub's own."""
        history = self._repositories[f"{repo_type}s", repo_id].at(revision).history()
        return [(commit.oid, commit.title) for commit in reversed(history)]

    def branches(self, repo_id: str, repo_type: str = "model") -> set[str]:
        refs = self._repositories[f"{repo_type}s", repo_id].refs
        return {ref.removeprefix("refs/heads/") for ref in refs if ref.startswith("refs/heads/")}

    def is_private(self, repo_id: str, repo_type: str = "model") -> bool:
        return self._repositories[f"{repo_type}s", repo_id].private

    def moments(self, repo_id: str, repo_type: str = "model") -> list[Moment]:
        """What was to be seen of the main branch, and whether by all, after each commit and change of settings."""
        return list(self._repositories[f"{repo_type}s", repo_id].moments)

    @property
    def log_text(self) -> str:
        """All that clients sent, but for the header in which a token belongs and the bytes of LFS files."""
        lines = []
        for request in self.requests:
            lines += [f"{request.method} {request.path} -> {request.status}"]
            lines += [f"{name}: {value}" for name, value in request.headers.items()]
            lines += [request.body.decode(errors="replace"), ""]
        return "\n".join(lines)

    # The Hub answers: who asks, for what, and may they?

    def _answer_hub(self, handler: Handler) -> Response:
        request = handler.request_without_body()
        request.body = handler.read_body()
        with self._lock:  # one request after the other, so that commits are atomic
            self.requests.append(request)
            try:
                response = self._route(request, handler.headers.get("Authorization"))
            except Refusal as refusal:
                data = {"error": refusal.message}
                headers = {"X-Error-Message": refusal.message.encode("ascii", "replace").decode().replace("\n", " ")}
                if refusal.errors is not None:
                    data["errors"] = [{"message": message} for message in refusal.errors]
                if refusal.code is not None:
                    headers["X-Error-Code"] = refusal.code
                response = json_response(data, refusal.status, headers)
            if not self.has_error_codes:
                response.headers.pop("X-Error-Code", None)
            request.status = response.status
        return response

    def _route(self, request: Request, authorization: str | None) -> Response:
        if authorization is not None:
            token = authorization.removeprefix("Bearer ")
            if token not in self._users:
                raise Refusal(401, "Invalid credentials in Authorization header")
            request.user, request.can_write = self._users[token]
        method = "GET" if request.method == "HEAD" else request.method
        for route_method, pattern, writes, name in ROUTES:
            match = re.fullmatch(pattern, urlsplit(request.path).path)
            if match is not None and method == route_method and name not in self.missing_routes:
                values = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                if "repo_id" not in values:
                    return getattr(self, f"_{name}")(request)
                repository = self._visible(request, values.pop("kind", "models"), values.pop("repo_id"))
                if writes:
                    self._check_writing(request, repository.owner)
                return getattr(self, f"_{name}")(request, repository, **values)
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")

    def _visible(self, request: Request, kind: str, repo_id: str) -> Repository:
        repository = self._repositories.get((kind, repo_id))
        if repository is not None and (not repository.private or request.user == repository.owner):
            return repository
        if request.user is None:  # the client takes this status for a missing repository; over HTTP, with the code
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        raise Refusal(404, "Repository not found", "RepoNotFound")

    def _check_writing(self, request: Request, owner: str | None) -> None:
        if request.user is None:
            raise Refusal(401, "Invalid username or password.")
        if request.user != owner:
            raise Refusal(403, f'You don\'t have the rights to write under the namespace "{owner}"')
        if not request.can_write:
            raise Refusal(403, "You must use a write token for this")

    def _page(self, kind: str, repo_id: str) -> str:
        return f"{self.url}/{repo_id}" if kind == "models" else f"{self.url}/{kind}/{repo_id}"

    # Repositories

    def _whoami(self, request: Request) -> Response:
        if request.user is None:
            raise Refusal(401, "Invalid username or password.")
        token = {"displayName": "test", "role": "write" if request.can_write else "read"}
        auth = {"type": "access_token", "accessToken": token}
        return json_response({"type": "user", "id": request.user, "name": request.user, "orgs": [], "auth": auth})

    def _validate_yaml(self, request: Request) -> Response:
        payload = request.json()
        metadata = card_metadata(payload["content"].encode(), f"{payload['repoType']}s")
        warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
        return json_response({"errors": [], "warnings": warnings})

    def _create(self, request: Request) -> Response:
        payload = request.json()
        owner = payload.get("organization") or request.user
        self._check_writing(request, owner)
        kind, repo_id = f"{payload.get('type', 'model')}s", f"{owner}/{payload['name']}"
        url = self._page(kind, repo_id)
        if (kind, repo_id) in self._repositories:
            message = f"You already created this {kind[:-1]} repo"
            return json_response({"error": message, "url": url}, 409, {"X-Error-Message": message})
        private = _is_private(payload, default=self.private_by_default)
        self._repositories[kind, repo_id] = Repository(kind, repo_id, private, payload.get("sdk"))
        return json_response({"url": url, "name": repo_id})

    def _delete(self, request: Request) -> Response:
        payload = request.json()
        owner = payload.get("organization") or request.user
        repository = self._visible(request, f"{payload.get('type', 'model')}s", f"{owner}/{payload['name']}")
        self._check_writing(request, repository.owner)
        del self._repositories[repository.kind, repository.repo_id]
        return Response()

    def _settings(self, request: Request, repository: Repository) -> Response:
        repository.private = _is_private(request.json(), default=repository.private)
        repository.remember()
        return json_response({"private": repository.private})

    def _info(self, request: Request, repository: Repository, revision: str = "main") -> Response:
        commit = repository.at(revision)
        card = card_metadata(commit.files["README.md"].content, repository.kind) if "README.md" in commit.files else {}
        siblings = []
        for path, file in sorted(commit.files.items()):
            siblings.append({"rfilename": path})
            if "blobs" in request.query:
                siblings[-1] |= {"size": len(file.content), "blobId": file.git_oid}
                if file.is_lfs:
                    siblings[-1]["lfs"] = {**file.entry(path)["lfs"], "sha256": file.sha256}
        info = {
            "id": repository.repo_id,
            "author": repository.owner,
            "sha": commit.oid,
            "lastModified": DATE,
            "createdAt": DATE,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "tags": as_list(card.get("tags")),
            "siblings": siblings,
            "cardData": card,
        }
        if not self.has_siblings:
            del info["siblings"]
        if repository.kind == "spaces":
            info["sdk"] = card.get("sdk", repository.sdk)
        return json_response(info | {name: card[name] for name in ("pipeline_tag", "library_name") if name in card})

    # Revisions

    def _refs(self, request: Request, repository: Repository) -> Response:
        refs = {"branches": [], "tags": [], "pullRequests": [], "converts": []}
        kinds = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}
        for ref, commit in repository.refs.items():
            _, kind, name = ref.split("/", 2)
            refs[kinds[kind]].append({"name": name, "ref": ref, "targetCommit": commit.oid})
        return json_response(refs)

    def _commits(self, request: Request, repository: Repository, revision: str) -> Response:
        return json_response(
            [
                {
                    "id": commit.oid,
                    "title": commit.title,
                    "message": commit.description,
                    "authors": [{"user": commit.author}],
                    "date": DATE,
                }
                for commit in repository.at(revision).history()
            ]
        )

    def _create_branch(self, request: Request, repository: Repository, name: str) -> Response:
        start = repository.at(request.json().get("startingPoint", "main"))
        return self._add_ref(repository, f"refs/heads/{name}", start)

    def _create_tag(self, request: Request, repository: Repository, revision: str) -> Response:
        return self._add_ref(repository, f"refs/tags/{request.json()['tag']}", repository.at(revision))

    def _add_ref(self, repository: Repository, ref: str, commit: Commit) -> Response:
        if ref in repository.refs:
            raise Refusal(409, f"Reference {ref} already exists")
        repository.refs[ref] = commit
        return Response()

    def _delete_branch(self, request: Request, repository: Repository, name: str) -> Response:
        if name == "main":
            raise Refusal(403, "The main branch cannot be deleted")
        if repository.refs.pop(f"refs/heads/{name}", None) is None:
            raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return Response()

    # Reading

    def _tree(self, request: Request, repository: Repository, revision: str, path: str = "") -> Response:
        entries = repository.at(revision).entries()
        if path and entries.get(path, {}).get("type") != "directory":
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
        prefix = f"{path}/" if path else ""
        inside = [entry for name, entry in entries.items() if name.startswith(prefix)]
        if request.query.get("recursive", "false").lower() != "true":
            inside = [entry for entry in inside if "/" not in entry["path"][len(prefix) :]]
        return json_response(inside)

    def _paths_info(self, request: Request, repository: Repository, revision: str) -> Response:
        entries = repository.at(revision).entries()
        paths = parse_qs(request.body.decode()).get("paths", [])
        return json_response([entries[path] for path in paths if path in entries])

    def _resolve(self, request: Request, repository: Repository, revision: str, path: str) -> Response:
        commit = repository.at(revision)
        headers = {"X-Repo-Commit": commit.oid}
        file = commit.files.get(path)
        if file is None:  # the client keeps in mind in which commit it is missing
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return json_response({"error": "Entry not found"}, 404, headers)
        if file.is_lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
            return Response(302, b"", {**headers, "Location": self._signed("GET", file.sha256)})
        return content_response(file.content, request.headers.get("range"), {**headers, "ETag": f'"{file.git_oid}"'})

    # Writing

    def _preupload(self, request: Request, repository: Repository, revision: str) -> Response:
        files = repository.at(revision).files
        attributes = files[".gitattributes"].content.decode() if ".gitattributes" in files else ""
        patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
        answers = []
        for file in request.json()["files"]:
            name = file["path"].rsplit("/", 1)[-1]
            is_lfs = any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
            is_lfs |= file["size"] > LARGEST_REGULAR_FILE or b"\0" in base64.b64decode(file["sample"])
            answer = {"path": file["path"], "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
            if file["path"] in files:
                known = files[file["path"]]
                answer["oid"] = known.sha256 if known.is_lfs else known.git_oid
            answers.append(answer)
        return json_response({"files": answers})

    def _lfs_batch(self, request: Request, repository: Repository) -> Response:
        objects = []
        for wanted in request.json()["objects"]:
            objects.append({"oid": wanted["oid"], "size": wanted["size"]})
            if wanted["oid"] not in self._objects:
                verify = f"{self._page(repository.kind, repository.repo_id)}.git/info/lfs/verify"
                upload = self._signed("PUT", wanted["oid"])
                objects[-1]["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
        return json_response({"transfer": "basic", "objects": objects})

    def _lfs_verify(self, request: Request, repository: Repository) -> Response:
        payload = request.json()
        if len(self._objects.get(payload["oid"], b"")) != payload["size"]:
            raise Refusal(404, f"Object {payload['oid']} was not uploaded")
        return json_response({})

    def _commit(self, request: Request, repository: Repository, revision: str) -> Response:
        if self._commit_fault.happens():
            if self._commit_fault.what is None:
                raise ConnectionAbortedError
            raise Refusal(self._commit_fault.what, "Internal Error - We're working hard to fix this")
        head = repository.at(revision)
        header, *operations = (json.loads(line) for line in request.body.splitlines() if line.strip())
        header = header["value"]
        if header.get("parentCommit", head.oid) != head.oid:
            raise Refusal(412, "The branch has moved on from the parent commit")
        files = dict(head.files)
        for operation in operations:
            self._apply(operation["key"], operation["value"], files)
        if "README.md" in files:
            card_metadata(files["README.md"].content, repository.kind)
        page = self._page(repository.kind, repository.repo_id)
        answer = {"success": True, "hookOutput": ""}
        ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        if request.query.get("create_pr") == "1":
            number = 1 + sum(name.startswith("refs/pr/") for name in repository.refs)
            ref = f"refs/pr/{number}"
            answer["pullRequestUrl"] = f"{page}/discussions/{number}"
        elif ref not in repository.refs:
            raise Refusal(400, f"Commits go to a branch, and {revision} is none")
        description = header.get("description", "")
        commit = repository.add_commit(ref, head, files, request.user, header["summary"], description)
        return json_response({**answer, "commitOid": commit.oid, "commitUrl": f"{page}/commit/{commit.oid}"})

    def _apply(self, key: str, value: dict, files: dict[str, File]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = File(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in self._objects:
                raise Refusal(400, f"The content of {path} was not uploaded")
            files[path] = File(self._objects[value["oid"]], is_lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            prefix = f"{path.rstrip('/')}/"
            doomed = [name for name in files if (name.startswith(prefix) if key == "deletedFolder" else name == path)]
            if not doomed:
                raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in doomed:
                del files[name]
        else:
            raise Refusal(400, f"Unknown operation {key}")

    # The storage

    def _signed(self, method: str, oid: str) -> str:
        signature = hmac.new(self._signing_key, f"{method} {oid}".encode(), "sha256").hexdigest()
        return f"{self._storage.url}/{oid}?signature={signature}"

    def _answer_storage(self, handler: Handler) -> Response:
        request = handler.request_without_body()
        method = "GET" if request.method == "HEAD" else request.method
        oid = urlsplit(request.path).path[1:]
        with self._lock:
            self.requests.append(request)
            fault = self._upload_fault
            is_cut = method == "PUT" and fault.happens()
        if is_cut:
            handler.read_body(fault.what)
            raise ConnectionAbortedError
        content = handler.read_body()
        if request.has_token:
            response = Response(400, b"Only one way to authenticate is allowed")
        elif self._signed(method, oid) != f"{self._storage.url}{request.path}":
            response = Response(403, b"The signature does not match")
        elif method == "GET":
            response = content_response(self._objects[oid], request.headers.get("range"), {"ETag": f'"{oid}"'})
        elif hashlib.sha256(content).hexdigest() != oid:
            response = Response(400, b"The content does not match its name")
        else:
            self._objects[oid] = content
            response = Response(200, b"", {"ETag": f'"{oid}"'})
        request.status = response.status
        return response


def _is_private(payload: dict, default: bool) -> bool:
    """Older clients send `private`, newer ones `visibility`."""
    if "visibility" in payload:
        return payload["visibility"] == "private"
    return payload.get("private", default)
