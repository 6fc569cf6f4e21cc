"""The figures of a catalogue drawn: bars for a terminal, and a page with bars as SVG that stands alone."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from v2meow.data.stats import Histogram, Stats
from v2meow.files import atomic_file

_ROWS = 20  # of names; the rest is summed up
_WIDTH, _BAR, _LABELS = 640, 18, 200  # pixels
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 44rem; padding: 0 1rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; }
svg { width: 100%; height: auto; } rect { fill: #3b7dd8; } text { fill: currentColor; font-size: 12px; }
"""

Bars = Sequence[tuple[str, float]]


def charts(stats: Stats) -> dict[str, Bars]:
    """Labels and values of every chart, by its title."""
    found: dict[str, Bars] = {
        "Hours by split": list(stats.hours_by_split.items()),
        "Hours by genre": _shortened(stats.hours_by_genre),
        "Videos by licence": _shortened(stats.videos_by_licence),
    }
    return found | {f"Videos by {histogram.words}": _bins(histogram) for histogram in stats.histograms}


def bar(value: float, most: float, width: int) -> str:
    """A bar of at most `width` characters, to an eighth of one."""
    eighths = round(8 * width * value / most) if most > 0 else 0
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def write_page(path: Path, stats: Stats) -> None:
    """Write the page atomically; the same figures give the same bytes."""
    title = f"{stats.videos} videos, {stats.clips} clips, {stats.hours:.1f} hours"
    parts = [f"<h2>{html.escape(name)}</h2>\n{_svg(name, bars)}" for name, bars in charts(stats).items() if bars]
    text = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"</head><body>\n<h1>{title}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def number(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"


def _shortened(sums: Mapping[str, float]) -> Bars:
    rows = list(sums.items())
    others = sum(value for _, value in rows[_ROWS:])
    return [*rows[:_ROWS], *([(f"{len(rows) - _ROWS} others", others)] if others else [])]


def _bins(histogram: Histogram) -> Bars:
    pairs = zip(histogram.edges[:-1], histogram.edges[1:], strict=True)
    labels = (f"{low:.4g}" if low == high else f"{low:.4g} … {high:.4g}" for low, high in pairs)
    return list(zip(labels, histogram.counts, strict=True))


def _svg(name: str, bars: Bars) -> str:
    most = max(value for _, value in bars) or 1.0
    rows = []
    for index, (label, value) in enumerate(bars):
        y, length = index * (_BAR + 4), (_WIDTH - _LABELS - 60) * value / most
        rows.append(
            f'<text x="{_LABELS - 8}" y="{y + 14}" text-anchor="end">{html.escape(label[:32])}</text>'
            f'<rect x="{_LABELS}" y="{y}" width="{length:.1f}" height="{_BAR}"/>'
            f'<text x="{_LABELS + length + 6:.1f}" y="{y + 14}">{number(value)}</text>'
        )
    height = len(bars) * (_BAR + 4)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{html.escape(name)}">' + "".join(rows) + "</svg>"
    )
