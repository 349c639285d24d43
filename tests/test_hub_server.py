"""The tests' own Hub, asked by the real client, huggingface_hub.

The client runs in a process of its own: here it is offline (conftest.py), and would upload by Xet.
"""

import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import GeneratorType

import pytest
from hub_server import LFS_PATTERNS, Hub, client_process, running_hub
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

WEIGHTS = bytes(range(256)) * 300
FILES = {
    "README.md": b"---\nlicense: apache-2.0\npipeline_tag: automatic-speech-recognition\n---\n# A model\n",
    "config.json": b'{"hidden_size": 4}',
    "empty.txt": b"",
    "model.safetensors": WEIGHTS,
    "splits/Jürgen & Co.txt": "Grüße\n".encode(),
}


def _call(endpoint: str, token: str | bool, method: str, *args, **kwargs):
    """In the client's process: a method of the API."""
    result = getattr(HfApi(endpoint=endpoint, token=token), method)(*args, **kwargs)
    return list(result) if isinstance(result, GeneratorType) else result


class Client:
    """HfApi, in another process."""

    def __init__(self, pool: ProcessPoolExecutor, endpoint: str, token: str | bool) -> None:
        self._start = partial(pool.submit, _call, endpoint, token)

    def __getattr__(self, method: str) -> Callable:
        return lambda *args, **kwargs: self._start(method, *args, **kwargs).result()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def pool(server, tmp_path_factory) -> Iterator[ProcessPoolExecutor]:
    with client_process(server, tmp_path_factory.mktemp("home")) as pool:
        yield pool


@pytest.fixture
def hub(server) -> Hub:
    server.clear()
    return server


@pytest.fixture
def api(pool, hub) -> Client:
    return Client(pool, hub.url, hub.token)


@pytest.fixture
def anonymous(pool, hub) -> Client:
    return Client(pool, hub.url, False)


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "folder"


@pytest.fixture
def model(api, folder) -> str:
    """A repository with FILES in it."""
    api.create_repo("user/model")
    api.upload_folder(repo_id="user/model", folder_path=folder, commit_message="First")
    return "user/model"


def _read(folder: str | Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def _sent(hub, method: str) -> list[str]:
    return [path for sent, path in hub.requests if sent == method]


def test_a_repository_is_created_once_and_deleted(api, hub):
    assert not api.repo_exists("user/model")
    url = api.create_repo("user/model")
    assert (url, url.repo_id, url.repo_type) == (f"{hub.url}/user/model", "user/model", "model")
    assert api.repo_exists("user/model")
    assert not api.repo_exists("user/model", repo_type="dataset")
    with pytest.raises(HfHubHTTPError, match="already created this model repo") as error:
        api.create_repo("user/model")
    assert error.value.response.status_code == 409
    assert api.create_repo("user/model", exist_ok=True) == url
    api.delete_repo("user/model")
    assert not api.repo_exists("user/model")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("user/model")


def test_the_token_says_who_asks(api, pool, hub):
    assert api.whoami()["name"] == "user"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        Client(pool, hub.url, "hf_wrong").whoami()
    with pytest.raises(HfHubHTTPError, match="namespace other"):
        api.create_repo("other/model")


def test_what_is_uploaded_comes_back(api, hub, model, tmp_path):
    snapshot = api.snapshot_download(model, cache_dir=tmp_path / "cache")
    content = _read(snapshot)
    assert LFS_PATTERNS[0] in content.pop(".gitattributes").decode()
    assert content == FILES
    path = api.hf_hub_download(model, "model.safetensors", cache_dir=tmp_path / "other")
    assert Path(path).read_bytes() == WEIGHTS
    assert len(_sent(hub, "PUT")) == 1  # the weights alone are LFS


def test_a_large_file_is_lfs_whatever_its_name(api, hub, tmp_path):
    large = bytes(11 << 20)
    api.create_repo("user/model")
    api.upload_file(repo_id="user/model", path_in_repo="large.txt", path_or_fileobj=large)
    (file,) = api.get_paths_info("user/model", "large.txt")
    assert file.lfs.size == file.size == len(large)
    assert Path(api.hf_hub_download("user/model", "large.txt", cache_dir=tmp_path / "cache")).read_bytes() == large
    assert hub.read("user/model", "large.txt") == large


def test_the_cache_asks_by_etag(api, hub, model, tmp_path):
    api.hf_hub_download(model, "config.json", cache_dir=tmp_path / "cache")
    hub.requests.clear()
    api.hf_hub_download(model, "config.json", cache_dir=tmp_path / "cache")
    assert hub.requests == [("HEAD", "/user/model/resolve/main/config.json")]


def test_an_old_revision_stays_readable(api, model, tmp_path):
    first = api.model_info(model).sha
    second = api.upload_file(repo_id=model, path_in_repo="config.json", path_or_fileobj=b"{}", commit_message="Second")
    assert second.oid == api.model_info(model).sha != first

    def config(revision: str) -> bytes:
        return Path(api.hf_hub_download(model, "config.json", revision=revision, cache_dir=tmp_path / "c")).read_bytes()

    assert (config(first), config("main"), config(second.oid)) == (FILES["config.json"], b"{}", b"{}")
    history = api.list_repo_commits(model)
    assert [(commit.title, commit.authors) for commit in history] == [
        ("Second", ["user"]),
        ("First", ["user"]),
        ("initial commit", ["user"]),
    ]
    assert [commit.commit_id for commit in history[:2]] == [second.oid, first]


def test_branches_and_tags(api, model):
    first = api.model_info(model).sha
    api.create_tag(model, tag="v1.0")
    api.create_branch(model, branch="work/in-progress")
    api.upload_file(repo_id=model, path_in_repo="new.txt", path_or_fileobj=b"new", revision="work/in-progress")
    refs = api.list_repo_refs(model)
    assert {branch.name: branch.target_commit == first for branch in refs.branches} == {
        "main": True,
        "work/in-progress": False,
    }
    assert [(tag.name, tag.ref, tag.target_commit) for tag in refs.tags] == [("v1.0", "refs/tags/v1.0", first)]
    assert api.file_exists(model, "new.txt", revision="work/in-progress")
    assert not api.file_exists(model, "new.txt")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag(model, tag="v1.0")
    with pytest.raises(RevisionNotFoundError):
        api.upload_file(repo_id=model, path_in_repo="new.txt", path_or_fileobj=b"new", revision="v1.0")
    api.delete_tag(model, tag="v1.0")
    api.delete_branch(model, branch="work/in-progress")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(model, tag="v1.0")
    refs = api.list_repo_refs(model)
    assert ([branch.name for branch in refs.branches], refs.tags) == (["main"], [])


def test_a_pull_request_leaves_main_as_it_is(api, hub, model, tmp_path):
    before = api.model_info(model).sha
    pull = api.upload_file(repo_id=model, path_in_repo="sub/new.txt", path_or_fileobj=b"new", create_pr=True)
    assert (pull.pr_url, pull.pr_revision) == (f"{hub.url}/user/model/discussions/1", "refs/pr/1")
    assert api.model_info(model).sha == before
    assert "sub/new.txt" not in api.list_repo_files(model)
    assert "sub/new.txt" in api.list_repo_files(model, revision="refs/pr/1")
    (listed,) = api.list_repo_tree(model, "sub", revision="refs/pr/1")
    assert listed.path == "sub/new.txt"
    path = api.hf_hub_download(model, "sub/new.txt", revision="refs/pr/1", cache_dir=tmp_path / "cache")
    assert Path(path).read_bytes() == b"new"
    (ref,) = api.list_repo_refs(model, include_pull_requests=True).pull_requests
    assert (ref.ref, ref.target_commit) == ("refs/pr/1", pull.oid)
    api.upload_file(repo_id=model, path_in_repo="more.txt", path_or_fileobj=b"more", revision="refs/pr/1")
    assert hub.read(model, "more.txt", "refs/pr/1") == b"more"
    again = api.upload_file(repo_id=model, path_in_repo="other.txt", path_or_fileobj=b"other", create_pr=True)
    assert again.pr_num == 2


def test_a_private_repository_is_its_owners(api, anonymous, pool, hub, tmp_path):
    api.create_repo("user/model", private=True)
    api.upload_file(repo_id="user/model", path_in_repo="a.txt", path_or_fileobj=b"a")
    assert api.model_info("user/model").private
    stranger = Client(pool, hub.url, hub.stranger)
    for client, status in ((anonymous, 401), (stranger, 404)):
        with pytest.raises(RepositoryNotFoundError) as error:
            client.model_info("user/model")
        assert error.value.response.status_code == status
        with pytest.raises(RepositoryNotFoundError):
            client.hf_hub_download("user/model", "a.txt", cache_dir=tmp_path / "cache")
        with pytest.raises(RepositoryNotFoundError):
            client.snapshot_download("user/model", cache_dir=tmp_path / "cache")
    assert Path(api.hf_hub_download("user/model", "a.txt", cache_dir=tmp_path / "cache")).read_bytes() == b"a"


def test_a_public_repository_is_read_by_all_and_written_by_its_owner(anonymous, pool, hub, model, tmp_path):
    path = anonymous.hf_hub_download(model, "config.json", cache_dir=tmp_path / "cache")
    assert Path(path).read_bytes() == FILES["config.json"]
    before = dict(hub.repos["models", model].refs)
    with pytest.raises(RepositoryNotFoundError, match="401"):
        anonymous.upload_file(repo_id=model, path_in_repo="config.json", path_or_fileobj=b"mine")
    with pytest.raises(HfHubHTTPError, match="rights to write to user/model"):
        Client(pool, hub.url, hub.stranger).delete_file("config.json", model)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):  # also where nobody needs a token
        Client(pool, hub.url, "hf_wrong").model_info(model)
    assert hub.repos["models", model].refs == before


def test_what_is_missing_is_told_apart(api, model, tmp_path):
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(model, "missing.txt", cache_dir=tmp_path / "cache")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(model, "config.json", revision="v9", cache_dir=tmp_path / "cache")
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download("user/missing", "config.json", cache_dir=tmp_path / "cache")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(model, revision="v9")
    with pytest.raises(EntryNotFoundError):
        api.list_repo_tree(model, "missing")
    with pytest.raises(EntryNotFoundError):
        api.delete_file("missing.txt", model)
    with pytest.raises(HfHubHTTPError, match="/api/models is not spoken here"):
        api.list_models()


def test_a_space_and_a_dataset_do_not_meet_a_model(api, hub, tmp_path):
    assert api.create_repo("user/same", repo_type="space", space_sdk="gradio") == f"{hub.url}/spaces/user/same"
    assert api.create_repo("user/same", repo_type="dataset") == f"{hub.url}/datasets/user/same"
    api.create_repo("user/same")
    for kind in ("space", "dataset", "model"):
        files = [CommitOperationAdd("a.txt", kind.encode()), CommitOperationAdd("a.bin", kind.encode() * 9)]
        made = api.create_commit("user/same", files, commit_message=kind, repo_type=kind)
        assert made.repo_url.repo_type == kind
    for kind in ("space", "dataset", "model"):
        content = _read(api.snapshot_download("user/same", repo_type=kind, cache_dir=tmp_path / "cache"))
        assert (content["a.txt"], content["a.bin"]) == (kind.encode(), kind.encode() * 9)
    assert api.space_info("user/same").sdk == "gradio"
    assert api.dataset_info("user/same").id == "user/same"


def test_files_and_folders_are_deleted_and_copied(api, hub, model):
    operations = [
        CommitOperationDelete("config.json"),
        CommitOperationDelete("splits/"),
        CommitOperationCopy("model.safetensors", "copy.safetensors"),
        CommitOperationCopy("README.md", "docs/README.md"),
    ]
    api.create_commit(model, operations, commit_message="Tidy")
    files = ["README.md", "copy.safetensors", "docs/README.md", "empty.txt", "model.safetensors"]
    assert sorted(api.list_repo_files(model)) == [".gitattributes", *files]
    assert hub.read(model, "copy.safetensors") == WEIGHTS
    assert hub.read(model, "docs/README.md") == FILES["README.md"]
    api.delete_file("empty.txt", model)
    assert not api.file_exists(model, "empty.txt")


def test_a_refused_commit_changes_nothing(api, model):
    before = api.model_info(model).sha
    operations = [CommitOperationAdd("new.txt", b"new"), CommitOperationDelete("missing.txt")]
    with pytest.raises(EntryNotFoundError):
        api.create_commit(model, operations, commit_message="Half")
    api.upload_file(repo_id=model, path_in_repo="other.txt", path_or_fileobj=b"other")
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        api.create_commit(model, operations[:1], commit_message="Late", parent_commit=before)
    assert "new.txt" not in api.list_repo_files(model)


def test_a_commit_needs_its_lfs_objects(api, hub, model):
    header = '{"key": "header", "value": {"summary": "Pointer to nothing"}}'
    line = '{"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": "%s", "size": 1}}' % ("0" * 64)
    asked = urllib.request.Request(
        f"{hub.url}/api/models/{model}/commit/main",
        f"{header}\n{line}\n".encode(),
        {"Authorization": f"Bearer {hub.token}"},
    )
    with pytest.raises(urllib.error.HTTPError, match="400") as error:
        urllib.request.urlopen(asked)
    assert b"not uploaded" in error.value.read()
    error.value.close()
    assert "a.bin" not in api.list_repo_files(model)


def test_a_broken_upload_leaves_the_repository_as_it_was(api, hub, folder):
    api.create_repo("user/model")
    before = api.model_info("user/model").sha
    hub.fail_next(1, "POST .*/commit/")
    with pytest.raises(HfHubHTTPError, match="500"):
        api.upload_folder(repo_id="user/model", folder_path=folder)
    hub.fail_next(1, "PUT /lfs/", 403)
    (folder / "other.bin").write_bytes(b"other")
    with pytest.raises(RuntimeError, match=r"uploading 'other\.bin'"):
        api.upload_folder(repo_id="user/model", folder_path=folder)
    assert api.model_info("user/model").sha == before
    assert api.list_repo_files("user/model") == [".gitattributes"]
    api.upload_folder(repo_id="user/model", folder_path=folder)
    assert len(_sent(hub, "PUT")) == 3  # the weights once, other.bin twice
    assert hub.read("user/model", "model.safetensors") == WEIGHTS
    assert hub.read("user/model", "other.bin") == b"other"


@pytest.mark.parametrize("status", [500, None])
def test_a_passing_failure_of_an_upload_is_tried_again(api, hub, status):
    api.create_repo("user/model")
    hub.fail_next(1, "PUT /lfs/", status)
    api.upload_file(repo_id="user/model", path_in_repo="model.safetensors", path_or_fileobj=WEIGHTS)
    assert len(_sent(hub, "PUT")) == 2
    assert hub.read("user/model", "model.safetensors") == WEIGHTS


def test_a_dropped_commit_is_an_error(api, hub, model):
    hub.fail_next(1, "POST .*/commit/", None)
    with pytest.raises(Exception, match=r"disconnected|reset"):
        api.upload_file(repo_id=model, path_in_repo="new.txt", path_or_fileobj=b"new")
    assert "new.txt" not in api.list_repo_files(model)


def test_the_content_outlives_the_server(api, hub, model, tmp_path):
    path = api.hf_hub_download(model, "config.json", cache_dir=tmp_path / "cache")
    url = hub.url
    hub.stop()
    assert api.hf_hub_download(model, "config.json", cache_dir=tmp_path / "cache") == path  # the cache's
    with pytest.raises(Exception, match="refused"):
        api.model_info(model)
    hub.start()
    assert hub.url == url
    assert {file.rfilename for file in api.model_info(model).siblings} == {".gitattributes", *FILES}


def test_what_the_listings_say(api, model):
    assert sorted(api.list_repo_files(model)) == sorted([".gitattributes", *FILES])
    info = api.model_info(model, files_metadata=True)
    assert (info.id, info.author, info.private, info.pipeline_tag) == (
        "user/model",
        "user",
        False,
        "automatic-speech-recognition",
    )
    assert info.card_data.license == "apache-2.0"
    sizes = {file.rfilename: (file.size, file.lfs is not None) for file in info.siblings}
    assert sizes["model.safetensors"] == (len(WEIGHTS), True)
    assert sizes["config.json"] == (len(FILES["config.json"]), False)
    api.upload_file(repo_id=model, path_in_repo="splits/new.txt", path_or_fileobj=b"new", commit_message="Second")
    changed = {entry.path: entry.last_commit.title for entry in api.list_repo_tree(model, expand=True)}
    assert (changed["splits"], changed["config.json"], changed[".gitattributes"]) == (
        "Second",
        "First",
        "initial commit",
    )
    weights, splits = api.get_paths_info(model, ["model.safetensors", "splits", "missing"])
    assert (weights.lfs.size, splits.path) == (len(WEIGHTS), "splits")


def test_a_card_is_checked(api, model):
    with pytest.raises(ValueError, match="Invalid metadata in README"):
        api.upload_file(repo_id=model, path_in_repo="README.md", path_or_fileobj=b"---\na: [\n---\n")


def test_an_unchanged_folder_makes_no_commit(api, model, folder):
    before = api.model_info(model).sha
    assert api.upload_folder(repo_id=model, folder_path=folder).oid == before


def test_a_part_of_a_file(hub, model):
    asked = urllib.request.Request(f"{hub.url}/{model}/resolve/main/model.safetensors", headers={"Range": "bytes=5-8"})
    with urllib.request.urlopen(asked) as answer:
        assert (answer.status, answer.read()) == (206, WEIGHTS[5:9])
        assert answer.headers["Content-Range"] == f"bytes 5-8/{len(WEIGHTS)}"
