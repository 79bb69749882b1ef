"""One repository on the Hub to write to: what may pass is tried again, and no error shows the token."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ...errors import NbenchError, reason_of
from .package import PublishedFile

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

ATTEMPTS = 5
LONGEST_WAIT = 60.0


class WritableRepo:
    """A branch of the repository `name` ("model" or "dataset") to write to, with the token that the Hub client finds.

    Raises:
        NbenchError: no token; of every method: what went wrong, without the token, after what passes was tried again.
    """

    def __init__(self, name: str, repo_type: str, branch: str, num_workers: int) -> None:
        from huggingface_hub import HfApi, get_token

        self._name, self._branch, self._num_workers = name, branch, num_workers
        self._repo: dict[str, Any] = {"repo_id": name, "repo_type": repo_type}
        self._token = ""
        self._token = self._call("finding the token", get_token) or ""
        if not self._token:
            raise NbenchError("no Hub token: log in with `hf auth login`, or set HF_TOKEN to a token that may write")
        self._api = HfApi(token=self._token, library_name="nbench")

    def open(self, private: bool) -> str:
        """Make sure that the branch can be written to; its commit. Creates repository (`private` or not) and branch."""
        from huggingface_hub.errors import RepositoryNotFoundError

        api, branch, name = self._api, self._branch, self._name
        self._call("checking the token", api.whoami)
        info = self._call(f"looking for {name}", api.repo_info, absent=RepositoryNotFoundError, **self._repo)
        if info is None:
            creating = f"creating {name}"
            self._call(creating, api.create_repo, private=private or None, exist_ok=True, **self._repo)
        else:
            if private and not info.private:
                raise NbenchError(f"{name} is public already: make it private on the Hub, or take another name")
            self._call(f"asking to write to {name}", api.auth_check, write=True, **self._repo)
        refs = self._call(f"listing the branches of {name}", api.list_repo_refs, **self._repo)
        if branch in [ref.name for ref in refs.tags]:
            raise NbenchError(f"{branch} is a tag of {name}, and tags stay as they are: name a branch")
        for ref in refs.branches:
            if ref.name == branch:
                return str(ref.target_commit)
        # from the first commit, so that a new branch has nothing of another version
        first = self._call(f"reading {name}", api.list_repo_commits, **self._repo)[-1].commit_id
        creating = f"creating the branch {branch} of {name}"
        self._call(creating, api.create_branch, branch=branch, revision=first, exist_ok=True, **self._repo)
        return str(first)

    def tree(self, commit: str) -> dict[str, RepoFile]:
        """The files of a commit by their paths."""

        def files() -> dict[str, RepoFile]:
            from huggingface_hub import RepoFile

            listed = self._api.list_repo_tree(recursive=True, revision=commit, **self._repo)
            return {file.path: file for file in listed if isinstance(file, RepoFile)}

        return self._call(f"listing {self._name}", files)

    def text(self, path: str, commit: str) -> str:
        """The content of a text file."""

        def read() -> str:
            with TemporaryDirectory() as cache:
                file = self._api.hf_hub_download(filename=path, revision=commit, cache_dir=cache, **self._repo)
                return Path(file).read_bytes().decode()

        return self._call(f"reading {path} of {self._name}", read)

    def send(self, files: Sequence[PublishedFile], message: str) -> str:
        """Commit `files`; the id of the commit. What of them the Hub has stored already is not sent again.

        `upload_folder` resumes as well, but with Xet storage alone; it takes one folder as it is, and reads and hashes
        all of it again, where the manifest has the hashes.
        """
        from huggingface_hub import CommitOperationAdd

        def commit() -> str:
            # anew for each attempt: an operation remembers what the Hub said of it
            operations = [CommitOperationAdd(file.path, file.source) for file in files]
            for operation, file in zip(operations, files, strict=True):
                operation.upload_info.sha256 = bytes.fromhex(file.sha256)  # known, so not computed again
            done = self._api.create_commit(
                operations=operations,
                commit_message=message,
                revision=self._branch,
                num_threads=self._num_workers,
                **self._repo,
            )
            return str(done.oid)

        return self._call(f"sending {files[0].path}" + (" and others" if len(files) > 1 else ""), commit)

    def _call(
        self, doing: str, function: Callable[..., Any], *, absent: type[Exception] | None = None, **arguments: Any
    ) -> Any:
        """What `function` gives, or None if it raises `absent`; tried again after errors that pass."""
        from huggingface_hub.utils.tqdm import disable_progress_bars

        for attempt in range(1, ATTEMPTS + 1):
            try:
                with nullcontext() if sys.stderr.isatty() else disable_progress_bars():
                    return function(**arguments)
            except Exception as error:  # the client raises many unrelated kinds
                if absent and isinstance(error, absent):
                    return None
                if attempt == ATTEMPTS or not _transient(error):
                    problem = self._explain(doing, error)
                    break
                wait = _wait(error, attempt)
            time.sleep(wait)
        raise NbenchError(problem)  # outside of the except clause: a traceback of the cause could show the token

    def _explain(self, doing: str, error: Exception) -> str:
        status, reason = _status(error), reason_of(error)
        if self._token:
            reason = reason.replace(self._token, "***")
        ways_out = {
            401: "the token is not accepted, log in again with `hf auth login` or mend HF_TOKEN",
            403: f"the token has no right to that, take one that may write to {self._name}",
            404: "check the name, and that the token may see it",
        }
        way_out = ways_out.get(status, "mend that, then run the same command")
        if _transient(error):
            way_out = "run the same command later, it goes on where it stopped"
        return f"{doing} failed: {way_out} ({reason[:300]})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _responses(error: Exception) -> list[Any]:
    """The HTTP responses that an error, or what it was raised from, tells of."""
    found = (getattr(cause, "response", None) for cause in _causes(error))
    return [response for response in found if response is not None]


def _status(error: Exception) -> int:
    """The HTTP status that an error tells of; 0 if none."""
    return next((int(response.status_code) for response in _responses(error)), 0)


def _transient(error: Exception) -> bool:
    """Whether the same request may well succeed later: busy, broken off, or answered by something else than the Hub."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if status := _status(error):
        return status in (408, 429) or status >= 500
    # by name: which of two HTTP libraries they are from depends on the client's version
    broken = {"NetworkError", "TimeoutException", "RemoteProtocolError"}
    return any(
        isinstance(cause, (ConnectionError, TimeoutError, json.JSONDecodeError))
        or broken & {kind.__name__ for kind in type(cause).__mro__}
        for cause in _causes(error)
        if not isinstance(cause, OfflineModeIsEnabled)
    )


def _wait(error: Exception, attempt: int) -> float:
    """Seconds until the next attempt: as the Hub says, or ever longer; never the same for two clients."""
    asked = next((response.headers.get("Retry-After", "") for response in _responses(error)), "")
    return random.uniform(0, 1) + (int(asked) if asked.isdigit() else min(LONGEST_WAIT, 2.0 ** (attempt - 1)))
