"""Files of an S3 bucket, opened at any offset. The endpoint and the keys are boto3's: AWS_ENDPOINT_URL and so on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from v2meow.assets.catalogue import AssetError
from v2meow.assets.sources import AbsentError, Content, DeniedError, PassingError, PastEndError, UnreachableError

_PASSING = ("InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown")


@contextmanager
def opened(location: str, offset: int) -> Iterator[Content]:
    """Open s3://BUCKET/KEY from `offset` on. Raises the errors of `sources`, and AssetError without boto3."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, HTTPClientError
    except ModuleNotFoundError as error:
        raise AssetError("boto3 is not installed: an s3:// mirror needs v2meow's extra `s3`, v2meow[s3]") from error
    # A store of one's own answers under one name for all buckets.
    style = "path" if "AWS_ENDPOINT_URL" in os.environ or "AWS_ENDPOINT_URL_S3" in os.environ else "auto"
    parts = urlsplit(location)
    where: dict[str, Any] = {"Bucket": parts.netloc, "Key": unquote(parts.path.lstrip("/"))}
    if offset:
        where["Range"] = f"bytes={offset}-"
    try:
        client = boto3.client("s3", config=Config(s3={"addressing_style": style}, retries={"mode": "standard"}))
        answer = client.get_object(**where)
    except ClientError as error:
        raise _refusal(location, error.response) from error
    except EndpointConnectionError as error:
        raise UnreachableError(f"there is no connection to {location}: {error}") from error
    except HTTPClientError as error:
        raise PassingError(f"{location} broke off: {error}") from error
    except (BotoCoreError, ValueError) as error:
        raise AssetError(f"{location} cannot be read: {error}") from error
    body = answer["Body"]

    def read(amount: int) -> bytes:
        try:
            return body.read(amount)
        except (BotoCoreError, OSError) as error:
            raise PassingError(f"{location} broke off: {error}") from error

    try:
        yield Content(read, offset, offset + answer["ContentLength"])
    finally:
        body.close()


def _refusal(location: str, response: Any) -> AssetError:
    code, status = response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]
    if status == 404:
        return AbsentError(f"{location} does not exist ({code})")
    if status == 416:
        return PastEndError(f"{location} is not that long")
    if status in (401, 403):
        return DeniedError(f"{location} is refused ({code}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    message = f"{location} answers with status {status} ({code})"
    return PassingError(message) if status >= 500 or code in _PASSING else AssetError(message)
