"""What can be known of one video by decoding it: its clips, how each sounds, and its fingerprint.

Depends on nothing but the file's content and the recipe, so that it need be found out once. Knows neither the
catalogue that the video is part of nor what people wrote about it.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from v2meow.config import Recipe
from v2meow.data.fingerprint import PICTURE_SIDE, picture_hashes, sound_keys
from v2meow.data.manifest import CLIP_SLACK_S
from v2meow.data.measure import Sound, decibels, describe
from v2meow.data.scenes import find_cuts
from v2meow.data.similar import Fingerprint
from v2meow.media import Probe, Reader

_BLOCK_CLIPS = 32  # read at once when sound is measured: bounds memory for videos of hours
_PICTURES_HZ, _MOST_PICTURES = 2.0, 64  # of a fingerprint


class UnusableError(Exception):
    """Why one file is rejected; its text is for people."""


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A usable video: what the file holds, the sound of the clip at each start (seconds), and its fingerprint."""

    probe: Probe
    clips: dict[float, Sound]
    fingerprint: Fingerprint


def examine(recipe: Recipe, file: Path, reader: Reader) -> Examined:
    """Decode a video. Raises UnusableError with the reason why its content is no use, MediaError when it is damaged."""
    probe = reader.probe(file)
    starts = _starts(recipe, file, reader, probe)
    clips, keys = {}, []
    for first in range(0, len(starts), _BLOCK_CLIPS):
        block = starts[first : first + _BLOCK_CLIPS]
        rate, length = recipe.codec.sample_rate, recipe.data.clip_seconds
        waveform = reader.waveform(file, rate, block[0], block[-1] - block[0] + length)
        if not np.isfinite(waveform).all():
            raise UnusableError("soundtrack holds samples that are not numbers")
        keys.append(sound_keys(waveform, rate, block[0]))
        for start in block:
            at = round((start - block[0]) * rate)
            clips[start] = describe(waveform[at : at + round(length * rate)], rate)
    _demand_sound(recipe, clips)
    fingerprint = Fingerprint(np.unique(np.concatenate(keys), axis=0), _pictures(file, reader, probe))
    return Examined(probe=probe, clips=clips, fingerprint=fingerprint)


def _starts(recipe: Recipe, file: Path, reader: Reader, probe: Probe) -> list[float]:
    """Where clips start, in seconds, inside the common part of picture and sound, and between cuts if so asked."""
    length, hop, threshold = recipe.data.clip_seconds, recipe.data.hop_seconds, recipe.data.scene_threshold
    if probe.audio is None:
        raise UnusableError("no soundtrack: a training catalogue needs music")
    for what, seconds in (("video", probe.seconds), ("soundtrack", probe.audio.seconds)):
        if seconds + CLIP_SLACK_S < length:
            raise UnusableError(f"{what} of {seconds:.2f} s is shorter than a clip of {length:g} s")
    common = min(probe.seconds, probe.audio.seconds) + CLIP_SLACK_S
    if threshold == 0:
        return _spaced(0.0, common, length, hop)
    edges = [0.0, *(cut for cut in find_cuts(reader, file, probe.seconds, threshold) if 0 < cut < common), common]
    starts = [start for begin, end in pairwise(edges) for start in _spaced(begin, end, length, hop)]
    if not starts:
        raise UnusableError(f"no scene of {len(edges) - 1} is as long as a clip of {length:g} s")
    return starts


def _spaced(begin: float, end: float, length: float, hop: float) -> list[float]:
    """Starts of clips that lie between two times, `hop` seconds apart."""
    return [begin + index * hop for index in range(math.floor((end - begin - length) / hop) + 1)]


def _demand_sound(recipe: Recipe, clips: dict[float, Sound]) -> None:
    overall = decibels(float(np.mean([10 ** (sound.loudness_db / 10) for sound in clips.values()])))
    if overall < recipe.data.min_loudness_db:
        raise UnusableError(f"soundtrack is silent when mixed to mono ({overall:.1f} dBFS)")


def _pictures(file: Path, reader: Reader, probe: Probe) -> np.ndarray:
    """Hashes of pictures from all over the video."""
    rate = min(_PICTURES_HZ, _MOST_PICTURES / probe.seconds)
    return picture_hashes(reader.frames(file, rate, PICTURE_SIDE))
