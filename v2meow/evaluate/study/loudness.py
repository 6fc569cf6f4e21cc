"""Making music equally loud: what is louder is preferred, whatever it is like."""

import numpy as np

from v2meow.data.measure import SILENCE_LUFS, lufs

_PEAK = 0.99


def equally_loud(waveforms: list[np.ndarray], rate: int, target: float) -> list[np.ndarray]:
    """Sounds, mono float32 [T] at `rate`, at `target` LUFS, or all at the next lower loudness at which none clips.

    What is silent stays as it is.
    """
    measured = [lufs(one, rate) for one in waveforms]
    peaks = [float(np.abs(one).max(initial=0.0)) for one in waveforms]
    heard = [(level, peak) for level, peak in zip(measured, peaks, strict=True) if level > SILENCE_LUFS]
    common = min([target, *(level + 20 * np.log10(_PEAK / peak) for level, peak in heard)])
    gains = [10 ** ((common - level) / 20) if level > SILENCE_LUFS else 1.0 for level in measured]
    return [(one * gain).astype(np.float32) for one, gain in zip(waveforms, gains, strict=True)]
