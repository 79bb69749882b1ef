"""Publish to the Hub: check, send so that an interrupted publish can resume, compare afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...console import say
from ...errors import NbenchError, printable
from ..dataset import INFO_FILE
from .config import PublishConfig
from .from_url import on_this_machine, pack_url
from .package import CARD, Package, PublishedFile, pack
from .upload import WritableRepo

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

BATCH_FILES, BATCH_BYTES = 32, 8 * 10**9
"""Limits of one commit: at most this is sent again after an interruption. Progress is shown per commit."""
_CLASHES = {
    "data set": ("data/*", "config.json"),
    "model": ("*.safetensors", INFO_FILE),
    "results": (INFO_FILE, "config.json"),
}
"""Files that mark a repository as something else, unless they are among those to send."""


@dataclass(frozen=True)
class PublishReport:
    """What was published, or would be (then `commit` is None); `sent`: files that the Hub did not have."""

    url: str
    commit: str | None
    files: tuple[PublishedFile, ...]
    bytes: int
    sent: int
    left_out: tuple[str, ...]
    card: str

    def listing(self) -> str:
        """The files with their sizes, those left out, and the card."""
        lines = [f"{file.bytes:>15,}  {file.path}" for file in self.files]
        lines += [f"{'not sent':>15}  {path}" for path in self.left_out]
        lines.append(f"{self.bytes:>15,}  bytes, {len(self.files)} files, to {self.url}")
        return "\n".join([*map(printable, lines), "", printable(self.card, keep="\n")])


def publish(config: PublishConfig, shown: bool = True) -> PublishReport:
    """Send a folder to the Hub and check the result against it. Nothing local is changed.

    Raises:
        NbenchError: before anything is sent: nothing to publish, unfinished or damaged, no token, no permission, a name
            that is taken; later: the Hub cannot be reached, or its hashes differ.
    """
    from huggingface_hub import constants

    if "://" in str(config.path):
        package = pack_url(str(config.path), config.repo_id)
    else:
        package = pack(Path(config.path), config.repo_id, config.num_workers)
    repo_type = "model" if package.kind == "model" else "dataset"
    url = f"{constants.ENDPOINT}/{'' if repo_type == 'model' else 'datasets/'}{config.repo_id}"
    url += "" if config.revision == "main" else f"/tree/{config.revision}"
    if config.dry_run:
        return _report(url, None, package, package.complete(), sent=0)
    hub = WritableRepo(config.repo_id, repo_type, config.revision, config.num_workers)
    commit = hub.open(config.private)
    remote = hub.tree(commit)
    _refuse_clash(config, package, remote)
    files = package.complete(hub.text(CARD, commit) if CARD in remote and package.readme is None else "")
    todo = [file for file in files if not _same(file, remote.get(file.path))]
    tell = partial(say, error=True) if shown else lambda text: None
    tell(f"{url}: {len(todo)} of {len(files)} files to send, {_size(todo):,} bytes")
    done = 0
    for batch in _batches(todo):
        with on_this_machine(batch) as at_hand:
            commit = hub.send(at_hand, f"Publish {package.kind} with nbench")
        done += len(batch)
        tell(f"sent {done}/{len(todo)} files, {_size(todo[:done]):,} of {_size(todo):,} bytes")
    remote = hub.tree(commit)
    wrong = [_difference(file, remote.get(file.path)) for file in files if not _same(file, remote.get(file.path))]
    if wrong:
        raise NbenchError(f"{url} differs from the folder: {'; '.join(wrong)}: run the same command to resend these")
    return _report(url, commit, package, files, sent=len(todo))


def _refuse_clash(config: PublishConfig, package: Package, remote: dict[str, RepoFile]) -> None:
    own = {file.path: file for file in package.files}
    foreign = [path for path in remote if path not in own and any(fnmatch(path, p) for p in _CLASHES[package.kind])]
    if INFO_FILE in own and INFO_FILE in remote and not _same(own[INFO_FILE], remote[INFO_FILE]):
        foreign.insert(0, INFO_FILE)
    if foreign:
        raise NbenchError(
            f"{config.repo_id} already holds something else at {config.revision} ({foreign[0]} does not belong to this "
            f"{package.kind}): use another name or a new --revision"
        )


def _same(file: PublishedFile, remote: RepoFile | None) -> bool:
    if remote is None:
        return False
    return bool(remote.lfs.sha256 == file.sha256 if remote.lfs else remote.blob_id == file.git_blob())


def _difference(file: PublishedFile, remote: RepoFile | None) -> str:
    return f"{file.path} is missing" if remote is None else f"{file.path} differs from the file here"


def _batches(files: Sequence[PublishedFile]) -> Iterator[list[PublishedFile]]:
    batch: list[PublishedFile] = []
    for file in files:
        if batch and (len(batch) == BATCH_FILES or _size(batch) + file.bytes > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _report(
    url: str, commit: str | None, package: Package, files: tuple[PublishedFile, ...], sent: int
) -> PublishReport:
    card = files[-1].source
    assert isinstance(card, bytes)
    return PublishReport(url, commit, files, _size(files), sent, package.left_out, card.decode())


def _size(files: Sequence[PublishedFile]) -> int:
    return sum(file.bytes for file in files)
