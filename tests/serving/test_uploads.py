"""Bodies of requests: what is too large, too slow, broken or not allowed ends in one clear line and leaves no file."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from starlette.requests import Request

from serving.problems import Problem
from serving.settings import Settings
from serving.uploads import GenerationForm, fetch, read_form

_BOUNDARY = "----form"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def _body(*parts: tuple[str, bytes]) -> bytes:
    lines = [
        f"--{_BOUNDARY}\r\nContent-Disposition: form-data; {about}\r\n\r\n".encode() + content + b"\r\n"
        for about, content in parts
    ]
    return b"".join(lines) + f"--{_BOUNDARY}--\r\n".encode()


_VIDEO = ('name="video"; filename="clip.mp4"', b"pictures")


def _read(
    body: bytes | list[bytes],
    *,
    kind: str = f"multipart/form-data; boundary={_BOUNDARY}",
    pause: float = 0.0,
    whole: bool = True,
    **limits,
) -> tuple[GenerationForm, Path]:
    """`read_form` of a request whose body comes in those blocks."""
    blocks = [body] if isinstance(body, bytes) else list(body)
    settings = Settings.model_validate({"open": True, "limits": limits, "sources": ["s3://videos", "s3://more/clips/"]})

    async def receive() -> dict:
        await asyncio.sleep(pause)
        if not blocks:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": blocks.pop(0), "more_body": bool(blocks) or not whole}

    headers = [(b"content-type", kind.encode("latin-1"))]
    if isinstance(body, bytes):
        headers.append((b"content-length", str(len(body)).encode()))
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
    return asyncio.run(read_form(Request(scope | {"app": "some application"}, receive), settings))


def _refused(status: int, kind: str):
    return pytest.raises(Problem, check=lambda error: (error.status, error.kind) == (status, kind))


def test_a_form_is_read_whole(temporary):
    text = "bells ♪".encode()
    form, video = _read(_body(_VIDEO, ('name="prompt"', text), ('name="seed"', b"7"), ('name="seconds"', b"")))
    assert (form.prompt, form.seed, form.seconds, form.takes, form.format, form.mode) == (
        "bells ♪",
        7,
        None,
        1,
        "wav",
        "stream",
    )
    assert video.read_bytes() == b"pictures" and video.parent == temporary


@pytest.mark.parametrize("told", [True, False], ids=["with its length", "without"])
def test_what_is_too_large_is_refused(temporary, told):
    body = _body(('name="video"; filename="clip.mp4"', bytes(2 << 20)))
    blocks = [body[place : place + 65536] for place in range(0, len(body), 65536)]
    with _refused(413, "too-large"):
        _read(body if told else blocks, upload_mib=1)
    assert not list(temporary.iterdir())


def test_what_comes_too_slowly_is_refused(temporary):
    blocks = [bytes([byte]) for byte in _body(_VIDEO)]
    with _refused(408, "upload-too-slow"):
        _read(blocks, pause=0.01, upload_s=0.1)
    assert not list(temporary.iterdir())


def test_an_upload_that_breaks_off_is_told_so(temporary):
    """It is no fault of the service, and its log stays silent."""
    with _refused(400, "upload-broke-off"):
        _read([_body(_VIDEO)[:60]], whole=False)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", "", "é"])
def test_what_is_no_form_is_refused(kind):
    with _refused(415, "not-a-form"):
        _read(b"{}", kind=kind)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"rubbish",
        _body(_VIDEO)[:40],
        _body(_VIDEO).replace(b"\r\n", b"\n"),
        _body(("", b"x")),
        _body(('name="prompt"', bytes(20_000))),
        _body(*[(f'name="f{number}"', b"") for number in range(20)]),
        _body(_VIDEO, ('name="other"; filename="second.mp4"', b"y")),
    ],
    ids=["empty", "rubbish", "cut", "wrong lines", "no name", "large field", "many fields", "two files"],
)
def test_a_broken_form_is_refused(body):
    with pytest.raises(Problem) as refused:
        _read(body)
    assert (refused.value.status, refused.value.kind) in {(400, "broken-form"), (422, "no-video")}
    assert "\n" not in refused.value.detail


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("multipart/form-data", "broken-form"),
        ("multipart/form-data; boundary=", "no-video"),
        ("multipart/form-data; boundary=other", "broken-form"),
        ("multipart/form-datax", "not-a-form"),
    ],
)
def test_a_form_without_its_boundary_is_refused(kind, reason):
    with pytest.raises(Problem) as refused:
        _read(_body(_VIDEO), kind=kind)
    assert refused.value.kind == reason


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("tempo", "3", "tempo: Extra inputs are not permitted"),
        ("seed", "-1", "seed: "),
        ("seed", str(1 << 63), "seed: "),
        ("seed", "x", "seed: "),
        ("seconds", "nan", "seconds: "),
        ("seconds", "inf", "seconds: "),
        ("seconds", "0", "seconds: "),
        ("seconds", "121", "seconds: at most 120 are made"),
        ("takes", "0", "takes: "),
        ("takes", "9", "takes: at most 8 are made at once"),
        ("format", "mp3", "format: "),
        ("mode", "later", "mode: "),
        ("prompt", "x" * 1001, "prompt: "),
        ("model", "x" * 201, "model: "),
    ],
)
def test_a_field_that_cannot_be_used_is_named(temporary, field, value, reason):
    with _refused(422, "invalid-fields") as refused:
        _read(_body(_VIDEO, (f'name="{field}"', value.encode())))
    assert refused.value.detail.startswith(reason) and "\n" not in refused.value.detail
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("parts", [(), (('name="video"', b"text"),), (_VIDEO, ('name="source"', b"s3://videos/a"))])
def test_there_must_be_one_video(parts):
    with _refused(422, "no-video"):
        _read(_body(*parts))


@pytest.mark.parametrize(
    "source",
    [
        "s3://videos-evil/a.mp4",
        "s3://videosx/a.mp4",
        "s3://videos",
        "s3://more/a.mp4",
        "s3://more/clips",
        "s3://more/clips/../secret.mp4",
        "s3://more/clips/%2e%2e/secret.mp4",
        "s3://more/clips/..%2Fsecret.mp4",
        "S3://videos/a.mp4",
        " s3://videos/a.mp4",
        "s3://user@videos/a.mp4",
        "http://videos/a.mp4",
        "https://videos/a.mp4",
        "file:///etc/passwd",
        "/etc/passwd",
        "videos/a.mp4",
    ],
)
def test_a_video_is_fetched_from_allowed_places_alone(temporary, source):
    """Everything else would let strangers read what the service may read."""
    with _refused(403, "source-not-allowed"):
        _read(_body(('name="source"', source.encode())))
    assert not list(temporary.iterdir())


def test_an_object_that_cannot_be_fetched_leaves_no_file(temporary, monkeypatch):
    """Nothing listens there."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with _refused(502, "source-unreachable"):
        fetch("s3://videos/a.mp4", Settings(open=True, sources=("s3://videos/",)))
    assert not list(temporary.iterdir())
