"""The options of `nbench publish`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ...errors import NbenchError, check_range
from ...options import Argument, Option, Place


@dataclass(frozen=True)
class PublishConfig:
    """What to publish where: the folder `path` (data set, model or results) goes to `repo_id` (user/name).

    Raises:
        NbenchError: a value is invalid.
    """

    path: Annotated[Place, Argument("Folder: a data set, a model or results; or the URL of a data set.")]
    repo_id: Annotated[str, Argument("Repository on the Hub: user/name.", flag="repo")]
    private: Annotated[bool, Option("Create a private repository.")] = False
    revision: Annotated[str, Option("Branch; created if missing.")] = "main"
    num_workers: Annotated[int, Option("Files read and sent in parallel.")] = 4
    dry_run: Annotated[bool, Option("List the files and show the card; send nothing.")] = False

    def __post_init__(self) -> None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported unsaid

        check_range("--num-workers", self.num_workers)
        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise NbenchError(f"{self.repo_id!r} cannot name a repository: {error}") from None
        if "/" not in self.repo_id:
            raise NbenchError(f"{self.repo_id!r} has no owner: write user/{self.repo_id}")
