"""The report: what a workspace measured as one HTML file that opens anywhere, offline.

Gathers and arranges; the words stand in `report.html.j2`, the pictures in `plots.py`. Measures
nothing itself. A part that the workspace lacks is said in a line of the page.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from v2meow.config import STAGES, Recipe, load_recipe
from v2meow.data.manifest import REJECTED, read_rejected
from v2meow.evaluate import plots
from v2meow.evaluate.gate import REPORTS
from v2meow.files import atomic_file, read_json
from v2meow.media import read_wav
from v2meow.weights import METRICS

REPORT = REPORTS / "report.html"
SIGNIFICANT = 0.01  # p-values up to here are called evidence
_AUDIO_BYTES = 4_500_000  # of WAV files in the page, which keeps it under 8 MB
_ROWS = 200  # of a table that grows with the catalogue


class ReportError(ValueError):
    """A workspace that nothing can be reported of."""


def write(workspace: Path) -> Path:
    """Write reports/report.html and return its path. ReportError before an evaluation, and for damaged JSON."""
    path = workspace / REPORT
    pages = Environment(
        loader=PackageLoader("v2meow.evaluate", "."),
        autoescape=True,  # captions and file names come from anyone
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"number": _number, "percent": _percent, "meter": _meter}
    page = pages.get_template("report.html.j2").render(gather(workspace))
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def gather(workspace: Path) -> dict[str, Any]:
    """Everything that the template shows, by the name it has there; None for a part that is missing."""
    reports = workspace / REPORTS
    metrics = _read(reports / "metrics.json")
    if metrics is None:
        raise ReportError(f"no evaluation in {workspace}: run `v2meow run` first")
    recipe = load_recipe(workspace / "recipe.yaml")
    encoders = {name: _read(workspace / "models/encoders" / name / METRICS) for name in ("codec", "joint")}
    rejected = read_rejected(workspace / REJECTED) if (workspace / REJECTED).exists() else []
    samples, left_out = _samples(reports / "samples")
    return {
        "recipe": recipe,
        "metrics": metrics,
        "verdict": _verdict(reports / "verdict.json", metrics["bundle"]),
        "correspondence": correspondence(metrics),
        "significant": SIGNIFICANT,
        "samples": samples,
        "samples_left_out": left_out,
        "curves": _curves(workspace, encoders),
        "levels": _levels(recipe, metrics["loss"]),
        "encoders": encoders,
        "validate": _checks(reports / "validate.json"),
        "features": _checks(reports / "features.json"),
        "rejected": rejected[:_ROWS],
        "rejected_left_out": len(rejected[_ROWS:]),
    }


def correspondence(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Each agreement of music with picture; `way` is how far it got from chance (0) to the real music (1)."""
    found = dict(metrics["planted"] or {})
    if metrics["level"]:
        found["level"] = metrics["level"] | {"ceiling": 1.0}  # the real music's level is what it is compared with
    return [{"name": name, "way": _way(row)} | row for name, row in found.items()]


def _way(row: dict[str, float]) -> float:
    span = row["ceiling"] - row["wrong"]
    return min(max((row["right"] - row["wrong"]) / span, 0.0), 1.0) if span > 0 else 0.0


def _verdict(path: Path, bundle: str) -> dict[str, Any] | None:
    """The gate's verdict on this very bundle, or None: an older one would be a lie."""
    verdict = _read(path)
    return verdict if verdict and verdict["bundle"] == bundle else None


def _samples(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """Pairs to listen to with spectrograms, as many as the page can carry, and how many it cannot."""
    listed = _read(folder / "samples.json") or []
    shown, size = [], 0
    for sample in listed:
        paths = {kind: folder / f"{sample['number']}-{kind}.wav" for kind in ("real", "generated")}
        size += sum(path.stat().st_size for path in paths.values())
        if size > _AUDIO_BYTES:
            break
        shown.append(sample | {"sounds": _sounds(paths)})
    return shown, len(listed) - len(shown)


def _sounds(paths: dict[str, Path]) -> dict[str, dict[str, str]]:
    read = [read_wav(path) for path in paths.values()]
    pictures = plots.spectrograms([waveform for waveform, _ in read], read[0][1])
    return {
        kind: {"audio": plots.data_uri(path.read_bytes(), "audio/wav"), "picture": picture}
        for (kind, path), picture in zip(paths.items(), pictures, strict=True)
    }


def _curves(workspace: Path, encoders: dict[str, Any]) -> list[dict[str, Any]]:
    """Whatever was trained here by gradient descent, with its loss curve drawn."""
    trained = {f"{name} stage": _read(workspace / "models" / name / METRICS) for name in STAGES}
    trained |= {"codec": encoders["codec"], "music-text model": encoders["joint"]}
    return [_curve(name, figures) for name, figures in trained.items() if figures and figures.get("curve")]


def _curve(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    made = [point for point in figures["curve"] if point["loss"] is not None]  # a skipped step's is no number
    steps, losses = (np.array([point[key] for point in made]) for key in ("step", "loss"))
    smoothed, held_out = plots.smooth(losses), figures.get("holdout_loss")
    return {
        "name": name,
        "parameters": figures.get("parameters"),
        "first": float(smoothed[0]),
        "last": float(smoothed[-1]),
        "held_out": held_out,
        "picture": plots.loss_curve(steps, losses, held_out),
    }


def _levels(recipe: Recipe, losses: dict[str, Any]) -> dict[str, Any]:
    """Held-out loss of every codec level, first the coarse stage's, then the fine stage's."""
    by_level = [*losses["coarse"]["by_level"], *losses["fine"]["by_level"]]
    uniform = math.log(recipe.codec.bins)
    return {"losses": by_level, "uniform": uniform, "picture": plots.level_losses(by_level, uniform)}


def _checks(path: Path) -> dict[str, Any] | None:
    """A report of checks, with the failed ones first and of these the critical ones."""
    report = _read(path)
    if report is None:
        return None
    order = sorted(report["checks"], key=lambda check: (check["success"], check["severity"] != "critical"))
    return report | {"checks": order, "failed": sum(not check["success"] for check in order)}


def _read(path: Path) -> Any:
    """What a JSON file holds, or None where there is no such file."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ReportError(str(error)) from error


def _number(value: float | None) -> str:
    """Three digits that matter, and none that do not; a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}" if 0 < value < 0.01 else f"{value:.0%}"


def _meter(share: float) -> str:
    """A share of 0 … 1 as the width of a bar."""
    return f"{100 * share:.1f}%"
