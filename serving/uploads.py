"""Bodies of requests: bounded in size and time, parsed as multipart forms, or fetched from an allowed bucket."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkstemp
from typing import Annotated, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from serving.problems import Problem
from serving.settings import Settings
from v2meow import assets

_FIELD_BYTES = 16 << 10
_FIELDS = 16
_BLOCK = 1 << 20

Format = Literal["wav", "ogg", "mp4", "fmp4", "events"]


class GenerationForm(BaseModel):
    """The fields of a request for music, beside `video`: a file, or `source`: an s3:// address."""

    model_config = ConfigDict(extra="forbid")

    source: str | None = None
    prompt: Annotated[str, Field(max_length=1000)] | None = None
    seconds: Annotated[float, Field(ge=0.1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    takes: Annotated[int, Field(ge=1)] = 1
    model: Annotated[str, Field(max_length=200)] | None = None
    format: Format = "wav"
    mode: Literal["stream", "async"] = "stream"

    @field_validator("prompt", "seconds", "source", "model", mode="before")
    @classmethod
    def _blank(cls, value: object) -> object:
        return None if value == "" else value  # what a form on a page sends for a field that was left alone


class Bounded:
    """A request's body, which ends with a Problem when it is too long or too slow."""

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self._receive, self._limit = receive, limit
        self._deadline, self._read = time.monotonic() + seconds, 0

    async def __call__(self) -> Message:
        try:
            async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            raise Problem(408, "upload-too-slow", "the upload took too long") from None
        self._read += len(message.get("body", b""))
        if self._read > self._limit:
            raise _too_large(self._limit)
        return message


async def read_form(request: Request, settings: Settings) -> tuple[GenerationForm, Path]:
    """The fields, and the video as a new file that is the caller's. Problem for whatever is wrong with them."""
    limit = settings.limits.upload_mib << 20
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise Problem(415, "not-a-form", "send multipart/form-data with a file `video` or an address `source`")
    scope = {name: value for name, value in request.scope.items() if name != "app"}  # whose errors would not be ours
    bounded = Request(scope, Bounded(request.receive, limit, settings.limits.upload_s))
    try:
        async with bounded.form(max_files=1, max_fields=_FIELDS, max_part_size=_FIELD_BYTES) as form:
            video = form.get("video")
            texts = {name: value for name, value in form.multi_items() if name != "video"}
            fields = _validated(texts, settings)
            if isinstance(video, UploadFile) == (fields.source is not None):
                raise Problem(422, "no-video", "send either a file `video` or an address `source`")
            if isinstance(video, UploadFile):
                return fields, await _saved(video)
    except MultiPartException as error:
        raise Problem(400, "broken-form", f"the form cannot be read: {error.message}") from None
    except ClientDisconnect:
        raise Problem(400, "upload-broke-off", "the upload broke off") from None
    assert fields.source is not None
    return fields, await asyncio.to_thread(fetch, fields.source, settings)


def _validated(texts: Mapping[str, object], settings: Settings) -> GenerationForm:
    try:
        fields = GenerationForm.model_validate(texts)
    except ValidationError as error:
        reasons = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False))
        raise Problem(422, "invalid-fields", "; ".join(reasons)) from None
    if fields.takes > settings.limits.max_takes:
        raise Problem(422, "invalid-fields", f"takes: at most {settings.limits.max_takes} are made at once")
    if fields.seconds is not None and fields.seconds > settings.limits.max_seconds:
        raise Problem(422, "invalid-fields", f"seconds: at most {settings.limits.max_seconds:g} are made")
    return fields


async def _saved(video: UploadFile) -> Path:
    handle, name = mkstemp(prefix="v2meow-upload-")
    path = Path(name)
    try:
        with open(handle, "wb") as file:  # noqa: PTH123
            while block := await video.read(_BLOCK):
                await asyncio.to_thread(file.write, block)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def fetch(source: str, settings: Settings) -> Path:
    """The object at an s3:// address as a new file. Problem unless the address begins as one that is allowed."""
    allowed = [f"{beginning.rstrip('/')}/" for beginning in settings.sources]
    inside = any(source.startswith(beginning) for beginning in allowed)
    if not source.startswith("s3://") or not inside or {".", ".."} & set(unquote(source).split("/")):
        raise Problem(403, "source-not-allowed", "videos are not fetched from there")
    from v2meow.assets.s3 import opened  # boto3 is an extra

    limit, deadline = settings.limits.upload_mib << 20, time.monotonic() + settings.limits.upload_s
    handle, name = mkstemp(prefix="v2meow-upload-")
    path = Path(name)
    try:
        with opened(source, 0) as content, open(handle, "wb") as file:  # noqa: PTH123
            if content.size is None or content.size > limit:
                raise _too_large(limit)
            while block := content.read(_BLOCK):
                file.write(block)
                if time.monotonic() > deadline:
                    raise Problem(504, "source-too-slow", "the object took too long to fetch")
        if path.stat().st_size != content.size:
            raise Problem(502, "source-broke-off", "the object broke off while it was fetched", retry_after=1.0)
    except assets.AssetError as error:
        path.unlink(missing_ok=True)
        raise Problem(502, "source-unreachable", f"the object cannot be fetched: {error}") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _too_large(limit: int) -> Problem:
    return Problem(413, "too-large", f"the upload is larger than {limit >> 20} MiB")
