"""Music of the KServe server that is marked: by REST, in steps, and the same as the service without KServe makes."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
import torch
from kserve_process import KServeProcess, body, free_ports, outputs, tensor
from local_server import Loop, ask, local_server

from serving.choice import resolve
from serving.local import LocalParts
from serving.settings import Limits
from serving.steps import Steps
from serving.tensors import Tensors
from v2meow.bundle import verify
from v2meow.generate.watermark import find
from v2meow.media import pcm

pytestmark = pytest.mark.slow
SECRET = b"sixteen bytes ok"
SECONDS = 8


@pytest.fixture
def secret(tmp_path) -> Path:
    file = tmp_path / "secret"
    file.write_bytes(SECRET)
    return file


@pytest.fixture
def one_thread() -> Iterator[None]:
    """This process computes as the server does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _served(folder: Path, model: Path, video: Path, *options: str) -> np.ndarray:
    """Float32 [takes, samples] of two takes, by REST."""
    server = KServeProcess(folder, model, "--part", "cascade", *options)
    seconds, takes = tensor("seconds", "FP64", float(SECONDS)), tensor("takes", "INT64", 2)
    asked = body(tensor("video", "BYTES", video.read_bytes()), tensor("seed", "INT64", 3), seconds, takes)
    try:
        return outputs(server.infer("v2meow", asked))["audio"]
    finally:
        server.kill()


def test_music_is_marked_where_there_is_a_secret(
    loop: Loop, settings, tiny_model, long_clip, tmp_path, secret, one_thread
):
    """Every take, sample for sample as the other service marks it; without a secret there is no mark."""
    heard = _served(tmp_path, tiny_model, long_clip, "--watermark", str(secret))
    unmarked = _served(tmp_path, tiny_model, long_clip)
    for marked, plain in zip(heard, unmarked, strict=True):
        mark = find(marked, SECRET)
        assert mark is not None and f"{mark.payload:08x}" == verify(tiny_model)[:8]
        assert find(plain, SECRET) is None and find(marked, b"another secret..") is None
        assert 0 < np.abs(marked - plain).max() < 0.1
    with local_server(loop, settings(watermark=str(secret))) as service, service.client() as client:
        for seed, marked in enumerate(heard, 3):
            assert ask(client, long_clip, seed=seed, seconds=SECONDS).content.endswith(pcm(marked))


def test_the_codec_as_a_step_marks_as_the_cascade_does(tiny_model, clip):
    """Of the steps it alone gives sound."""
    steps = Steps(LocalParts(2), resolve(str(tiny_model), None), Limits(), SECRET)
    asked: Tensors = {"video": np.array([clip.read_bytes()], dtype=object), "seed": np.array([5])}

    async def both() -> tuple[np.ndarray, np.ndarray]:
        whole, given = await steps.run("cascade", asked, {}), asked
        for step in ("visual", "semantic", "coarse", "fine", "codec"):
            given = (await steps.run(step, given, {})).tensors
        return whole.tensors["audio"], given["audio"]

    whole, chained = asyncio.run(both())
    assert whole.shape == (1, round(2.6 * tiny_bundle.RATE)) and np.array_equal(whole, chained)
    mark = find(whole[0], SECRET)
    assert mark is not None and f"{mark.payload:08x}" == steps.edition.digest[:8]


@pytest.mark.parametrize(("content", "told"), [("short", "16 bytes or more"), (None, "No such file")])
def test_a_secret_that_cannot_be_used_is_one_line(tiny_model, tmp_path, content, told):
    """Told before anything is served, and without any of it."""
    if content is not None:
        (tmp_path / "secret").write_text(content)
    http, grpc = map(str, free_ports())
    command = [sys.executable, "-m", "serving.kserve_server", "--model", str(tiny_model), "--http-port", http]
    command += ["--grpc-port", grpc, "--watermark", str(tmp_path / "secret")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1
    assert told in ended.stderr and "short" not in ended.stderr
