"""The cascade and its steps under KServe: by REST and gRPC, at once or chained, the music of `v2meow generate`."""

import asyncio
import hashlib
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
import tiny_bundle
import torch
from kserve import InferInput, InferRequest, ModelRepository
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse, ServerReadyRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from kserve_process import KServeProcess, body, free_ports, outputs, tensor
from processes import wait_for

from serving.admission import Gate
from serving.choice import resolve
from serving.kserve_models import StepModel
from serving.kserve_plane import Plane
from serving.kserve_wire import Refused
from serving.local import LocalParts
from serving.problems import Problem
from serving.settings import Limits
from serving.steps import Steps
from serving.tensors import Tensors
from serving.trial import try_steps
from v2meow.bundle import verify
from v2meow.generate.files import faded, read_features
from v2meow.generate.piece import Brief, Piece
from v2meow.generate.pipeline import Cascade
from v2meow.media import Reader

pytestmark = pytest.mark.slow  # one server for all
STEPS = ("visual", "semantic", "coarse", "fine", "codec")
PROMPT = "loud bells"


@pytest.fixture(scope="module")
def server(tiny_model, tmp_path_factory) -> Iterator[KServeProcess]:
    limits = ("--pieces", "4", "--waiting", "4", "--max-seconds", "30", "--max-takes", "2", "--upload-mib", "1")
    server = KServeProcess(tmp_path_factory.mktemp("kserve"), tiny_model, *limits)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def stub(server) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def expected(tiny_model, clip):
    """Music of the clip as the command makes it: (seed, prompt, seconds) to float32 [samples]."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the server computes
    cascade = Cascade(tiny_model)

    def make(seed: int, prompt: str | None = None, seconds: float = 2.6) -> np.ndarray:
        with Reader(cascade.recipe.media) as reader:
            visual = read_features(cascade.recipe, reader, clip, seconds)
        joint = None if prompt is None else cascade.embed_prompt(prompt)
        piece = Piece(Brief(visual=visual, joint=joint, seconds=seconds, seed=seed), cascade.recipe)
        chunks = [chunk for _, chunk in cascade.stream([piece])]
        return faded(torch.cat(chunks), tiny_bundle.RATE).numpy()

    yield make
    torch.set_num_threads(threads)


def _request(video: Path, *more, seed: int = 3) -> bytes:
    return body(tensor("video", "BYTES", video.read_bytes()), tensor("seed", "INT64", seed), *more)


def test_json_gives_the_music_of_the_command_and_says_where_it_comes_from(server, clip, expected, tiny_model):
    answer = server.infer("v2meow", _request(clip, tensor("prompt", "BYTES", PROMPT)))
    made = outputs(answer)
    assert np.array_equal(made["audio"], expected(3, PROMPT)[None])
    assert made["sample_rate"].tolist() == [tiny_bundle.RATE]
    about = answer.json()["parameters"]
    assert (about["bundle"], about["seed"], about["prompt"]) == (verify(tiny_model), 3, PROMPT)
    assert about["video"] == hashlib.sha256(clip.read_bytes()).hexdigest()


def test_binary_tensors_go_in_and_out_as_they_are(server, clip, expected):
    """A video is no UTF-8, which KServe's own reader of binary tensors takes it for."""
    video = clip.read_bytes()
    raw = struct.pack("<I", len(video)) + video, struct.pack("<q", 3), struct.pack("<q", 2)
    shapes = zip(("video", "seed", "takes"), ("BYTES", "INT64", "INT64"), raw, strict=True)
    said = [
        {"name": name, "datatype": kind, "shape": [1], "parameters": {"binary_data_size": len(data)}}
        for name, kind, data in shapes
    ]
    head = body(*said, parameters={"binary_data_output": True})
    length = {"Inference-Header-Content-Length": str(len(head))}
    answer = server.infer("v2meow", head + b"".join(raw), **length)
    assert answer.headers["content-type"] == "application/octet-stream"
    made = outputs(answer)
    assert np.array_equal(made["audio"], np.stack([expected(3), expected(4)]))
    assert made["agreement"].shape == (2,)


def test_seconds_in_fp32_mean_the_decimal_that_was_written(server, clip, expected):
    """1.2 in FP32 is above 1.2, which would begin one more id and change all of the music."""
    for kind in ("FP32", "FP64"):
        made = outputs(server.infer("v2meow", _request(clip, tensor("seconds", kind, 1.2))))
        assert np.array_equal(made["audio"], expected(3, seconds=1.2)[None])


def test_each_step_takes_the_raw_answer_of_the_one_before(server, clip, expected, tiny_model):
    """As a Sequence of an InferenceGraph sends it; the end is the music that all make at once."""
    answers: dict[str, httpx.Response] = {}
    content = _request(clip, tensor("prompt", "BYTES", PROMPT))
    for step in STEPS:
        answers[step] = server.infer(f"v2meow-{step}", content)
        content = answers[step].content
    given = {step: set(outputs(answer)) for step, answer in answers.items()}
    assert np.array_equal(outputs(answers["codec"])["audio"], expected(3, PROMPT)[None])
    assert given["visual"] == {"visual.0", "joint", "seed", "seconds"}
    assert given["semantic"] == {"semantic", "seed", "seconds"}
    assert (given["coarse"], given["fine"]) == ({"coarse", "seed", "seconds"}, {"coarse", "fine", "seconds"})
    about = answers["codec"].json()["parameters"]
    assert (about["video"], about["bundle"]) == (hashlib.sha256(clip.read_bytes()).hexdigest(), verify(tiny_model))


def test_requests_at_once_share_the_engines_and_get_each_their_own(server, clip, expected):
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda seed: server.infer("v2meow", _request(clip, seed=seed)), range(4)))
    for seed, answer in enumerate(answers):
        assert np.array_equal(outputs(answer)["audio"][0], expected(seed))


def _grpc(model: str, **arrays: np.ndarray) -> ModelInferRequest:
    inputs = []
    for name, array in arrays.items():
        kind = {"O": "BYTES", "i": "INT64", "f": "FP32"}[array.dtype.kind]
        inputs.append(InferInput(name, list(array.shape), kind))
        inputs[-1].set_data_from_numpy(array)
    return InferRequest(model, inputs).to_grpc()


def _array(response: ModelInferResponse, name: str) -> np.ndarray:
    place = [output.name for output in response.outputs].index(name)
    kind = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8", "INT32": "<i4"}[response.outputs[place].datatype]
    return np.frombuffer(response.raw_output_contents[place], kind).reshape(response.outputs[place].shape)


def test_grpc_gives_the_same_music(server, stub, clip, expected):
    assert stub.ServerReady(ServerReadyRequest()).ready
    video = np.array([clip.read_bytes()], dtype=object)
    answer = stub.ModelInfer(_grpc("v2meow", video=video, seed=np.array([3])))
    assert np.array_equal(_array(answer, "audio"), expected(3)[None])
    assert answer.parameters["seed"].int64_param == 3
    typed = ModelInferRequest(model_name="v2meow")
    typed.inputs.add(name="video", datatype="BYTES", shape=[1]).contents.bytes_contents.append(clip.read_bytes())
    typed.inputs.add(name="seed", datatype="INT64", shape=[1]).contents.int64_contents.append(3)
    assert np.array_equal(_array(stub.ModelInfer(typed), "audio"), expected(3)[None])


def test_the_graph_of_steps_works_over_grpc_too(server, stub, clip, expected):
    answer = stub.ModelInfer(_grpc("v2meow-visual", video=np.array([clip.read_bytes()], dtype=object)))
    for step in STEPS[1:]:
        request = ModelInferRequest(model_name=f"v2meow-{step}", raw_input_contents=answer.raw_output_contents)
        for output in answer.outputs:
            request.inputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        answer = stub.ModelInfer(request)
    assert np.array_equal(_array(answer, "audio"), expected(0)[None])


_IDS = {"name": "semantic", "datatype": "INT64", "shape": [1, 25], "data": [0] * 25}
_SECOND = (tensor("seed", "INT64", 0), tensor("seconds", "FP64", 1.0))
_BAD = {
    "no JSON": ("", b"{", "no JSON"),
    "no object": ("", b"[]", "JSON object"),
    "no inputs": ("", b"{}", "inputs: they are missing"),
    "nothing in it": ("", body(), "video: this input is missing"),
    "misspelt": ("", body(tensor("promt", "BYTES", "x")), "promt: no such input"),
    "not base64": ("", body({**tensor("video", "BYTES", b""), "data": ["?"]}), "video: not base64"),
    "no video": ("", body(tensor("video", "BYTES", b"no video at all")), "the video cannot be used"),
    "data": ("", body({"name": "video", "datatype": "BYTES", "shape": [1]}), "video: it has no data"),
    "shape": ("", body(tensor("video", "BYTES", b"a", b"b")), r"video: its shape is \[2\], not \[1\]"),
    "datatype": ("", body(tensor("video", "BYTES", b"a"), tensor("seed", "FP32", 1.0)), "seed: it is FP32, not INT64"),
    "unknown datatype": ("", body(tensor("video", "TEXT", "a")), "datatype is not one of"),
    "rounding": (
        "",
        body(tensor("video", "BYTES", b"a"), tensor("seed", "INT64", 1.5)),
        "seed: the data are not INT64",
    ),
    "seed": ("", body(tensor("video", "BYTES", b"a"), tensor("seed", "INT64", -1)), "seed: 0 to"),
    "seconds": ("", body(tensor("video", "BYTES", b"a"), tensor("seconds", "FP32", 31.0)), "at most 30 are made"),
    "no seconds": ("", body(tensor("video", "BYTES", b"a"), tensor("seconds", "FP32", 0.0)), "seconds: above 0"),
    "takes": ("", body(tensor("video", "BYTES", b"a"), tensor("takes", "INT64", 3)), "takes: 1 to 2"),
    "twice": (
        "",
        body(tensor("video", "BYTES", b"a"), tensor("video", "BYTES", b"a")),
        "video: this input comes twice",
    ),
    "ids": ("-coarse", body({**_IDS, "data": [16] * 25}, *_SECOND), "semantic: an id is outside of 0 … 15"),
    "frames": ("-coarse", body({**_IDS, "shape": [1, 24], "data": [0] * 24}, *_SECOND), "24 frames, but 1 s have 25"),
    "other bundle": ("-coarse", body(_IDS, *_SECOND, parameters={"bundle": "another"}), "bundle: the steps before"),
    "unknown output": ("-coarse", body(_IDS, *_SECOND, outputs=[{"name": "x"}]), "Unexpected inference output 'x'"),
}


@pytest.mark.parametrize(("model", "content", "reason"), _BAD.values(), ids=_BAD)
def test_what_is_wrong_with_a_request_is_said(server, model, content, reason):
    answer = server.infer(f"v2meow{model}", content)
    assert 400 <= answer.status_code < 500
    assert list(answer.json()) == ["error"]
    assert re.search(reason, answer.json()["error"])


def test_binary_bodies_that_lie_are_refused(server):
    for head, length, reason in (
        ({"parameters": {"binary_data_size": 99}}, None, "the body ends before"),
        ({"parameters": {"binary_data_size": -1}}, None, "not a whole number"),
        ({"parameters": {"binary_data_size": 3}}, None, "are no BYTES of shape"),
        ({}, "99999", "the body is shorter"),
        ({}, "x", "not a whole number"),
    ):
        said = body({"name": "video", "datatype": "BYTES", "shape": [1], **head})
        header = {"Inference-Header-Content-Length": length or str(len(said))}
        answer = server.infer("v2meow", said + b"abc", **header)
        assert (answer.status_code, reason in answer.json()["error"]) == (400, True), answer.text


@pytest.mark.parametrize(
    ("model", "inputs", "code"),
    [
        ("v2meow", {"seed": np.array([1])}, grpc.StatusCode.INVALID_ARGUMENT),
        ("v2meow", {"video": np.array([b"no video"], dtype=object)}, grpc.StatusCode.INVALID_ARGUMENT),
        ("v2meow-fine", {"coarse": np.zeros((9, 9), np.int64)}, grpc.StatusCode.INVALID_ARGUMENT),
        ("nobody", {"seed": np.array([1])}, grpc.StatusCode.NOT_FOUND),
    ],
)
def test_grpc_says_whose_fault_it_is(server, stub, model, inputs, code):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(_grpc(model, **inputs))
    assert caught.value.code() == code  # type: ignore[attr-defined]


def test_bodies_are_bounded(server, stub):
    """On every way in, those of KServe's older protocol too."""
    large = body(tensor("video", "BYTES", bytes(1 << 20)))
    for path in ("/v2/models/v2meow/infer", "/v1/models/v2meow:predict"):
        answer = httpx.post(server.url + path, content=large)
        assert (answer.status_code, answer.json()["error"]) == (413, "the upload is larger than 1 MiB")
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(_grpc("v2meow", video=np.array([bytes(1 << 20)], dtype=object)))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]


def test_who_comes_too_often_is_told_to_come_back(tiny_model, clip):
    """By both protocols: one is asked for when to come back, the other for a status that clients retry."""
    gate = Gate(1, 0)
    model = StepModel("visual", _steps(tiny_model), gate)
    model.ready = True
    video = InferInput("video", [1], "BYTES", [clip.read_bytes()])

    async def ask() -> Problem:
        async with gate.place(1, 1.0):
            with pytest.raises(Refused) as caught:
                await model.predict(InferRequest(model.name, [video]))
        assert caught.value.status_code == grpc.StatusCode.RESOURCE_EXHAUSTED
        return caught.value.problem

    problem = asyncio.run(ask())
    assert problem.status == 429 and "Retry-After" in problem.headers


def test_a_port_that_is_taken_is_one_line(server):
    """Two servers of gRPC would silently share it."""
    command = [sys.executable, "-m", "serving.kserve_server", "--grpc-port", str(server.grpc_port)]
    command += ["--http-port", str(free_ports()[0])]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert re.fullmatch(f"error: port {server.grpc_port}: .*\n", ended.stderr)


def test_nobody_unloads_the_models(server):
    """KServe's own server does that for whoever asks."""
    answer = httpx.post(f"{server.url}/v2/repository/models/v2meow/unload")
    assert answer.status_code == 400 and "started with" in answer.json()["error"]
    assert httpx.get(f"{server.url}/v2/models/v2meow/ready").json()["ready"]
    old = httpx.post(f"{server.url}/v1/models/v2meow:predict", json={"instances": [1]})
    assert old.status_code == 400 and "V2 protocol" in old.json()["error"]


def test_models_describe_themselves_and_the_engines_are_measured(server):
    models = httpx.get(f"{server.url}/v2/models").json()["models"]
    assert models == ["v2meow", *(f"v2meow-{step}" for step in STEPS)]
    about = httpx.get(f"{server.url}/v2/models/v2meow-semantic").json()
    assert {"name": "semantic", "datatype": "INT64", "shape": [1, -1]} in about["outputs"]
    figures = server.metrics()
    for stage in ("semantic", "coarse", "fine"):
        assert figures[f'v2meow_codes_total{{stage="{stage}"}}'] > 0
        assert figures[f'v2meow_rows{{stage="{stage}"}}'] >= 4
    assert figures['v2meow_pieces{state="at work"}'] == 0
    assert "_raylet" not in Path(f"/proc/{server.process.pid}/maps").read_text()  # no Ray in it


def test_a_client_who_leaves_frees_the_engines(server, long_clip):
    name = 'v2meow_codes_total{stage="fine"}'
    before, content = server.metrics()[name], _request(long_clip, tensor("takes", "INT64", 2))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v2/models/v2meow/infer", content=content, timeout=httpx.Timeout(60.0, read=0.4))
    wait_for(lambda: server.metrics()['v2meow_pieces{state="at work"}'] == 0)
    wait_for(lambda: server.metrics()['v2meow_rows_used{stage="fine"}'] == 0)
    assert server.metrics()[name] - before < 2 * 30 * 50 * 2  # codes of both takes


def _steps(model: Path) -> Steps:
    return Steps(LocalParts(2), resolve(str(model), None), Limits())


def test_a_model_is_not_ready_before_it_was_tried(tiny_model):
    """Neither asking it nor asking KServe to load it makes it so."""
    steps = _steps(tiny_model)
    model, repository = StepModel("codec", steps, Gate(1, 0)), ModelRepository()
    repository.update(model)

    async def ask() -> None:
        plane = Plane(repository, steps.parts)
        assert not await plane.ready() and (await plane.live())["status"] == "alive"
        with pytest.raises(Refused) as caught:
            await plane.infer(model.name, InferRequest(model.name, []))
        assert caught.value.status_code == grpc.StatusCode.UNAVAILABLE
        assert not await plane.ready()
        await try_steps(steps, ("codec",))
        model.ready = True
        assert await plane.ready()
        assert not any(stage.loads for stage in steps.parts.stages.values())  # a step loads no more than it needs
        await try_steps(steps, ("fine",))
        steps.parts.stages["fine"]._shelf.parts[0][1].close()  # as an engine that has failed
        assert not await plane.ready() and (await plane.live())["status"] == "dead"

    asyncio.run(ask())


def test_steps_that_see_the_picture_again_make_the_same_music(clip, tmp_path):
    """The coarse stage may want features, which the semantic step then passes on."""
    steps = _steps(tiny_bundle.assembled(tmp_path, {"stages.coarse_sees_video": True}))
    asked: Tensors = {"video": np.array([clip.read_bytes()], dtype=object), "seed": np.array([5])}

    async def both() -> tuple[Tensors, Tensors]:
        whole, given, about = await steps.run("cascade", asked, {}), asked, {}
        for step in STEPS:
            steps.contracts[step].check(given)
            answer = await steps.run(step, given, about)
            given, about = answer.tensors, answer.about
        for step in STEPS:
            await try_steps(steps, (step,))
        return whole.tensors, given

    whole, chained = asyncio.run(both())
    assert np.array_equal(whole["audio"], chained["audio"])


def test_sigterm_lets_what_is_under_way_end(server, long_clip):
    """The last test of this server: a rolling update must cost nobody his music."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.infer, "v2meow", _request(long_clip))
        wait_for(lambda: server.metrics()['v2meow_pieces{state="at work"}'] == 1)
        assert server.end() == 0
        assert outputs(answer.result())["audio"].shape == (1, 30 * tiny_bundle.RATE)
    assert "Traceback" not in server.log.read_text().rpartition("Shutting down")[2]
