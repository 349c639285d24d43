"""A Hugging Face Hub on loopback, for tests that publish and load: its HTTP protocol, repositories and commits.

It speaks what huggingface_hub 2 asks for: accounts; models, datasets and spaces, private or public; regular and LFS
uploads; commits, branches, tags, pull requests; listings; downloads, also of parts and of old revisions. Refusals have
the real Hub's status codes and headers, since clients tell errors apart by them.

It does not speak Xet: LFS files come and go over plain HTTP, and without the real Hub's redirect to another host.
Nor quotas, pages (a listing comes whole), discussions, merges, gates, organisations, moves, or copies of LFS files
from another repository. Only a repository's owner writes to it. A space is stored, not run. Of a card's metadata it
checks that they are YAML.
"""

import base64
import fnmatch
import hashlib
import json
import multiprocessing
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from unittest import mock
from urllib.parse import parse_qs, unquote

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

LFS_PATTERNS = ("*.bin", "*.parquet", "*.png", "*.safetensors")
LARGEST_REGULAR = 10 << 20  # bytes; what is larger must come as LFS


@dataclass(frozen=True)
class File:
    """A version of a file; its bytes lie in the Hub's folder, named by their SHA-256."""

    sha256: str
    oid: str  # git's, of the bytes or of the LFS pointer
    size: int  # bytes
    pointer_size: int | None  # None: not LFS

    @classmethod
    def of(cls, content: bytes, lfs: bool) -> "File":
        sha256 = hashlib.sha256(content).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        blob = pointer if lfs else content
        oid = hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()
        return cls(sha256, oid, len(content), len(pointer) if lfs else None)

    @property
    def etag(self) -> str:
        return self.oid if self.pointer_size is None else self.sha256


Tree = dict[str, File]  # by path


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    tree: Tree


@dataclass
class Repo:
    kind: str  # models, datasets or spaces
    id: str
    private: bool
    sdk: str | None = None  # of a space
    commits: dict[str, Commit] = field(default_factory=dict)  # by hash
    refs: dict[str, str] = field(default_factory=dict)  # refs/heads/main, refs/tags/v1, refs/pr/1 → hash

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    @property
    def path(self) -> str:
        return self.id if self.kind == "models" else f"{self.kind}/{self.id}"

    def find(self, revision: str) -> Commit:
        """The commit of a branch, a tag, a pull request's ref or a hash."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        if revision not in self.commits:
            raise refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[revision]

    def writable(self, revision: str) -> str:
        """The ref a commit to `revision` moves: a branch's or a pull request's, not a tag's."""
        ref = revision if revision.startswith("refs/pr/") else f"refs/heads/{revision}"
        if ref not in self.refs:
            raise refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return ref

    def add(self, ref: str, parent: str | None, tree: Tree, title: str, message: str = "") -> Commit:
        date = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        sha = hashlib.sha1(repr((len(self.commits), self.id, parent, title, sorted(tree.items()))).encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, title, message, self.owner, date, tree)
        self.refs[ref] = sha
        return self.commits[sha]

    def history(self, commit: Commit) -> Iterator[Commit]:
        """From `commit` back to the first."""
        yield commit
        while commit.parent:
            commit = self.commits[commit.parent]
            yield commit


def refusal(status: int, message: str, code: str | None = None, **headers: str) -> HTTPException:
    headers["X-Error-Message"] = message.encode("latin-1", "replace").decode("latin-1")
    return HTTPException(status, message, headers | ({"X-Error-Code": code} if code else {}))


# ----- who asks, and for what


def user_of(request: Request, needed: bool = True) -> str | None:
    """As on the real Hub, a token that nobody has is refused even for what needs none."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    user = request.app.state.hub.users.get(token)
    if token and user is None:
        raise refusal(401, "Invalid credentials in Authorization header")
    if needed and user is None:
        raise refusal(401, "Invalid username or password.")
    return user


def repo_of(request: Request, write: bool = False) -> Repo:
    """Somebody else's private repository answers like one that does not exist."""
    user, path = user_of(request, needed=False), request.path_params
    repo = request.app.state.hub.repos.get((path.get("kind", "models"), f"{path['user']}/{path['name']}"))
    if repo is None or (repo.private and user != repo.owner):
        raise refusal(404 if user else 401, "Repository not found", "RepoNotFound")
    if write and user != repo.owner:
        code = None if user else "RepoNotFound"  # what the client makes of any 401 from an https address
        raise refusal(403 if user else 401, f"You don't have the rights to write to {repo.id}", code)
    return repo


def part(request: Request, name: str) -> str:
    return unquote(request.path_params[name])


def flag(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() in ("1", "true")


# ----- accounts and repositories


async def whoami(request: Request) -> JSONResponse:
    user = user_of(request)
    token = {"displayName": "tests", "role": "write", "createdAt": "2024-01-01T00:00:00.000Z"}
    auth = {"type": "access_token", "accessToken": token}
    return JSONResponse({"type": "user", "id": user, "name": user, "fullname": user, "orgs": [], "auth": auth})


async def create_repo(request: Request) -> JSONResponse:
    user, body, hub = user_of(request), await request.json(), request.app.state.hub
    owner, kind = body.get("organization") or user, body.get("type", "model") + "s"
    if owner != user:
        raise refusal(403, f"You don't have the rights to create a repository under the namespace {owner}")
    if kind == "spaces" and "sdk" not in body:
        raise refusal(400, "A space needs an sdk")
    private = body.get("visibility") == "private" or bool(body.get("private"))
    repo = Repo(kind, f"{owner}/{body['name']}", private, body.get("sdk"))
    url = f"{hub.url}/{repo.path}"
    if (kind, repo.id) in hub.repos:
        return JSONResponse({"url": url, "error": f"You already created this {kind[:-1]} repo"}, 409)
    attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS)
    repo.add("refs/heads/main", None, {".gitattributes": hub.store(attributes.encode(), lfs=False)}, "initial commit")
    hub.repos[kind, repo.id] = repo
    return JSONResponse({"url": url})


async def delete_repo(request: Request) -> PlainTextResponse:
    user, body = user_of(request), await request.json()
    path = {"kind": body.get("type", "model") + "s", "user": body.get("organization") or user, "name": body["name"]}
    request.path_params.update(path)
    repo = repo_of(request, write=True)
    del request.app.state.hub.repos[repo.kind, repo.id]
    return PlainTextResponse("OK")


def metadata(card: str) -> dict:
    """A card's YAML, between its two lines of dashes; as JSON has it, dates as text."""
    found = re.match(r"---\s*\n(.*?)^---\s*$", card, re.DOTALL | re.MULTILINE)
    loaded = (yaml.safe_load(found[1]) if found else None) or {}
    if not isinstance(loaded, dict):
        raise yaml.YAMLError("A card's metadata are a mapping")
    return json.loads(json.dumps(loaded, default=str))


async def validate_yaml(request: Request) -> JSONResponse:
    try:
        found = metadata((await request.json())["content"])
    except yaml.YAMLError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
    warnings = [] if found else [{"message": "empty or missing yaml metadata in repo card"}]
    return JSONResponse({"errors": [], "warnings": warnings})


# ----- uploads


async def preupload(request: Request) -> JSONResponse:
    """How each file is to come. Its present hash lets the client leave out what has not changed."""
    tree = repo_of(request, write=True).find(part(request, "rev")).tree
    files = []
    for asked in (await request.json())["files"]:
        path, size = asked["path"], asked["size"]
        lfs = size > LARGEST_REGULAR or any(fnmatch.fnmatch(path, pattern) for pattern in LFS_PATTERNS)
        mode, oid = "lfs" if lfs else "regular", tree[path].etag if path in tree else None
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return JSONResponse({"files": files})


async def lfs_batch(request: Request) -> JSONResponse:
    """Where to put each object; nowhere if it is here already."""
    repo_of(request, write=True)
    hub = request.app.state.hub
    objects = []
    for asked in (await request.json())["objects"]:
        href = f"{hub.url}/lfs/{asked['oid']}?signature={hub.signature}"
        actions = {} if (hub.folder / asked["oid"]).exists() else {"actions": {"upload": {"href": href}}}
        objects.append({"oid": asked["oid"], "size": asked["size"], **actions})
    return JSONResponse({"transfer": "basic", "objects": objects})


async def lfs_put(request: Request) -> PlainTextResponse:
    """Signed by its address, like the storage behind the real Hub: the client sends no token."""
    hub, content = request.app.state.hub, await request.body()
    if request.query_params.get("signature") != hub.signature:
        raise refusal(403, "SignatureDoesNotMatch")
    if hashlib.sha256(content).hexdigest() != request.path_params["oid"]:
        raise refusal(400, "The bytes do not have this SHA-256")
    hub.store(content, lfs=True)
    return PlainTextResponse("")


def change(hub: "Hub", repo: Repo, tree: Tree, key: str, value: dict) -> None:
    """Apply a line of a commit to `tree`, in place."""
    path = value["path"]
    if key == "file":
        content = base64.b64decode(value["content"])
        if len(content) > LARGEST_REGULAR:
            raise refusal(400, f"{path} is too large for a regular file")
        tree[path] = hub.store(content, lfs=False)
    elif key == "lfsFile":
        stored = hub.folder / value["oid"]
        if not stored.exists() or stored.stat().st_size != value.get("size", stored.stat().st_size):
            raise refusal(400, f"LFS pointer of {path} points to an object that was not uploaded")
        tree[path] = File.of(stored.read_bytes(), lfs=True)
    elif key in ("deletedFile", "deletedFolder"):
        gone = [path] if key == "deletedFile" else [name for name in tree if name.startswith(path.rstrip("/") + "/")]
        if not gone or any(name not in tree for name in gone):
            raise refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        for name in gone:
            del tree[name]
    elif key == "copyFile":
        source = repo.find(value.get("srcRevision") or "main").tree.get(value["srcPath"])
        if source is None:
            raise refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        tree[path] = source
    else:
        raise refusal(400, f"Unknown operation: {key}")


async def commit(request: Request) -> JSONResponse:
    """All of the lines or, with any of them refused, none: a new tree gets its ref only at the end."""
    repo, hub = repo_of(request, write=True), request.app.state.hub
    header, *lines = [json.loads(line) for line in (await request.body()).splitlines()]
    ref, told = repo.writable(part(request, "rev")), header["value"]
    parent = repo.refs[ref]
    if told.get("parentCommit", parent) != parent:
        raise refusal(412, "A commit has happened since. Please refresh and try again.")
    tree = dict(repo.commits[parent].tree)
    for line in lines:
        change(hub, repo, tree, line["key"], line["value"])
    answer = {"success": True}
    if flag(request, "create_pr"):
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.refs)
        ref = f"refs/pr/{number}"
        answer["pullRequestUrl"] = f"{hub.url}/{repo.path}/discussions/{number}"
    made = repo.add(ref, parent, tree, told["summary"], told.get("description", ""))
    return JSONResponse(answer | {"commitUrl": f"{hub.url}/{repo.path}/commit/{made.sha}", "commitOid": made.sha})


# ----- refs


async def create_ref(request: Request) -> PlainTextResponse:
    """A branch is named in the address and starts where the body says; with a tag it is the other way round."""
    repo, body = repo_of(request, write=True), json.loads(await request.body() or b"{}")
    tag, named = body.get("tag"), part(request, "ref")
    ref, start = (f"refs/tags/{tag}", named) if tag else (f"refs/heads/{named}", body.get("startingPoint", "main"))
    if ref in repo.refs:
        raise refusal(409, f"Reference already exists: {ref}")
    repo.refs[ref] = repo.find(start).sha
    return PlainTextResponse("OK")


async def delete_ref(request: Request) -> PlainTextResponse:
    repo, kind = repo_of(request, write=True), "heads" if "/branch/" in request.url.path else "tags"
    ref = f"refs/{kind}/{part(request, 'ref')}"
    if ref == "refs/heads/main":
        raise refusal(403, "The default branch can't be deleted")
    if repo.refs.pop(ref, None) is None:
        raise refusal(404, f"Reference does not exist: {ref}", "RevisionNotFound")
    return PlainTextResponse("OK")


async def refs(request: Request) -> JSONResponse:
    repo = repo_of(request)

    def listed(prefix: str, cut: str) -> list[dict]:
        found = [(ref, sha) for ref, sha in repo.refs.items() if ref.startswith(prefix)]
        return [{"name": ref.removeprefix(cut), "ref": ref, "targetCommit": sha} for ref, sha in found]

    answer = {"branches": listed("refs/heads/", "refs/heads/"), "tags": listed("refs/tags/", "refs/tags/")}
    return JSONResponse(answer | {"converts": [], "pullRequests": listed("refs/pr/", "")})


# ----- listings


async def commits(request: Request) -> JSONResponse:
    repo = repo_of(request)
    return JSONResponse(
        [
            {"id": c.sha, "title": c.title, "message": c.message, "authors": [{"user": c.author}], "date": c.date}
            for c in repo.history(repo.find(part(request, "rev")))
        ]
    )


async def info(request: Request) -> JSONResponse:
    repo, hub = repo_of(request), request.app.state.hub
    at = repo.find(unquote(request.path_params.get("rev", "main")))
    readme = at.tree.get("README.md")
    card = metadata(hub.content(readme).decode()) if readme else {}
    siblings = [{"rfilename": path} for path in sorted(at.tree)]
    for sibling in siblings if flag(request, "blobs") else []:
        file = at.tree[sibling["rfilename"]]
        sibling.update(size=file.size, blobId=file.oid)
        if file.pointer_size:
            sibling["lfs"] = {"size": file.size, "sha256": file.sha256, "pointerSize": file.pointer_size}
    dates = {"createdAt": next(iter(repo.commits.values())).date, "lastModified": at.date}
    about = {"id": repo.id, "author": repo.owner, "sha": at.sha, "private": repo.private, "siblings": siblings, **dates}
    about |= {"gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": card.get("tags", [])}
    about |= {"_id": hashlib.md5(repo.path.encode()).hexdigest()[:24], "cardData": card or None}
    if repo.kind == "models":
        about |= {name: card[name] for name in ("library_name", "pipeline_tag") if name in card}
    elif repo.kind == "spaces":
        about["sdk"] = repo.sdk
    return JSONResponse(about)


def below(tree: Tree, path: str) -> Tree:
    """The file `path`, or the files in the folder `path`."""
    return {name: file for name, file in tree.items() if name == path or name.startswith(f"{path}/")}


def entry(repo: Repo, at: Commit, path: str, expand: bool) -> dict:
    """A listing's line on a file or a folder, with `expand` also on the last commit that changed it."""
    file, here = at.tree.get(path), below(at.tree, path)
    if file is None:
        oid = hashlib.sha1(repr(sorted(here.items())).encode()).hexdigest()
        found = {"type": "directory", "oid": oid, "size": 0, "path": path}
    else:
        found = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
        if file.pointer_size:
            found["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    if expand:
        last = at
        for older in repo.history(at):
            if below(older.tree, path) != here:
                break
            last = older
        found["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
    return found


async def tree(request: Request) -> JSONResponse:
    repo = repo_of(request)
    at, folder = repo.find(part(request, "rev")), unquote(request.path_params.get("path", ""))
    prefix = f"{folder}/" if folder else ""
    names = set()
    for name in at.tree:
        if name.startswith(prefix):
            parts = name.removeprefix(prefix).split("/")
            depth = len(parts) if flag(request, "recursive") else 1
            names |= {prefix + "/".join(parts[: n + 1]) for n in range(depth)}
    if folder and not names:
        raise refusal(404, f"{folder} does not exist on {part(request, 'rev')}", "EntryNotFound")
    return JSONResponse([entry(repo, at, name, flag(request, "expand")) for name in sorted(names)])


async def paths_info(request: Request) -> JSONResponse:
    """Paths that do not exist are left out."""
    repo, asked = repo_of(request), parse_qs((await request.body()).decode())
    at, expand = repo.find(part(request, "rev")), asked.get("expand") == ["true"]
    return JSONResponse([entry(repo, at, path, expand) for path in asked.get("paths", []) if below(at.tree, path)])


async def resolve(request: Request) -> FileResponse:
    """A file's bytes; with HEAD its headers, by which a client knows whether its cache has them."""
    repo, path = repo_of(request), part(request, "path")
    at = repo.find(part(request, "rev"))
    headers = {"X-Repo-Commit": at.sha}
    file = at.tree.get(path)
    if file is None:
        raise refusal(404, "Entry not found", "EntryNotFound", **headers)
    headers["ETag"] = f'"{file.etag}"'
    if file.pointer_size:
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(file.size)}
    stored, name = request.app.state.hub.folder / file.sha256, PurePosixPath(path).name
    return FileResponse(stored, headers=headers, filename=name, content_disposition_type="inline")


async def refused(request: Request, error: HTTPException) -> JSONResponse:
    """Every refusal says in its body what its headers say; an address that this Hub lacks, which it is."""
    message = error.detail if error.headers else f"{request.method} {request.url.path} is not spoken here"
    return JSONResponse({"error": message}, error.status_code, error.headers)


REPO = "/api/{kind}/{user}/{name}"
ROUTES = [
    Route("/api/whoami-v2", whoami),
    Route("/api/repos/create", create_repo, methods=["POST"]),
    Route("/api/repos/delete", delete_repo, methods=["DELETE"]),
    Route("/api/validate-yaml", validate_yaml, methods=["POST"]),
    Route(REPO, info),
    Route(REPO + "/revision/{rev}", info),
    Route(REPO + "/preupload/{rev}", preupload, methods=["POST"]),
    Route(REPO + "/commit/{rev}", commit, methods=["POST"]),
    Route(REPO + "/tree/{rev}", tree),
    Route(REPO + "/tree/{rev}/{path:path}", tree),
    Route(REPO + "/paths-info/{rev}", paths_info, methods=["POST"]),
    Route(REPO + "/refs", refs),
    Route(REPO + "/commits/{rev}", commits),
    *(Route(f"{REPO}/{what}/{{ref}}", create_ref, methods=["POST"]) for what in ("branch", "tag")),
    *(Route(f"{REPO}/{what}/{{ref}}", delete_ref, methods=["DELETE"]) for what in ("branch", "tag")),
    Route("/{user}/{name}.git/info/lfs/objects/batch", lfs_batch, methods=["POST"]),
    Route("/{kind}/{user}/{name}.git/info/lfs/objects/batch", lfs_batch, methods=["POST"]),
    Route("/lfs/{oid}", lfs_put, methods=["PUT"]),
    Route("/{user}/{name}/resolve/{rev}/{path:path}", resolve),
    Route("/{kind}/{user}/{name}/resolve/{rev}/{path:path}", resolve),
]


class _Protocol(H11Protocol):
    """Hands the application its connection, so that it can drop it."""

    def connection_made(self, transport):
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


class Hub:
    """The Hub's content, and the server that shows it: the content stays when the server stops."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token, self.stranger = "hf_of_the_owner", "hf_of_a_stranger"
        self.users = {self.token: "user", self.stranger: "stranger"}
        self.signature = "signed-by-the-hub"
        self.repos: dict[tuple[str, str], Repo] = {}  # by kind and id
        self.requests: list[tuple[str, str]] = []  # method and path, unquoted, as they came
        self._failures: list[list] = []  # [how many more, pattern, status]
        self._app = Starlette(routes=ROUTES, exception_handlers={HTTPException: refused})
        self._app.router.redirect_slashes = False
        self._app.state.hub = self
        self._server: uvicorn.Server | None = None
        self._port = 0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Variables for a client in a process of its own, with its caches under `home`."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        loopback = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        switches = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return {
            **kept,
            **loopback,
            **switches,
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(home),
            **more,
        }

    def start(self) -> None:
        """Serve from a thread; after `stop`, on the same port again."""
        listener = socket.create_server(("127.0.0.1", self._port))
        # Without this an answer's body waits 40 ms for the client to acknowledge its header.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = listener.getsockname()[1]
        plain = {"loop": "asyncio", "ws": "none", "lifespan": "off", "log_level": "error", "access_log": False}
        self._server = uvicorn.Server(uvicorn.Config(self, http=_Protocol, timeout_graceful_shutdown=5, **plain))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)

    def stop(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
            self._thread.join()
            self._server = None

    def fail_next(self, count: int, pattern: str, status: int | None = 500) -> None:
        """Let the next `count` requests whose "METHOD /path" has `pattern` fail, and do nothing.

        `status` None drops the connection. Clients try some requests again after 500 or a drop, none after 400.
        """
        self._failures.append([count, re.compile(pattern), status])

    def clear(self) -> None:
        """Forget repositories, files, failures and requests; a test then finds a new Hub at the old address."""
        for forgotten in (self.repos, self.requests, self._failures):
            forgotten.clear()
        for stored in self.folder.iterdir():
            stored.unlink()

    def store(self, content: bytes, lfs: bool) -> File:
        file = File.of(content, lfs)
        (self.folder / file.sha256).write_bytes(content)
        return file

    def content(self, file: File) -> bytes:
        return (self.folder / file.sha256).read_bytes()

    def read(self, repo: str, path: str, revision: str = "main", kind: str = "models") -> bytes:
        """A file as the Hub has it, asked past the protocol."""
        return self.content(self.repos[kind, repo].find(revision).tree[path])

    async def __call__(self, scope, receive, send) -> None:
        """Note the request, let it fail if it is meant to, or answer it.

        Routes match the quoted path: in .../tree/refs%2Fpr%2F1/folder only the quoting tells revision from path.
        """
        asked = f"{scope['method']} {scope['path']}"
        self.requests.append((scope["method"], scope["path"]))
        for failure in self._failures:
            count, pattern, status = failure
            if count and pattern.search(asked):
                failure[0] -= 1
                if status is None:
                    scope["state"]["transport"].abort()
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    return
                await Request(scope, receive).body()  # a client reads no answer before it has sent everything
                await PlainTextResponse("fails as asked", status)(scope, receive, send)
                return
        scope["path"] = scope["raw_path"].decode("ascii")
        await self._app(scope, receive, send)


@contextmanager
def client_process(hub: "Hub", home: Path) -> Iterator[ProcessPoolExecutor]:
    """A process whose libraries have been imported with this hub's address, as a user's are."""
    variables = hub.environment(home, HF_HUB_DISABLE_PROGRESS_BARS="1")
    with (
        mock.patch.dict(os.environ, variables),
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        pool.submit(os.getpid).result()  # started, with these variables
        yield pool


@contextmanager
def running_hub(folder: Path) -> Iterator[Hub]:
    """A Hub that keeps its files in `folder`, serves until the end of the block, and starts empty."""
    hub = Hub(folder)
    hub.start()
    try:
        yield hub
    finally:
        hub.stop()
