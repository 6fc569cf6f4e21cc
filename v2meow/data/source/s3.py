"""A part of an S3 bucket as a source. The endpoint and the keys are boto3's: AWS_ENDPOINT_URL and so on.

An object is read in one or more ranges, each on condition that its ETag is still the listed one, so that halves of two
versions never become one file.
"""

import os
import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from v2meow.data.manifest import DataError
from v2meow.data.source.objects import ChangedError, Object

_CHUNK = 1 << 20
_ATTEMPTS = 6  # in a row without a single new byte
_WAIT_S, _LONGEST_WAIT_S = 0.2, 10.0  # before the second attempt, twice as long before each one after
_SILENT_S = 30  # without a byte, after which a connection is taken for dead
_PASSING = ("InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "RequestLimitExceeded")


class Bucket:
    """The objects of s3://bucket/prefix. Their keys are what follows the prefix, which ends at a slash."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if not parts.netloc or parts.username is not None or "@" in parts.netloc:
            raise DataError("a bucket's address is s3://BUCKET/PREFIX; keys and passwords stand in the environment")
        self._bucket = parts.netloc
        self._prefix = address.removeprefix(f"s3://{parts.netloc}").strip("/")
        self._prefix += "/" if self._prefix else ""
        self.address = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        # A store of one's own answers under one name for all buckets.
        style = "path" if "AWS_ENDPOINT_URL" in os.environ or "AWS_ENDPOINT_URL_S3" in os.environ else "auto"
        config = Config(
            s3={"addressing_style": style},
            retries={"mode": "standard", "max_attempts": _ATTEMPTS},
            connect_timeout=_SILENT_S,
            read_timeout=_SILENT_S,
        )
        try:
            self._client: Any = boto3.client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise DataError(f"{self.address} cannot be read: {error}") from error

    def objects(self) -> Iterator[Object]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        try:
            for page in pages:
                for found in page.get("Contents", ()):
                    key = found["Key"].removeprefix(self._prefix)
                    if key and not key.endswith("/"):  # what consoles leave for an empty folder
                        yield Object(key=key, version=found["ETag"], size=found["Size"])
        except ClientError as error:
            raise DataError(f"{self.address} cannot be listed: {_reason(error)}") from error
        except BotoCoreError as error:
            raise DataError(f"{self.address} cannot be listed: {error}") from error

    def fetch(self, wanted: Object, part: Path) -> None:
        failures, reason = 0, ""
        while (have := part.stat().st_size if part.exists() else 0) != wanted.size or not part.exists():
            if have > wanted.size:
                part.unlink()
                continue
            try:
                self._continue(wanted, part, have)
                if wanted.size == 0:
                    return
            except ClientError as error:
                _refuse(f"{self.address}/{wanted.key}", error)
                reason = _reason(error)
            except (HTTPClientError, BotoCoreError) as error:
                reason = str(error)
            arrived = part.exists() and part.stat().st_size > have
            failures = 0 if arrived else failures + 1
            if failures >= _ATTEMPTS:
                raise DataError(f"{self.address}/{wanted.key} broke off {failures} times in a row: {reason}")
            if failures:
                time.sleep(min(_WAIT_S * 2**failures, _LONGEST_WAIT_S) * random.uniform(0.5, 1.0))  # noqa: S311

    def _continue(self, wanted: Object, part: Path, have: int) -> None:
        """Append what the object holds after its first `have` bytes, as far as it comes."""
        where: dict[str, Any] = {"Bucket": self._bucket, "Key": self._prefix + wanted.key, "IfMatch": wanted.version}
        if have:
            where["Range"] = f"bytes={have}-"
        answer = self._client.get_object(**where)
        with closing(answer["Body"]) as body, part.open("ab") as file:
            begins = int(answer["ContentRange"].split(" ")[1].split("-")[0]) if "ContentRange" in answer else 0
            if answer["ETag"] != wanted.version:  # of a store that knows no conditions
                raise ChangedError("it was replaced after it was listed")
            if begins != have:  # and one that knows no ranges
                file.truncate(begins)
                file.seek(begins)
            while chunk := body.read(_CHUNK):
                file.write(chunk)


def _refuse(what: str, error: ClientError) -> None:
    """Raise what no further attempt would mend."""
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    if status in (404, 412, 416):
        raise ChangedError("it was replaced or deleted after it was listed") from error
    if status < 500 and status != 429 and error.response["Error"]["Code"] not in _PASSING:
        raise DataError(f"{what} is refused: {_reason(error)}") from error


def _reason(error: ClientError) -> str:
    said = error.response["Error"]
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return f"{said.get('Code')} (status {status}): {said.get('Message', '')}".strip(": ")
