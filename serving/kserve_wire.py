"""Requests and responses of the Open Inference Protocol as KServe's two servers have them, and arrays by name."""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from grpc import StatusCode
from grpc_interceptor.exceptions import GrpcException
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput
from kserve.utils.utils import generate_uuid

from serving.problems import Problem
from serving.steps import Answer
from serving.tensors import DTYPES, Tensors, datatype, from_json, from_raw, invalid

_SIZE = "binary_data_size"  # the parameter of a tensor that stands behind the JSON
_CODES = {
    404: StatusCode.NOT_FOUND,
    429: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}


class Refused(GrpcException):
    """A problem in the form that both of KServe's servers tell of: a status of gRPC, and one of HTTP."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail, _CODES.get(problem.status, StatusCode.INVALID_ARGUMENT))
        self.problem = problem


def read_rest(body: bytes, json_length: str | None, model: str) -> InferRequest:
    """The request that a REST body holds; `json_length` is where binary tensors begin, None where there are none.

    A body that has `outputs` with data and no `inputs` is the response of another step: so it comes from a Sequence
    of KServe's InferenceGraph. Problem 400 for what is no request.
    """
    length = len(body) if json_length is None else _whole("Inference-Header-Content-Length", json_length)
    if length > len(body):
        raise invalid("Inference-Header-Content-Length: the body is shorter")
    try:
        said = orjson.loads(body[:length])
    except orjson.JSONDecodeError as error:
        raise invalid(f"the body is no JSON: {error}") from None
    if not isinstance(said, dict):
        raise invalid("the body is no request: a JSON object with `inputs`")
    answers = "inputs" not in said
    tensors = _objects("outputs" if answers else "inputs", said.get("outputs" if answers else "inputs"))
    inputs, place = [], length
    for tensor in tensors:
        made, place = _tensor(tensor, body, place)
        inputs.append(made)
    wanted = [] if answers or not said.get("outputs") else _objects("outputs", said["outputs"])
    outputs = [RequestedOutput(_named(one), _mapping(one)) for one in wanted]
    name = said.get("id")
    return InferRequest(
        model,
        inputs,
        name if isinstance(name, str) else None,
        parameters=_mapping(said),
        request_outputs=outputs or None,  # type: ignore[arg-type]
    )


def arrays(request: InferRequest) -> Tensors:
    """The tensors of a request. Problem 400 for one that is not what it says, or that comes twice."""
    found: Tensors = {}
    for tensor in request.inputs:
        if tensor.name in found:
            raise invalid(f"{tensor.name}: this input comes twice")
        try:
            found[tensor.name] = np.array(tensor.as_numpy())  # a copy: what came as bytes cannot be written to
        except (ValueError, TypeError, OverflowError, struct.error) as error:
            raise invalid(f"{tensor.name}: the data are no {tensor.datatype} of {tensor.shape}: {error}") from None
    return found


def parameters(request: InferRequest) -> dict[str, Any]:
    """Those of a request, as plain values."""
    return {key: _plain(value) for key, value in (request.parameters or {}).items()}


def response(request: InferRequest, model: str, answer: Answer) -> InferResponse:
    """The response with all that a step made; its parameters tell where the music comes from."""
    outputs = [
        InferOutput(name, list(array.shape), datatype(array), np.ascontiguousarray(array))
        for name, array in answer.tensors.items()
    ]
    return InferResponse(
        request.id or generate_uuid(),
        model,
        outputs,
        parameters=dict(answer.about),
        use_binary_outputs=not request.from_grpc and request.use_binary_outputs,  # gRPC sends arrays in binary anyway
        requested_outputs=request.request_outputs,
    )


def _tensor(said: dict[str, Any], body: bytes, place: int) -> tuple[InferInput, int]:
    """A tensor, whose binary form would begin at `place`, and where the next one's does."""
    name, kind, shape, more = _named(said), said.get("datatype"), said.get("shape"), _mapping(said)
    if not isinstance(kind, str) or kind not in DTYPES:
        raise invalid(f"{name}: datatype is not one of {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise invalid(f"{name}: shape is no list of sizes")
    if _SIZE in more:
        end = place + _whole(f"{name}: {_SIZE}", more[_SIZE])
        if end > len(body):
            raise invalid(f"{name}: the body ends before its data do")
        array = from_raw(name, kind, shape, body[place:end])
    elif isinstance(said.get("data"), list):
        array, end = from_json(name, kind, shape, said["data"], more.get("content_type")), place
    else:
        raise invalid(f"{name}: it has no data: give `data`, or {_SIZE} and the data behind the JSON")
    return InferInput(name, shape, kind, array), end


def _objects(key: str, value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise invalid(f"{key}: not a list of tensors" if value is not None else "inputs: they are missing")
    return value


def _named(said: Mapping[str, Any]) -> str:
    name = said.get("name")
    if not isinstance(name, str):
        raise invalid("a tensor has no name")
    return name


def _mapping(said: Mapping[str, Any]) -> dict[str, Any]:
    found = said.get("parameters") or {}
    if not isinstance(found, dict):
        raise invalid("parameters: not an object")
    return found


def _whole(name: str, value: object) -> int:
    if not str(value).isdecimal():
        raise invalid(f"{name}: not a whole number")
    return int(str(value))


def _plain(value: Any) -> Any:
    """A parameter of gRPC is a message of which one field is set."""
    if not hasattr(value, "WhichOneof"):
        return value
    field = value.WhichOneof("parameter_choice")
    return getattr(value, field) if field else None
