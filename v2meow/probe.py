"""A model as a client of the service meets it: music asked for over HTTP, measured, and judged.

Knows the service's API, never what serves it.
"""

import io
import os
import tempfile
import time
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np

from v2meow.config import PromotionConfig
from v2meow.media import write_video

KEY_VARIABLE = "V2MEOW_API_KEY"  # of the service, where it asks for one
_FPS, _SIDE, _RATE = 10, 64, 16_000
_TIMEOUT_S = 180.0
_FULL_SCALE = 0.999
_SLACK_S = 0.05  # of a codec frame, by which music may be longer or shorter than the video
_SILENCE_DB = -120.0


class ProbeError(RuntimeError):
    """A service that cannot be asked; the message is one line for people."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of one request: `error`, else seconds until all was there, and what it sounds like."""

    error: str = ""
    took_s: float = 0.0
    seconds: float = 0.0
    loudness_db: float = _SILENCE_DB  # RMS, dBFS
    clipped_share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A trial's figures, and every reason why it was not passed."""

    numbers: dict[str, float]
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.reasons


def served(endpoint: str) -> dict[str, str]:
    """The version that each served name stands for at the service, such as v2meow@staging: v2meow@v3."""
    try:
        answer = httpx.get(f"{endpoint.rstrip('/')}/v1/models", headers=_headers(), timeout=10.0).raise_for_status()
        return {model["name"]: model["version"] for model in answer.json()["models"]}
    except (httpx.HTTPError, ValueError, LookupError) as error:
        raise ProbeError(f"{endpoint} does not say what it serves: {error}") from error


def ask(endpoint: str, model: str, seconds: float, seed: int = 0) -> Answer:
    """Have `model` score a silent video of that length, and listen."""
    with tempfile.TemporaryDirectory() as folder:
        video = silent_video(Path(folder) / "probe.mp4", seconds).read_bytes()
    began = time.monotonic()
    try:
        answer = httpx.post(
            f"{endpoint.rstrip('/')}/v1/generations",
            files={"video": ("probe.mp4", video, "video/mp4")},
            data={"model": model, "seed": str(seed)},
            headers=_headers(),
            timeout=_TIMEOUT_S,
        ).raise_for_status()
        return _heard(answer.content, time.monotonic() - began)
    except (httpx.HTTPError, wave.Error, EOFError) as error:
        return Answer(error=f"{type(error).__name__}: {error}".splitlines()[0])


def failures(endpoint: str, version: str) -> tuple[float, float]:
    """How many requests of anybody the service has failed with this version, and how many it has finished."""
    try:
        lines = httpx.get(f"{endpoint.rstrip('/')}/metrics", timeout=10.0).raise_for_status().text.splitlines()
    except httpx.HTTPError as error:
        raise ProbeError(f"{endpoint} shows no metrics: {error}") from error
    ours = [line.rsplit(" ", 1) for line in lines if f'model="{version}"' in line]
    failed = sum(float(value) for name, value in ours if name.startswith("ray_v2meow_failed_generations"))
    done = sum(float(value) for name, value in ours if name.startswith("ray_v2meow_generation_seconds_count"))
    return failed, done


def judge(
    asked: Sequence[Answer], beside: Sequence[Answer], limits: PromotionConfig, others: tuple[float, float] = (0.0, 0.0)
) -> Finding:
    """A model's answers against the recipe's limits and the answers of production.

    `others` are the requests of other clients that failed, and that were finished, meanwhile.
    """
    good = [answer for answer in asked if not answer.error]
    total = len(asked) + sum(others)
    numbers = {
        "requests": float(total),
        "error_share": (len(asked) - len(good) + others[0]) / total if total else 1.0,
    }
    reasons = [f"asked in vain: {answer.error}" for answer in asked if answer.error][:1]
    if numbers["error_share"] > limits.max_error_share:
        reasons.append(f"{numbers['error_share']:.0%} of requests failed, {limits.max_error_share:.0%} may")
    if good:
        numbers |= {
            "seconds_until_done": median(answer.took_s for answer in good),
            "quietest_db": min(answer.loudness_db for answer in good),
            "clipped_share": max(answer.clipped_share for answer in good),
        }
        reasons += _heard_faults(good, numbers, limits)
    usual = [answer.took_s for answer in beside if not answer.error]
    if good and usual:
        numbers["slowdown"] = numbers["seconds_until_done"] / median(usual)
        if numbers["slowdown"] > limits.max_slowdown:
            reasons.append(f"takes {numbers['slowdown']:.1f} times as long as production, {limits.max_slowdown:g} may")
    return Finding(numbers=numbers, reasons=tuple(reasons))


def report(found: Finding, bundle: str) -> dict[str, Any]:
    """The finding on the bundle with that hash, as the registry takes it."""
    return {"passed": found.passed, "bundle": bundle, "numbers": found.numbers, "reasons": list(found.reasons)}


def silent_video(path: Path, seconds: float) -> Path:
    """A new file: a picture that changes with time, and silence."""
    pictures = (np.full((_SIDE, _SIDE, 3), 12 * number % 256, np.uint8) for number in range(round(seconds * _FPS)))
    write_video(path, pictures, _FPS, np.zeros(round(seconds * _RATE), np.float32), _RATE)
    return path


def _heard_faults(good: list[Answer], numbers: dict[str, float], limits: PromotionConfig) -> list[str]:
    faults = []
    wrong = [answer.seconds for answer in good if abs(answer.seconds - limits.seconds) > _SLACK_S]
    if wrong:
        faults.append(f"{wrong[0]:.2f} s of music for a video of {limits.seconds:g} s")
    if numbers["quietest_db"] < limits.min_loudness_db:
        faults.append(f"silence: {numbers['quietest_db']:.0f} dBFS, {limits.min_loudness_db:g} is the least")
    if numbers["clipped_share"] > limits.max_clipped_share:
        faults.append(f"clipping: {numbers['clipped_share']:.1%} of samples, {limits.max_clipped_share:.1%} may")
    return faults


def _heard(content: bytes, took_s: float) -> Answer:
    with wave.open(io.BytesIO(content)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32767
    if not len(samples):
        return Answer(error="no sound came", took_s=took_s)
    loudness = 10 * np.log10(max(float(np.square(samples).mean()), 1e-12))
    return Answer(
        took_s=took_s,
        seconds=len(samples) / rate,
        loudness_db=float(loudness),
        clipped_share=float((np.abs(samples) >= _FULL_SCALE).mean()),
    )


def _headers() -> dict[str, str]:
    key = os.environ.get(KEY_VARIABLE)
    return {"Authorization": f"Bearer {key}"} if key else {}
