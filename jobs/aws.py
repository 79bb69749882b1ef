"""S3 as the AWS tools are configured, by environment variables, profiles and roles; and large files in parts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..errors import NbenchError

PART_BYTES = 64 * 2**20
_PARTS_AT_ONCE = 4
_NOT_CREATED = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchUpload")
"""Why the last request of an upload fails if there is an object: one from before, one just being created, or, if the
first answer was lost and the request was sent again, this upload's own."""


@lru_cache
def _session() -> Any:
    from botocore.session import Session

    return Session()


@lru_cache
def _client() -> Any:
    """A botocore client: the endpoint, region and credentials that s3fs finds too."""
    from botocore.config import Config

    retries = {"mode": "standard", "total_max_attempts": 10}
    return _session().create_client("s3", config=Config(retries=retries, max_pool_connections=_PARTS_AT_ONCE))


def obstore_settings() -> dict[str, Any]:
    """Endpoint, region and credentials as arguments of obstore's S3 store.

    Raises:
        NbenchError: there are no credentials.
    """
    credentials, meta = _session().get_credentials(), _client().meta
    if credentials is None:
        raise NbenchError(
            "no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a server that "
            "is not Amazon's also AWS_ENDPOINT_URL"
        )

    def current() -> dict[str, Any]:
        frozen = credentials.get_frozen_credentials()  # botocore renews them before they expire
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": getattr(credentials, "_expiry_time", None),
        }

    return {"credential_provider": current, "endpoint": meta.endpoint_url, "region": meta.region_name}


def put_in_parts(bucket: str, key: str, file: Path, metadata: dict[str, str]) -> bool:
    """Upload a large file in parts; the last request creates the object unless there is one. Whether it did.

    A killed upload leaves its parts, which a lifecycle rule of the bucket can remove.

    Raises:
        NbenchError: the server would overwrite the object.
        botocore.exceptions.BotoCoreError, ClientError: it cannot be written.
    """
    _check_refusal(bucket, key.rpartition("/")[0])
    n_parts = -(-file.stat().st_size // PART_BYTES)

    def read(number: int) -> bytes:
        with file.open("rb") as source:
            source.seek((number - 1) * PART_BYTES)
            return source.read(PART_BYTES)

    return _upload(bucket, key, metadata, range(1, n_parts + 1), read)


@lru_cache
def _check_refusal(bucket: str, folder: str) -> None:
    """Check that an upload in parts is refused where there is an object.

    Raises:
        NbenchError: it is not.
    """
    key = f"{folder}/.probe-{uuid4().hex}"
    _client().put_object(Bucket=bucket, Key=key, Body=b"first")
    try:
        if _upload(bucket, key, {}, [1], lambda number: b"second"):
            raise NbenchError(
                f"s3://{bucket} lets an upload in parts overwrite a file: keep shards small enough for one request by "
                "--rows-per-shard"
            )
    finally:
        _client().delete_object(Bucket=bucket, Key=key)


def _upload(
    bucket: str, key: str, metadata: dict[str, str], numbers: range | list[int], read: Callable[[int], bytes]
) -> bool:
    from botocore.exceptions import ClientError

    client = _client()
    place: dict[str, Any] = {"Bucket": bucket, "Key": key}
    place["UploadId"] = client.create_multipart_upload(**place, Metadata=metadata)["UploadId"]

    def send(number: int) -> dict[str, Any]:
        return {"PartNumber": number, "ETag": client.upload_part(**place, PartNumber=number, Body=read(number))["ETag"]}

    try:
        with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
            parts = list(pool.map(send, numbers))
        client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        return True
    except BaseException as error:
        with suppress(Exception):  # the first error counts
            client.abort_multipart_upload(**place)
        if isinstance(error, ClientError) and error.response.get("Error", {}).get("Code") in _NOT_CREATED:
            return False
        raise
