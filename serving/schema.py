"""What the API says of itself in OpenAPI, and the shape of a generation for its owner."""

from dataclasses import asdict
from typing import Any

from serving.problems import MEDIA_TYPE
from serving.results import MEDIA_TYPES
from serving.spool import Record
from serving.uploads import GenerationForm

DESCRIPTION = """
A silent video and, if you like, a prompt go in; music that fits comes out.

    curl -F video=@clip.mp4 -F prompt="slow bells" HOST/v1/generations -o music.wav
    curl -F video=@clip.mp4 -F format=mp4 HOST/v1/generations -o scored.mp4

`format=wav` streams the music as it is made. Its Content-Length is that of the whole: a stream that fails ends before.
`format=ogg`, the music as Ogg/Opus, and `format=fmp4`, the scored video as fragmented MP4, are streamed in chunks: a
stream that fails breaks off without the last one. `format=mp4` comes when all of it is made, and so do several takes.
`format=events` streams lines of JSON: `begun`, `progress`, `audio` (16 bit samples in base64), and at last `done`, or
`error` with a problem. `mode=async` answers at once; ask for the generation again until it has ended.

The same video, prompt, seed and model give the same music. Errors are RFC 9457 problem details; where `retriable` is
true the same request may succeed later. With an `Idempotency-Key` a repeated request never makes music twice.
"""


_PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "retriable"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "retriable": {"type": "boolean"},
        "retry_after": {"type": "number"},
    },
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    reasons = {
        400: "The request is broken",
        401: "The API key is missing, unknown or expired",
        403: "That address is not allowed",
        404: "There is no such thing, or it has expired",
        408: "The upload took too long",
        409: "Not now: it is not done, or was done before",
        413: "The upload is too large",
        415: "Not a form",
        422: "A field, the video or the prompt cannot be used",
        429: "Too many requests: come back after Retry-After seconds",
        502: "The address could not be read",
        503: "Not at present",
        504: "Not done before the deadline",
    }
    return {
        status: {"description": reasons[status], "content": {MEDIA_TYPE: {"schema": _PROBLEM}}} for status in statuses
    }


_FILES: dict[str, Any] = {media_type: {} for media_type in MEDIA_TYPES.values()}
_BINARY = {"type": "string", "format": "binary"}
_FORM = GenerationForm.model_json_schema()
_FORM["properties"] = {"video": _BINARY, **_FORM["properties"]}

GENERATE: dict[str, Any] = {
    "summary": "Make music for a video",
    "openapi_extra": {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}},
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "maxLength": 200},
            }
        ],
    },
    "responses": {
        200: {
            "description": "Music, or the scored video",
            "content": _FILES | {"application/x-ndjson": {}},
        },
        202: {"description": "It will be made: see Location", "content": {"application/json": {}}},
        **_problems(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 502, 503, 504),
    },
}
RECORD: dict[str, Any] = {"summary": "How far a generation is", "responses": _problems(401, 404, 422)}
CANCEL: dict[str, Any] = {
    "summary": "Give a generation up and forget it",
    "status_code": 204,
    "responses": _problems(401, 404, 422),
}
TAKE: dict[str, Any] = {
    "summary": "A finished take: its music, the scored video, or where it comes from",
    "responses": {
        200: {"description": "The file", "content": _FILES},
        **_problems(401, 404, 409, 422),
    },
}
MODELS: dict[str, Any] = {"summary": "The models that are served", "responses": _problems(401)}
PROBE: dict[str, Any] = {"include_in_schema": False}
METRICS: dict[str, Any] = {"include_in_schema": False}


def record_body(record: Record) -> dict[str, Any]:
    """A generation as its owner sees it, with links to its files."""
    body = asdict(record)
    for private in ("owner", "attempts", "mode"):
        del body[private]
    place = f"/v1/generations/{record.id}/takes"
    for take in body["takes"]:
        take["files"] = {kind: f"{place}/{take['number']}?format={kind}" for kind in MEDIA_TYPES}
    return body
