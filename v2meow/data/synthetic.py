"""A synthetic catalogue with a planted correspondence between picture and music.

Four factors of the music determine four factors of the picture, and a caption says so:

    tempo  (beats a minute)              → speed: one orbit of the shape every four beats, a pulse on each beat
    mode   (major, minor)                → hue: warm, cold
    timbre (flute, strings, clarinet, bell) → shape: circle, triangle, square, diamond
    energy (0 … 1: level and percussion) → brightness

Key, melody, orbit and phase vary freely. Because the truth is known, whether generated music follows
a video can be measured. The files are ordinary MP4s with sidecars and go through the same ingest as
any other video; nothing later in the pipeline knows that they were made here.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from v2meow.files import write_json
from v2meow.media import write_video
from v2meow.progress import progress
from v2meow.workspace import watch_owner

SAMPLE_RATE = 44_100
FPS = 15
PICTURE = 128  # pixels, square
SECONDS = 6.0

TIMBRES = ("flute", "strings", "clarinet", "bell")
SHAPES: dict[str, str] = dict(zip(TIMBRES, ("circle", "triangle", "square", "diamond"), strict=True))
HUES = {"major": (20.0, 60.0), "minor": (200.0, 250.0)}  # degrees
TEMPO = (70.0, 160.0)  # beats a minute
LEVEL_DB = (-32.0, -14.0)  # dBFS RMS at energy 0 and 1

_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_PROGRESSIONS = {"major": ((0, 3, 4, 0), (0, 4, 5, 3)), "minor": ((0, 5, 2, 6), (0, 3, 4, 0))}  # degrees of the scale
_KEYS = (0, 2, 5, 7)  # semitones above C


@dataclass(frozen=True, kw_only=True)
class Factors:
    """What is planted in one video. `tempo` in beats a minute, `energy` in 0 … 1."""

    tempo: float
    mode: str
    timbre: str
    energy: float


def make(folder: Path, seed: int, videos: int) -> None:
    """Write `videos` MP4s with sidecars into `folder`, the same bytes for the same seed.

    Files that are already there are kept, so an interrupted call is continued by the next.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(videos) if not _paths(folder, index)[1].exists()]
    if not missing:
        return
    workers = min(len(missing), os.cpu_count() or 1)
    with (
        progress("make the synthetic catalogue", len(missing)) as bar,
        ProcessPoolExecutor(workers, initializer=watch_owner) as pool,
    ):
        for _ in pool.map(_make_one, [folder] * len(missing), [seed] * len(missing), missing):
            bar.advance()


def _paths(folder: Path, index: int) -> tuple[Path, Path]:
    return folder / f"synthetic-{index:04d}.mp4", folder / f"synthetic-{index:04d}.json"


def _make_one(folder: Path, seed: int, index: int) -> None:
    random = np.random.default_rng((seed, index))
    factors = draw_factors(random, index)
    video, sidecar = _paths(folder, index)
    write_video(video, draw_frames(factors, random, SECONDS), FPS, play(factors, random, SECONDS), SAMPLE_RATE)
    write_json(sidecar, {"caption": caption(factors, random), "attributes": asdict(factors)})  # last: marks the pair


def draw_factors(random: np.random.Generator, index: int) -> Factors:
    """Factors of video number `index`; timbre and mode cycle, so that every combination is equally frequent."""
    return Factors(
        tempo=round(float(random.uniform(*TEMPO)), 1),
        mode=("major", "minor")[index // len(TIMBRES) % 2],
        timbre=TIMBRES[index % len(TIMBRES)],
        energy=round(float(random.uniform(0, 1)), 3),
    )


def caption(factors: Factors, random: np.random.Generator) -> str:
    """One of several ways to say the factors in English."""
    pace = "slow" if factors.tempo < 95 else "fast" if factors.tempo > 130 else "moderate"
    level = "quiet" if factors.energy < 0.33 else "loud" if factors.energy > 0.66 else "medium"
    mood = "bright" if factors.mode == "major" else "dark"
    patterns = (
        "{pace} {level} {timbre} music in a {mode} key, {mood}",
        "a {mood} {mode} piece played by a {timbre}, {pace} and {level}",
        "{level}, {pace} {timbre} melody, {mood} {mode} harmony",
    )
    pattern = patterns[random.integers(len(patterns))]
    return pattern.format(pace=pace, level=level, mood=mood, timbre=factors.timbre, mode=factors.mode)


def play(factors: Factors, random: np.random.Generator, seconds: float) -> np.ndarray:
    """The music of `factors`: float32 [T] at SAMPLE_RATE, its first beat at time 0."""
    music = np.zeros(round((seconds + 2) * SAMPLE_RATE))
    beat = 60 / factors.tempo
    key = _KEYS[random.integers(len(_KEYS))]
    progression = _PROGRESSIONS[factors.mode][random.integers(2)]
    order = random.permutation(4)  # of the arpeggio, kept for the whole piece
    for half in range(int(seconds / beat * 2) + 1):
        start, degree = half * beat / 2, progression[half // 8 % 4]
        step = (0, 2, 4, 7)[order[half % 4]]
        _add(music, start, _note(factors.timbre, _pitch(factors.mode, key, degree + step, octave=5), beat * 0.5))
        if half % 2 == 0:
            bass = _note(factors.timbre, _pitch(factors.mode, key, degree, octave=3), beat * 0.9)
            _add(music, start, 0.7 * bass)
        _add_percussion(music, start, half, factors.energy, random)
    music = music[: round(seconds * SAMPLE_RATE)]
    level = 10 ** (np.interp(factors.energy, (0, 1), LEVEL_DB) / 20)
    music *= level / np.sqrt(np.mean(music**2))
    return (0.98 * np.tanh(music / 0.98)).astype(np.float32)  # soft: peaks of loud pieces never clip


def _pitch(mode: str, key: int, degree: int, octave: int) -> float:
    """Frequency in Hz of a degree of the scale."""
    scale = _SCALES[mode]
    semitones = key + scale[degree % 7] + 12 * (degree // 7 + octave - 4)
    return 261.63 * 2 ** (semitones / 12)


def _note(timbre: str, frequency: float, seconds: float) -> np.ndarray:
    """One note: harmonics and envelope are what tells the four timbres apart."""
    ring = 0.9 if timbre == "bell" else 0.08
    time = np.arange(round((seconds + ring) * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE  # sines are 4 times faster
    partials = {
        "flute": ((1, 1.0), (2, 0.12)),
        "strings": tuple((n, 1 / n) for n in range(1, 11)),
        "clarinet": tuple((n, 1 / n) for n in range(1, 12, 2)),
        "bell": ((1, 1.0), (2.76, 0.6), (5.4, 0.35)),
    }[timbre]
    omega = np.float32(2 * np.pi * frequency)
    tone = sum(gain * np.sin(n * omega * time) for n, gain in partials if n * frequency < 12_000)
    if timbre == "bell":
        return tone * np.exp(-time / 0.25) * np.minimum(time / 0.002, 1)
    attack = {"flute": 0.04, "strings": 0.06, "clarinet": 0.015}[timbre]
    return tone * np.minimum(time / attack, 1) * np.clip((seconds + ring - time) / ring, 0, 1)


def _add_percussion(music: np.ndarray, start: float, half: int, energy: float, random: np.random.Generator) -> None:
    """Kick on the beat above energy 0.35, hat between the beats above 0.65; both grow with energy."""
    time = np.arange(round(0.15 * SAMPLE_RATE)) / SAMPLE_RATE
    if half % 2 == 0 and energy > 0.35:
        _add(
            music,
            start,
            2.0 * energy * np.sin(2 * np.pi * 55 * time + 8 * (1 - np.exp(-time / 0.02))) * np.exp(-time / 0.05),
        )
    if half % 2 == 1 and energy > 0.65:
        _add(music, start, 0.8 * energy * random.standard_normal(len(time)) * np.exp(-time / 0.015))


def _add(music: np.ndarray, start: float, sound: np.ndarray) -> None:
    first = round(start * SAMPLE_RATE)
    part = sound[: max(0, len(music) - first)]
    music[first : first + len(part)] += part


def draw_frames(factors: Factors, random: np.random.Generator, seconds: float) -> Iterator[np.ndarray]:
    """The picture of `factors`: uint8 [PICTURE, PICTURE, 3] RGB frames at FPS."""
    value = 0.25 + 0.75 * factors.energy
    colour = 255 * _rgb(random.uniform(*HUES[factors.mode]), 0.85, value)
    ground = 255 * _rgb(random.uniform(*HUES[factors.mode]), 0.5, 0.35 * value)
    radius_x, radius_y = random.uniform(22, 34, size=2)
    size, phase = random.uniform(16, 22), random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:PICTURE, 0:PICTURE].astype(np.float32) - (PICTURE - 1) / 2
    for frame in range(round(seconds * FPS)):
        beats = frame / FPS * factors.tempo / 60
        angle = phase + 2 * np.pi * beats / 4
        scale = size * (1 + 0.3 * np.exp(-(beats % 1) * 60 / factors.tempo / 0.1))
        distance = _distance(SHAPES[factors.timbre], x - radius_x * np.cos(angle), y - radius_y * np.sin(angle), scale)
        inside = np.clip(0.5 - distance, 0, 1)[..., None].astype(np.float32)  # antialiased edge
        yield (ground + inside * (colour - ground)).astype(np.uint8)


def _distance(shape: str, x: np.ndarray, y: np.ndarray, size: float) -> np.ndarray:
    """Signed distance in pixels to the outline of a shape centred at the origin (negative inside)."""
    if shape == "circle":
        return np.hypot(x, y) - size
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.89 * size
    if shape == "diamond":
        return (np.abs(x) + np.abs(y) - 1.25 * size) / np.sqrt(2)
    half = np.sqrt(3) / 2  # triangle, standing on its base
    return np.maximum(half * np.abs(x) - y / 2, y) - 0.62 * size


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """HSV (hue in degrees, others in 0 … 1) as RGB in 0 … 1."""
    channel = (np.array([5.0, 3.0, 1.0]) + hue / 60) % 6
    rgb = value - value * saturation * np.clip(np.minimum(channel, 4 - channel), 0, 1)
    return rgb.astype(np.float32)


def read_factors(attributes: dict) -> Factors | None:
    """Factors from a clip's attributes, or None for a video that was not made here."""
    try:
        return Factors(**{name: attributes[name] for name in ("tempo", "mode", "timbre", "energy")})
    except KeyError:
        return None


__all__ = ["TIMBRES", "Factors", "caption", "draw_factors", "draw_frames", "make", "play", "read_factors"]
