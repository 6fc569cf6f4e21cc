"""Does something come in in the music when something happens in the picture?

Legend: N clips, F moments.
"""

import numpy as np

from v2meow.data.manifest import read_clips
from v2meow.evaluate import beats, listen
from v2meow.evaluate.agreement import Scores
from v2meow.evaluate.look import RATE, Seen, look
from v2meow.evaluate.material import Material
from v2meow.evaluate.resampling import pearson
from v2meow.evaluate.retrieval import SkipError

_SMOOTH_S = 0.2  # movement and sound are compared in moments of this length
_CURVES = {"onsets": listen.onset_strength, "level": listen.level_curve}


def scores(material: Material) -> tuple[list[int], dict[str, Scores]]:
    """The rows of the clips that can be seen and in which anything moves, and `beats`, `onsets` and `level` of them."""
    watched = _watched(material)
    found = [(row, seen) for row, seen in enumerate(watched) if seen is not None and not seen.is_still]
    if len(found) < 2:
        unread = sum(seen is None for seen in watched)
        raise SkipError(f"{len(found)} of {len(watched)} videos move, {unread} cannot be read: no control for them")
    rows, seen = [row for row, _ in found], [each for _, each in found]
    seconds, rate = material.recipe.data.clip_seconds, material.recipe.codec.sample_rate
    sounds = [material.generated.waveforms[rows], material.real.waveforms[rows]]
    change = beats.smoothed(np.stack([each.change for each in seen]), RATE, _SMOOTH_S)
    onsets = [listen.onset_times(sound, rate) for sound in sounds]
    result = {"beats": _beats(onsets, [each.events for each in seen], seconds)}
    for name, curve in _CURVES.items():
        result[name] = _correlations([_at_moments(curve(sound, rate), change.shape[1]) for sound in sounds], change)
    return rows, result


def _watched(material: Material) -> list[Seen | None]:
    by_id = {clip.clip_id: clip for clip in read_clips(material.workspace)}
    known = [name for name in material.examples.clip_id if name in by_id]
    seen = dict(zip(known, look(material.recipe, material.workspace, [by_id[name] for name in known]), strict=True))
    return [seen.get(name) for name in material.examples.clip_id]


def _beats(onsets: list[list[np.ndarray]], events: list[np.ndarray], seconds: float) -> Scores:
    late = [beats.moved(times, seconds / 2, seconds) for times in events]
    generated, real = (beats.f_scores(heard, events) for heard in onsets)
    moved = [
        np.array([beats.f_measure(music, times) for music, times in zip(heard, late, strict=True)]) for heard in onsets
    ]
    return Scores(generated=generated, real=real, generated_shifted=moved[0], real_shifted=moved[1])


def _correlations(heard: list[np.ndarray], change: np.ndarray) -> Scores:
    late = np.roll(change, change.shape[1] // 2, axis=1)
    generated, real = (beats.correlations(curves, change) for curves in heard)
    moved = [pearson(curves, late) for curves in heard]
    return Scores(generated=generated, real=real, generated_shifted=moved[0], real_shifted=moved[1])


def _at_moments(curves: np.ndarray, count: int) -> np.ndarray:
    """Curves of the music [N, F], smoothed, at the `count` moments at which the picture was looked at."""
    smooth = beats.smoothed(curves, listen.ENVELOPE_RATE, _SMOOTH_S)
    moments, places = np.arange(count) / RATE, np.arange(curves.shape[1]) / listen.ENVELOPE_RATE
    return np.stack([np.interp(moments, places, curve) for curve in smooth])
