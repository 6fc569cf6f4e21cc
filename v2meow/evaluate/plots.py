"""Pictures of the report as `data:` URIs: loss curves and losses by level (SVG), spectrograms (PNG).

Knows curves and waveforms, not where they come from. Ink follows the reader's light or dark scheme.
"""

import base64
import io
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave

from v2meow.encoders.mel import FLOOR, log_mel

_RAW_POINTS = 1000  # of a curve: more cannot be told apart, and would make the page heavy
_BLUE, _ORANGE = "#3b82f6", "#f97316"
_INK = "#010203"  # stands for the colour of text, which only the reader's browser knows
_SCHEMES = "<style>svg{color:#333}@media(prefers-color-scheme:dark){svg{color:#ccc}}</style>"
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "svg.hashsalt": "v2meow",  # equal input gives equal bytes
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}


def data_uri(content: bytes, kind: str) -> str:
    """Bytes as a `data:` URI of the media type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def loss_curve(steps: np.ndarray, losses: np.ndarray, held_out: float | None) -> str:
    """Losses [N] by step [N], as measured and smoothed; `held_out` is drawn as a level."""
    thin = max(1, len(steps) // _RAW_POINTS)
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(width=4.2, height=2.5)
        axes.plot(steps[::thin], losses[::thin], color=_BLUE, alpha=0.3, linewidth=0.8)
        axes.plot(steps[::thin], smooth(losses)[::thin], color=_BLUE, linewidth=1.6, label="training, smoothed")
        if held_out is not None:
            axes.axhline(held_out, color=_ORANGE, linestyle="--", linewidth=1.4, label=f"held-out, {held_out:.2f}")
        axes.set(xlabel="step", ylabel="loss")
        axes.legend(frameon=False, fontsize=8)
        return _svg(figure)


def smooth(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a twentieth of [N]; at the ends over the part of it that there is."""
    window = np.ones(max(1, len(values) // 20))
    ones = np.ones(len(values))
    return np.convolve(values, window, "same") / np.convolve(ones, window, "same")


def level_losses(losses: list[float], uniform: float) -> str:
    """Held-out loss of each codec level (nats a code), against that of guessing all codes alike."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(width=5.6, height=2.5)
        bars = axes.bar([str(level) for level in range(1, len(losses) + 1)], losses, color=_BLUE, width=0.6)
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
        axes.axhline(uniform, color=_ORANGE, linestyle="--", linewidth=1.2, label=f"guessing, {uniform:.2f}")
        axes.set(xlabel="codec level", ylabel="nats a code")
        axes.margins(y=0.2)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        return _svg(figure)


def completions(prompts: list[float], shares: dict[str, tuple[list[float], list[float]]]) -> str:
    """By seconds of prompt, for each name the shares of clips completed (solid) and of ids that are right (dashed)."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(width=5.6, height=2.5)
        for (name, (completed, equal)), colour in zip(shares.items(), (_BLUE, _ORANGE), strict=True):
            axes.plot(prompts, completed, color=colour, marker="o", markersize=4, linewidth=1.6, label=name)
            axes.plot(prompts, equal, color=colour, linestyle="--", linewidth=1.2)
        axes.set(xlabel="seconds of prompt", ylabel="share", ylim=(-0.03, 1.03))
        axes.legend(frameon=False, fontsize=8)
        return _svg(figure)


def spectrograms(waves: list[np.ndarray], sample_rate: int) -> list[str]:
    """Log-mel spectrograms of waveforms [T] on one colour scale: time to the right, pitch upwards."""
    window = 1 << round(np.log2(sample_rate * 0.064))
    mels = [
        log_mel(torch.from_numpy(wave)[None], sample_rate=sample_rate, window=window, hop=window // 4, mels=80)[0]
        for wave in waves
    ]
    top = max(float(mel.max()) for mel in mels)
    return [_png(mel.T.numpy(), np.log(FLOOR), max(top, np.log(FLOOR) + 1)) for mel in mels]


def _png(values: np.ndarray, low: float, high: float) -> str:
    buffer = io.BytesIO()
    imsave(buffer, values, cmap="magma", vmin=low, vmax=high, origin="lower", format="png")
    return data_uri(buffer.getvalue(), "image/png")


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue().replace(_INK, "currentColor").replace("<defs>", f"{_SCHEMES}<defs>", 1)
    return data_uri(text.encode(), "image/svg+xml")
