"""The tensors that steps of the cascade take and give under the Open Inference Protocol: one contract for all steps.

    video ─► visual ─► semantic ─► coarse ─► fine ─► codec ─► audio

A step gives what it makes and passes on what later ones need, so that the answer of one is the request of the next.

Legend: V visual frames, t semantic ids, T codec frames, K levels of codes.
"""

import base64
import binascii
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from serving.problems import Problem
from v2meow.config import Recipe
from v2meow.weights import read_config

StepName = Literal["cascade", "visual", "semantic", "coarse", "fine", "codec"]
STEP_NAMES: tuple[StepName, ...] = get_args(StepName)
Tensors = dict[str, np.ndarray]
BASE64 = "base64"  # `content_type` of a BYTES tensor whose elements are so written in JSON, as MLServer has it

DTYPES: dict[str, type] = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
_NAMES = {np.dtype(kind): name for name, kind in DTYPES.items()}
_KINDS = {"BOOL": "b", "FP16": "fiu", "FP32": "fiu", "FP64": "fiu"}  # what of JSON fits; else whole numbers


def invalid(detail: str) -> Problem:
    """What is wrong with a request's tensors."""
    return Problem(400, "invalid-tensors", detail)


def datatype(array: np.ndarray) -> str:
    """The protocol's name of an array's type."""
    return _NAMES[array.dtype]


def from_json(name: str, kind: str, shape: list[int], data: list[Any], content_type: object = None) -> np.ndarray:
    """The array that `data`, flat or nested, stands for. Problem 400 for what does not fit; nothing is rounded."""
    try:
        found = np.array(data, dtype=object if kind == "BYTES" else None)
        if kind == "BYTES":
            found = np.array([_element(name, one, content_type) for one in found.ravel()], dtype=object)
        elif found.size and found.dtype.kind not in _KINDS.get(kind, "iu"):
            raise invalid(f"{name}: the data are not {kind}")
        elif found.size and found.dtype.kind in "iu" and kind not in _KINDS:
            limits = np.iinfo(DTYPES[kind])
            if int(found.min()) < limits.min or int(found.max()) > limits.max:
                raise invalid(f"{name}: a number does not fit into {kind}")
        with np.errstate(over="ignore"):  # it becomes infinite, which is refused later
            return found.astype(DTYPES[kind]).reshape(shape)
    except (ValueError, TypeError, OverflowError):
        raise invalid(f"{name}: the data do not have shape {shape}, or are not {kind}") from None


def from_raw(name: str, kind: str, shape: list[int], raw: bytes) -> np.ndarray:
    """The array in binary form: little-endian, row by row; BYTES as lengths of 4 bytes, each before its element."""
    try:
        if kind != "BYTES":
            return np.frombuffer(raw, DTYPES[kind]).reshape(shape).copy()  # one that may be written to, as torch wants
        elements, place = [], 0
        while place < len(raw):
            (length,) = struct.unpack_from("<I", raw, place)
            place += 4 + length
            if place > len(raw):
                raise ValueError(length)
            elements.append(raw[place - length : place])
        return np.array(elements, dtype=object).reshape(shape)
    except (ValueError, struct.error):
        raise invalid(f"{name}: {len(raw)} bytes are no {kind} of shape {shape}") from None


def _element(name: str, value: object, content_type: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise invalid(f"{name}: BYTES in JSON are strings")
    if content_type != BASE64:
        return value.encode()
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"{name}: not base64, as its content_type says") from None


@dataclass(frozen=True)
class Spec:
    """One tensor: its type, or types of which the first is told, and its shape, where -1 is any.

    Numbers are finite, and whole numbers below `bins`.
    """

    name: str
    kinds: tuple[str, ...]
    shape: tuple[int, ...]
    optional: bool = False
    bins: int | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """As the protocol describes tensors of a model."""
        return {"name": self.name, "datatype": self.kinds[0], "shape": list(self.shape)}

    def check(self, array: np.ndarray) -> None:
        """Problem 400 when `array` is another tensor."""
        kind = datatype(array)
        if kind not in self.kinds:
            raise invalid(f"{self.name}: it is {kind}, not {' or '.join(self.kinds)}")
        fits = array.ndim == len(self.shape) and all(
            want in (-1, have) for want, have in zip(self.shape, array.shape, strict=True)
        )
        if not fits or not array.size:
            raise invalid(f"{self.name}: its shape is {list(array.shape)}, not {list(self.shape)}")
        if kind.startswith("FP") and not np.isfinite(array).all():
            raise invalid(f"{self.name}: a value is no finite number")
        if self.bins is not None and not (array.min() >= 0 and array.max() < self.bins):
            raise invalid(f"{self.name}: an id is outside of 0 … {self.bins - 1}")


@dataclass(frozen=True)
class Contract:
    """What a step takes and gives."""

    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]

    def check(self, given: Mapping[str, np.ndarray]) -> None:
        """Problem 400 unless these are the tensors that the step takes."""
        known = {spec.name for spec in self.inputs}
        if unknown := sorted(given.keys() - known):
            raise invalid(
                f"{unknown[0]}: no such input: this model takes {', '.join(spec.name for spec in self.inputs)}"
            )
        for spec in self.inputs:
            if spec.name in given:
                spec.check(given[spec.name])
            elif not spec.optional:
                raise invalid(f"{spec.name}: this input is missing")


def contracts(folder: Path, recipe: Recipe) -> dict[StepName, Contract]:
    """The contract of each step of the bundle in `folder`."""
    config = read_config(folder / "semantic")
    levels, kc = recipe.codec.levels, recipe.stages.coarse_levels
    visual = tuple(
        Spec(f"visual.{number}", ("FP32",), (-1, entry["width"])) for number, entry in enumerate(config["visual"])
    )
    joint = Spec("joint", ("FP32",), (config["joint_width"],), optional=True)
    seed, seconds = Spec("seed", ("INT64",), (1,)), Spec("seconds", ("FP64", "FP32"), (1,))
    semantic = Spec("semantic", ("INT64",), (1, -1), bins=recipe.semantic_ids.clusters)
    coarse = Spec("coarse", ("INT64",), (kc, -1), bins=recipe.codec.bins)
    fine = Spec("fine", ("INT64",), (levels - kc, -1), bins=recipe.codec.bins)
    audio, rate = Spec("audio", ("FP32",), (-1, -1)), Spec("sample_rate", ("INT32",), (1,))
    asked = (
        Spec("video", ("BYTES",), (1,)),
        Spec("prompt", ("BYTES",), (1,), optional=True),
        Spec("seed", ("INT64",), (1,), optional=True),
        Spec("seconds", ("FP32", "FP64"), (1,), optional=True),
    )
    takes = Spec("takes", ("INT64",), (1,), optional=True)
    agreement = Spec("agreement", ("FP64",), (-1,), optional=True)
    seen = (*visual, joint, seed, seconds)
    ids = (semantic, *(visual if recipe.stages.coarse_sees_video else ()), seed, seconds)
    return {
        "cascade": Contract((*asked, takes), (audio, rate, agreement)),
        "visual": Contract(asked, seen),
        "semantic": Contract(seen, ids),
        "coarse": Contract(ids, (coarse, seed, seconds)),
        "fine": Contract((coarse, seed, seconds), (coarse, fine, seconds)),
        "codec": Contract((coarse, fine, seconds), (audio, rate)),
    }


def number(given: Tensors, name: str) -> float | None:
    """The only number of a tensor, None without it. One in FP32 stands for the shortest decimal that it is nearest to:

    1.2 in FP32 is a little more than 1.2, which would make one more id.
    """
    return float(str(given[name][0])) if name in given else None
