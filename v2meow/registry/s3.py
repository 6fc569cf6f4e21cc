"""A part of an S3 bucket: objects written only if absent, and files moved there and back. The only home of boto3 here.

The endpoint and the keys are boto3's: AWS_ENDPOINT_URL and so on. Requests that fail for a moment are repeated, each
time after a longer wait of random length. Knows nothing of events and bundles.
"""

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from v2meow.registry.store import StoreError

ATTEMPTS = 8  # with the waits below, about 10 s of trouble are outlasted
AT_ONCE = 16
_WAIT_S = 0.1  # at most, before the second attempt; doubled for each that follows
_PASSING = ("InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "RequestTimeTooSkewed")
Result = TypeVar("Result")


class S3Error(StoreError):
    """What the object store answered: `status` of HTTP, 0 when it did not answer."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Bucket:
    """The objects below s3://BUCKET/PREFIX; keys are relative to it. One for many threads."""

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self.name, _, prefix = self.location.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = _client()

    def where(self, key: str) -> str:
        return f"{self.location}/{key}"

    def keys(self, prefix: str, after: str = "") -> Iterator[str]:
        """Keys that begin with `prefix` and sort after `after`, sorted."""
        start = {"StartAfter": self._prefix + after} if after else {}
        listing = self._client.get_paginator("list_objects_v2")
        pages = listing.paginate(Bucket=self.name, Prefix=self._prefix + prefix, **start)
        found = self._ask(prefix, lambda: [entry["Key"] for page in pages for entry in page.get("Contents", ())])
        return (key.removeprefix(self._prefix) for key in found)

    def folders(self) -> list[str]:
        """The first parts of all keys that have several."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=self._prefix, Delimiter="/"
        )
        found = self._ask("", lambda: [part["Prefix"] for page in pages for part in page.get("CommonPrefixes", ())])
        return [folder.removeprefix(self._prefix).rstrip("/") for folder in found]

    def get(self, key: str) -> bytes | None:
        """The object's content; None when there is none."""
        return self._present(
            key, lambda: self._client.get_object(Bucket=self.name, Key=self._prefix + key)["Body"].read()
        )

    def size(self, key: str) -> int | None:
        """The object's length in bytes; None when there is none."""
        return self._present(
            key, lambda: self._client.head_object(Bucket=self.name, Key=self._prefix + key)["ContentLength"]
        )

    def put(self, key: str, content: bytes) -> None:
        self._ask(key, lambda: self._client.put_object(Bucket=self.name, Key=self._prefix + key, Body=content))

    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Make the object; False when there is another one already.

        An answer may be lost after the object was made, and the repeated request then finds the name taken: so the
        object is read back, and it is ours if it holds our very content. Content must differ between writers.
        """
        try:
            self._ask(
                key,
                lambda: self._client.put_object(
                    Bucket=self.name, Key=self._prefix + key, Body=content, IfNoneMatch="*"
                ),
                # 409 is a conflict with a request that is under way: which of the two wins is not settled yet.
                passing=lambda status: status == 409,
            )
        except S3Error as error:
            if error.status in (409, 412) or error.status == 0 or error.status >= 500:
                found = self.get(key)
                if found == content:
                    return True
                if found is not None:
                    return False
            raise
        return True

    def upload(self, path: Path, key: str, progress: Callable[[int], object]) -> None:
        """Make or replace the object with a file's content, in parts where it is large."""
        self._ask(
            key,
            lambda: self._client.upload_file(str(path), self.name, self._prefix + key, Callback=progress),
        )

    def download(self, key: str, path: Path, progress: Callable[[int], object]) -> None:
        """Write the object's content to a file. FileNotFoundError when there is no such object."""
        try:
            self._ask(
                key,
                lambda: self._client.download_file(self.name, self._prefix + key, str(path), Callback=progress),
            )
        except S3Error as error:
            if error.status == 404:
                raise FileNotFoundError(self.where(key)) from None
            raise

    def _present(self, key: str, request: Callable[[], Result]) -> Result | None:
        try:
            return self._ask(key, request)
        except S3Error as error:
            if error.status == 404:
                return None
            raise

    def _ask(self, key: str, request: Callable[[], Result], passing: Callable[[int], bool] = lambda _: False) -> Result:
        """What `request` returns, tried again while its failure may pass. S3Error otherwise."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return request()
            except Exception as error:
                failure = _failure(self.where(key), error)
                may_pass = failure.status in (0, 429) or failure.status >= 500 or passing(failure.status)
                if attempt == ATTEMPTS or not may_pass:
                    raise failure from error
            time.sleep(random.uniform(0.5, 1.0) * _WAIT_S * 2 ** (attempt - 1))  # noqa: S311
        raise AssertionError("unreachable")


class S3Store:
    """Contents under names below a prefix of a bucket; a `Store`."""

    def __init__(self, bucket: Bucket, folder: str) -> None:
        self.bucket, self.folder = bucket, folder

    def where(self, name: str) -> str:
        return self.bucket.where(f"{self.folder}/{name}")

    def names(self, after: str = "") -> list[str]:
        keys = self.bucket.keys(f"{self.folder}/", after and f"{self.folder}/{after}")
        return [key.removeprefix(f"{self.folder}/") for key in keys]

    def get_all(self, names: Sequence[str]) -> list[bytes]:
        return side_by_side(self._get, names)

    def put_if_absent(self, name: str, content: bytes) -> bool:
        return self.bucket.put_if_absent(f"{self.folder}/{name}", content)

    def _get(self, name: str) -> bytes:
        content = self.bucket.get(f"{self.folder}/{name}")
        if content is None:
            raise FileNotFoundError(name)
        return content


def side_by_side(work: Callable[[Any], Result], items: Sequence[Any]) -> list[Result]:
    """`work` done on every item by a few threads: each waits for the network most of the time."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(AT_ONCE, len(items))) as threads:
        return list(threads.map(work, items))


def _client() -> Any:
    try:
        from boto3.session import Session
        from botocore.config import Config
    except ModuleNotFoundError as error:
        raise StoreError("boto3 is not installed: a registry in S3 needs v2meow's extra `s3`, v2meow[s3]") from error
    # A store of one's own answers under one name for all buckets.
    style = "path" if "AWS_ENDPOINT_URL" in os.environ or "AWS_ENDPOINT_URL_S3" in os.environ else "auto"
    config = Config(
        s3={"addressing_style": style},
        retries={"mode": "standard", "total_max_attempts": 1},  # repeated here, so that lost answers are known of
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=AT_ONCE,
    )
    return Session().client("s3", config=config)  # boto3's own one is not made for threads


def _failure(where: str, error: Exception) -> S3Error:
    """The one line about a failed request, with its HTTP status; what is no failure of a request is raised again."""
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as botocore

    if isinstance(error, Boto3Error) and isinstance(error.__context__, botocore.ClientError):
        error = error.__context__  # of a transfer in parts
    if isinstance(error, botocore.ClientError):
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status in (401, 403) and code not in _PASSING:
            return S3Error(f"{where} is refused ({code}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", status)
        if code == "NoSuchBucket":
            return S3Error(f"{where}: there is no such bucket", 400)
        return S3Error(f"{where}: status {status} ({code})", 503 if code in _PASSING else status)
    if isinstance(error, botocore.NoCredentialsError):
        return S3Error(f"{where}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", 401)
    if isinstance(error, botocore.HTTPClientError | botocore.ConnectionError | Boto3Error):
        return S3Error(f"{where} cannot be reached: {error}", 0)
    if isinstance(error, botocore.BotoCoreError):
        return S3Error(f"{where}: {error}", 400)
    raise error
