"""What the Hub answers: the part of its protocol that publishing and reading need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from .hub_repos import Repo, StoredFile

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345"
READ_TOKEN = "hf_ReadOnlyReadOnlyReadOnlyReadOnly"
USER = "ann"
_LARGE = (".parquet", ".tar", ".safetensors", ".png")
_REPO = r"/api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)"


@dataclass(eq=False)
class Answer(Exception):
    """An HTTP response; raised, or returned."""

    status: int = 200
    content: Any = b""
    headers: dict[str, str] = field(default_factory=dict)


def _refusal(status: int, message: str, code: str = "") -> Answer:
    headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
    return Answer(status, {"error": message}, headers)


class Hub:
    """The Hub of user `USER` at `endpoint`: `repos` by (kind, id), LFS contents in `objects` by their oid.

    Contents of more than `part_bytes` are to be sent in `parts` of so many, each under (oid, number).
    """

    def __init__(self, endpoint: str = "") -> None:
        self.endpoint = endpoint
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.part_bytes = 5 * 10**9
        self.tokens = {TOKEN: "write", READ_TOKEN: "read"}

    def create(self, repo_id: str, kind: str = "dataset", private: bool = False) -> Repo:
        """A repository as the Hub makes it: with a .gitattributes and nothing else."""
        repo = self.repos[kind, repo_id] = Repo(private)
        rules = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _LARGE)
        repo.commit("main", {".gitattributes": StoredFile(rules.encode(), False)}, "initial commit")
        return repo

    def answer(self, call: Call) -> Answer:
        """The response to a request."""
        for methods, pattern, route in _ROUTES:
            match = re.fullmatch(pattern, call.path)
            if match and call.method in methods:
                try:
                    return route(call, **match.groupdict())
                except Answer as answer:
                    return answer
        return _refusal(404, f"no such page: {call.path}")


@dataclass(frozen=True)
class Call:
    """A request to the Hub; its path without quotes."""

    hub: Hub
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes

    def role(self) -> str:
        """What the token of the request may do; "" without one."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise _refusal(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(token, "")

    def writer(self, repo_id: str) -> None:
        """Refuse who may not write to a repository."""
        if self.role() != "write" or repo_id.partition("/")[0] != USER:
            raise _refusal(403, f"you don't have the rights to write to {repo_id}")

    def repo(self, kind: str, repo_id: str) -> Repo:
        """A repository that the request may see."""
        repo, role = self.hub.repos.get((kind, repo_id)), self.role()
        if repo is None or (repo.private and not role):
            raise _refusal(404 if role else 401, "Repository not found", "RepoNotFound")
        return repo

    def files(self, kind: str, repo: str, revision: str) -> dict[str, StoredFile]:
        """The files of a revision of it."""
        repository = self.repo(kind, repo)
        try:
            return repository.files(revision)
        except KeyError:
            raise _refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound") from None


def _whoami(call: Call) -> Answer:
    role = call.role()
    if not role:
        raise _refusal(401, "Invalid username or password.")
    return Answer(200, {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": role}}})


def _create(call: Call) -> Answer:
    body = json.loads(call.body)
    repo_id, kind = f"{body['organization']}/{body['name']}", body.get("type") or "model"
    call.writer(repo_id)
    url = f"{call.hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
    if (kind, repo_id) in call.hub.repos:
        raise Answer(409, {"error": "You already created this repo", "url": url})
    private = body.get("private") or body.get("visibility") == "private"
    call.hub.create(repo_id, kind, private=bool(private))
    return Answer(200, {"url": url})


def _info(call: Call, kind: str, repo: str, revision: str | None = None) -> Answer:
    files, repository = call.files(kind, repo, revision or "main"), call.repo(kind, repo)
    listed = [{"rfilename": path} for path in sorted(files)]
    about = {
        "id": repo,
        "sha": repository.oid(revision or "main"),
        "private": repository.private,
        "siblings": listed,
        "tags": [],
    }
    return Answer(200, about | {"lastModified": "2026-01-01T00:00:00.000Z", "gated": False, "disabled": False})


def _auth(call: Call, kind: str, repo: str, write: str | None) -> Answer:
    call.repo(kind, repo)
    if write:
        call.writer(repo)
    return Answer(200, {})


def _refs(call: Call, kind: str, repo: str) -> Answer:
    repository = call.repo(kind, repo)
    heads, tags = (
        [{"name": name, "ref": f"refs/{what}/{name}", "targetCommit": oid} for name, oid in names.items()]
        for what, names in (("heads", repository.branches), ("tags", repository.tags))
    )
    return Answer(200, {"branches": heads, "tags": tags, "converts": []})


def _commits(call: Call, kind: str, repo: str, revision: str) -> Answer:
    call.files(kind, repo, revision)
    repository = call.repo(kind, repo)
    listed = [
        {"id": oid, "title": title, "message": "", "authors": [], "date": "2026-01-01T00:00:00.000Z"}
        for oid, title in zip(repository.commits, repository.titles, strict=True)
    ]
    return Answer(200, listed[::-1])


def _branch(call: Call, kind: str, repo: str, branch: str) -> Answer:
    call.writer(repo)
    repository, start = call.repo(kind, repo), json.loads(call.body).get("startingPoint", "main")
    if branch in repository.branches:
        raise _refusal(409, "Reference already exists")
    call.files(kind, repo, start)
    repository.branches[branch] = repository.oid(start)
    return Answer(200, {})


def _preupload(call: Call, kind: str, repo: str, revision: str) -> Answer:
    call.writer(repo)
    present, modes = call.files(kind, repo, revision), []
    for file in json.loads(call.body)["files"]:
        old = present.get(file["path"])
        oid = old and (old.sha256 if old.large else old.blob)
        mode = "lfs" if file["path"].endswith(_LARGE) or file["size"] > 10**7 else "regular"
        modes.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return Answer(200, {"files": modes})


def _batch(call: Call, repo: str) -> Answer:
    call.writer(repo)
    listed = []
    for wanted in json.loads(call.body)["objects"]:
        content = call.hub.objects.get(wanted["oid"], b"")
        missing = hashlib.sha256(content).hexdigest() != wanted["oid"]
        links = {
            "upload": _upload_link(call.hub, wanted["oid"], wanted["size"]),
            "verify": {"href": f"{call.hub.endpoint}/lfs-verify"},
        }
        listed.append({**wanted, **({"actions": links} if missing else {})})
    return Answer(200, {"transfer": "basic", "objects": listed})


def _upload_link(hub: Hub, oid: str, size: int) -> dict[str, Any]:
    if size <= hub.part_bytes:
        return {"href": f"{hub.endpoint}/lfs/{oid}"}
    parts = range(1, -(-size // hub.part_bytes) + 1)
    links = {str(number): f"{hub.endpoint}/lfs/{oid}/{number}" for number in parts}
    return {"href": f"{hub.endpoint}/lfs-complete/{oid}", "header": {"chunk_size": str(hub.part_bytes), **links}}


def _put(call: Call, oid: str) -> Answer:
    call.hub.objects[oid] = call.body
    return Answer()


def _put_part(call: Call, oid: str, number: str) -> Answer:
    call.hub.parts[oid, int(number)] = call.body
    return Answer(200, b"", {"ETag": hashlib.md5(call.body).hexdigest()})


def _complete(call: Call, oid: str) -> Answer:
    sent = [(part, call.hub.parts.pop((oid, part["partNumber"]), b"")) for part in json.loads(call.body)["parts"]]
    whole = b"".join(body for _, body in sent)
    if any(hashlib.md5(body).hexdigest() != part["etag"] for part, body in sent):
        return _refusal(400, "a part is missing")
    call.hub.objects[oid] = whole
    return Answer()


def _verify(call: Call) -> Answer:
    content = call.hub.objects.get(json.loads(call.body)["oid"])
    return Answer() if content is not None else _refusal(404, "no such object")


def _commit(call: Call, kind: str, repo: str, revision: str) -> Answer:
    call.writer(repo)
    files, repository, title = dict(call.files(kind, repo, revision)), call.repo(kind, repo), ""
    if revision not in repository.branches:
        raise _refusal(400, f"not a branch: {revision}")
    for item in map(json.loads, call.body.splitlines()):
        value = item["value"]
        if item["key"] == "header":
            title = value["summary"]
        elif item["key"] == "file":
            files[value["path"]] = StoredFile(base64.b64decode(value["content"]), False)
        elif item["key"] == "lfsFile" and value["oid"] in call.hub.objects:
            files[value["path"]] = StoredFile(call.hub.objects[value["oid"]], True)
        else:
            raise _refusal(400, f"cannot do {item}")
    proposed = call.query.get("create_pr") == ["1"]
    number = 1 + sum(branch.startswith("refs/pr/") for branch in repository.branches)
    oid = repository.commit(f"refs/pr/{number}" if proposed else revision, files, title)
    place = f"{call.hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    pull_request = {"pullRequestUrl": f"{place}/discussions/{number}"} if proposed else {}
    return Answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{place}/commit/{oid}", **pull_request})


def _tree(call: Call, kind: str, repo: str, revision: str, path: str | None) -> Answer:
    files, prefix = call.files(kind, repo, revision), f"{path}/" if path else ""
    deep = call.query.get("recursive", ["false"])[0].lower() == "true"
    entries = [entry for entry in _entries(files) if entry["path"].startswith(prefix)]
    if prefix and not entries:
        raise _refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
    return Answer(200, [entry for entry in entries if deep or "/" not in entry["path"][len(prefix) :]])


def _paths_info(call: Call, kind: str, repo: str, revision: str) -> Answer:
    wanted = parse_qs(call.body.decode()).get("paths", [])
    return Answer(200, [e for e in _entries(call.files(kind, repo, revision)) if e["path"] in wanted])


def _entries(files: dict[str, StoredFile]) -> list[dict[str, Any]]:
    folders = {str(parent) for path in files for parent in Path(path).parents} - {"."}
    listed = [{"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()} for path in folders]
    return sorted([*listed, *(file.entry(path) for path, file in files.items())], key=lambda entry: entry["path"])


def _resolve(call: Call, kind: str | None, repo: str, revision: str, path: str) -> Answer:
    kind = "dataset" if kind else "model"
    headers = {"X-Repo-Commit": call.repo(kind, repo).branches.get(revision, revision), "Accept-Ranges": "bytes"}
    file = call.files(kind, repo, revision).get(path)
    if file is None:
        raise Answer(404, b"", headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
    headers["ETag"] = f'"{file.blob}"'
    if file.large:
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
    ranges = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range", ""))
    if not ranges:
        return Answer(200, file.data, headers)
    first, last = int(ranges[1]), min(int(ranges[2] or len(file.data)), len(file.data) - 1)
    if first > last:
        return Answer(416, b"", headers | {"Content-Range": f"bytes */{len(file.data)}"})
    content_range = {"Content-Range": f"bytes {first}-{last}/{len(file.data)}"}
    return Answer(206, file.data[first : last + 1], headers | content_range)


_ROUTES: list[tuple[tuple[str, ...], str, Callable[..., Answer]]] = [
    (("GET",), r"/api/whoami-v2", _whoami),
    (("POST",), r"/api/repos/create", _create),
    (("POST",), r"/api/validate-yaml", lambda call: Answer(200, {"errors": [], "warnings": []})),
    (("GET",), _REPO + r"(/revision/(?P<revision>.+))?", _info),
    (("GET",), _REPO + r"/auth-check(?P<write>/write)?", _auth),
    (("GET",), _REPO + r"/refs", _refs),
    (("GET",), _REPO + r"/commits/(?P<revision>.+)", _commits),
    (("POST",), _REPO + r"/branch/(?P<branch>.+)", _branch),
    (("POST",), _REPO + r"/preupload/(?P<revision>.+)", _preupload),
    (("POST",), _REPO + r"/commit/(?P<revision>.+)", _commit),
    (("GET",), _REPO + r"/tree/(?P<revision>[^/]+)(/(?P<path>.+))?", _tree),
    (("POST",), _REPO + r"/paths-info/(?P<revision>.+)", _paths_info),
    (("POST",), r"/(datasets/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _batch),
    (("PUT",), r"/lfs/(?P<oid>\w+)", _put),
    (("PUT",), r"/lfs/(?P<oid>\w+)/(?P<number>\d+)", _put_part),
    (("POST",), r"/lfs-complete/(?P<oid>\w+)", _complete),
    (("POST",), r"/lfs-verify", _verify),
    (
        ("GET", "HEAD"),
        r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
        _resolve,
    ),
]
