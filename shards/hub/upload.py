"""Write to one Hub repository: transient errors are retried, and no error shows the token."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from ...errors import NbenchError, reason_of
from .package import PublishedFile

if TYPE_CHECKING:
    from huggingface_hub import RepoFile

ATTEMPTS = 5
LONGEST_WAIT = 60.0


class WritableRepo:
    """A writable branch of the repository `name` (a "model" or "dataset"); the token is the Hub client's.

    Raises:
        NbenchError: no token. From every method: what failed, without the token, after retries of transient errors.
    """

    def __init__(self, name: str, repo_type: str, branch: str, num_workers: int) -> None:
        from huggingface_hub import HfApi, get_token

        self._name, self._branch, self._num_workers = name, branch, num_workers
        self._repo: dict[str, Any] = {"repo_id": name, "repo_type": repo_type}
        self._token = ""
        self._token = self._call("finding the token", get_token) or ""
        if not self._token:
            raise NbenchError("no Hub token: log in with `hf auth login`, or set HF_TOKEN to a token with write access")
        self._api = HfApi(token=self._token, library_name="nbench")

    def open(self, private: bool) -> str:
        """Create repository (`private` or not) and branch if needed, check write access; the branch's commit."""
        from huggingface_hub.errors import RepositoryNotFoundError

        api, branch, name = self._api, self._branch, self._name
        self._call("checking the token", api.whoami)
        info = self._call(f"looking for {name}", api.repo_info, absent=RepositoryNotFoundError, **self._repo)
        if info is None:
            creating = f"creating {name}"
            self._call(creating, api.create_repo, private=private or None, exist_ok=True, **self._repo)
        else:
            if private and not info.private:
                raise NbenchError(f"{name} is already public: make it private on the Hub, or use another name")
            self._call(f"checking write access to {name}", api.auth_check, write=True, **self._repo)
        refs = self._call(f"listing the branches of {name}", api.list_repo_refs, **self._repo)
        if branch in [ref.name for ref in refs.tags]:
            raise NbenchError(f"{branch} is a tag of {name}, and tags do not change: name a branch")
        for ref in refs.branches:
            if ref.name == branch:
                return str(ref.target_commit)
        # from the first commit, so that the new branch holds no other version
        first = self._call(f"reading {name}", api.list_repo_commits, **self._repo)[-1].commit_id
        creating = f"creating the branch {branch} of {name}"
        self._call(creating, api.create_branch, branch=branch, revision=first, exist_ok=True, **self._repo)
        return str(first)

    def tree(self, commit: str) -> dict[str, RepoFile]:
        """The files of a commit by path."""

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

    def propose(self, files: Sequence[PublishedFile], title: str, description: str) -> str:
        """Open a pull request that adds `files`; its address."""
        return self.send(files, title, description, pull_request=True)

    def send(
        self, files: Sequence[PublishedFile], message: str, description: str = "", pull_request: bool = False
    ) -> str:
        """Commit `files`; the commit's id (the address, of a pull request). Content on the Hub is not sent again.

        `upload_folder` resumes only with Xet storage, and it reads and hashes the whole folder again, though the
        manifest has the hashes.
        """
        from huggingface_hub import CommitOperationAdd

        def commit() -> str:
            # new for each attempt: an operation remembers the Hub's earlier answers
            operations = [CommitOperationAdd(file.path, cast(Path | bytes, file.source)) for file in files]
            for operation, file in zip(operations, files, strict=True):
                operation.upload_info.sha256 = bytes.fromhex(file.sha256)  # so it is not computed again
            commit_info = self._api.create_commit(
                operations=operations,
                commit_message=message,
                commit_description=description,
                revision=self._branch,
                num_threads=self._num_workers,
                create_pr=pull_request,
                **self._repo,
            )
            return str(commit_info.pr_url if pull_request else commit_info.oid)

        return self._call(f"sending {files[0].path}" + (" and others" if len(files) > 1 else ""), commit)

    def _call(
        self, doing: str, function: Callable[..., Any], *, absent: type[Exception] | None = None, **arguments: Any
    ) -> Any:
        """The result of `function`, or None if it raises `absent`; transient errors are retried."""
        from huggingface_hub.utils.tqdm import disable_progress_bars

        for attempt in range(1, ATTEMPTS + 1):
            try:
                with nullcontext() if sys.stderr.isatty() else disable_progress_bars():
                    return function(**arguments)
            except Exception as error:  # the client raises many unrelated types
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
        remedies = {
            401: "the token is not accepted, log in again with `hf auth login` or correct HF_TOKEN",
            403: f"the token has no permission, use one with write access to {self._name}",
            404: "check the name, and that the token has access to it",
        }
        remedy = remedies.get(status, "fix the cause, then run the same command")
        if _transient(error):
            remedy = "run the same command later, it resumes where it stopped"
        return f"{doing} failed: {remedy} ({reason[:300]})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _responses(error: Exception) -> list[Any]:
    """The HTTP responses attached to an error or its causes."""
    responses = (getattr(cause, "response", None) for cause in _causes(error))
    return [response for response in responses if response is not None]


def _status(error: Exception) -> int:
    """The HTTP status of an error; 0 if none."""
    return next((int(response.status_code) for response in _responses(error)), 0)


def _transient(error: Exception) -> bool:
    """Whether the same request may succeed later: server busy, connection broken, or a reply not from the Hub."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if status := _status(error):
        return status in (408, 429) or status >= 500
    # by name: they come from one of two HTTP libraries, depending on the client's version
    broken = {"NetworkError", "TimeoutException", "RemoteProtocolError"}
    return any(
        isinstance(cause, (ConnectionError, TimeoutError, json.JSONDecodeError))
        or broken & {kind.__name__ for kind in type(cause).__mro__}
        for cause in _causes(error)
        if not isinstance(cause, OfflineModeIsEnabled)
    )


def _wait(error: Exception, attempt: int) -> float:
    """Seconds until the next attempt: the Hub's Retry-After or exponential backoff, plus jitter."""
    retry_after = next((response.headers.get("Retry-After", "") for response in _responses(error)), "")
    return random.uniform(0, 1) + (
        int(retry_after) if retry_after.isdigit() else min(LONGEST_WAIT, 2.0 ** (attempt - 1))
    )
