"""Repositories of the Hub, in memory: files, commits, branches and tags."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StoredFile:
    """A file in a commit; what is `large` went through LFS."""

    data: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def blob(self) -> str:
        """The git blob id: of the content, or of the pointer to it."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        data = pointer.encode() if self.large else self.data
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        """The file as the tree API lists it."""
        large = {"lfs": {"oid": self.sha256, "size": len(self.data), "pointerSize": 130}} if self.large else {}
        return {"type": "file", "path": path, "oid": self.blob, "size": len(self.data), **large}


@dataclass
class Repo:
    """A repository: its commits (id to files by path), oldest first, and the branches and tags that point to them."""

    private: bool = False
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, StoredFile], title: str) -> str:
        """Make `files` the content of `branch`."""
        oid = hashlib.sha1(f"{len(self.commits)} {title}".encode()).hexdigest()
        self.commits[oid] = files
        self.titles.append(title)
        self.branches[branch] = oid
        return oid

    def files(self, revision: str = "main") -> dict[str, StoredFile]:
        """The files of a branch, tag or commit; KeyError if there is none."""
        return self.commits[self.oid(revision)]

    def oid(self, revision: str) -> str:
        """The commit of a branch, tag or commit; KeyError if there is none."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        _ = self.commits[oid]
        return oid
