"""The report: what a workspace measured as one HTML file that opens anywhere, offline.

Gathers and arranges; the words stand in `report.html.j2`, the pictures in `plots.py`. Measures
nothing itself. A part that the workspace lacks is said in a line of the page.
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from v2meow.config import STAGES, Recipe, load_recipe
from v2meow.data.manifest import REJECTED, read_rejected
from v2meow.evaluate import plots
from v2meow.evaluate.gate import BUNDLE, REPORTS
from v2meow.evaluate.samples import KINDS
from v2meow.evaluate.tables import Row, pairs, rows
from v2meow.files import atomic_file, read_json
from v2meow.media import read_wav
from v2meow.weights import METRICS

REPORT, CARD = REPORTS / "report.html", REPORTS / "MODEL_CARD.md"
SIGNIFICANT = 0.01  # p-values up to here are called evidence
_MEDIA_BYTES = 7_500_000  # of videos and sounds in the page, which keeps it under 12 MB
_ROWS = 200  # of a table that grows with the catalogue
_PICTURE, _WORDS = ("retrieval", "beats", "onsets", "level"), ("caption", "prompted", "conditioning")
_NAMES = {"correspondence.level": "level over time", "correspondence.conditioning": "prompted, own tower"}
_NO_FIGURES = dict.fromkeys(("low", "high", "count"))
_NOT_TOLD = _NO_FIGURES | dict.fromkeys(("candidate", "production"))
_NO_CONTROL = {"low": None, "high": None, "shifted": None, "trustworthy": True}


class ReportError(ValueError):
    """A workspace that nothing can be reported of."""


def write(workspace: Path) -> Path:
    """Write reports/report.html, whose path is returned, and reports/MODEL_CARD.md.

    ReportError before an evaluation, and for damaged JSON.
    """
    found = gather(workspace)
    pages = Environment(
        loader=PackageLoader("v2meow.evaluate", "."),
        autoescape=select_autoescape(("html.j2",), ("md.j2",), default=True),  # captions, file names come from anyone
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= _FILTERS
    for template, path in (("report.html.j2", REPORT), ("page/card.md.j2", CARD)):
        text = pages.get_template(template).render(found)
        with atomic_file(workspace / path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return workspace / REPORT


def gather(workspace: Path) -> dict[str, Any]:
    """Everything that the template shows, by the name it has there; None for a part that is missing."""
    reports = workspace / REPORTS
    metrics = _read(reports / "metrics.json")
    if metrics is None:
        raise ReportError(f"no evaluation in {workspace}: run `v2meow run` first")
    recipe = load_recipe(workspace / "recipe.yaml")
    encoders = {name: _read(workspace / "models/encoders" / name / METRICS) for name in ("codec", "joint")}
    rejected = read_rejected(workspace / REJECTED) if (workspace / REJECTED).exists() else []
    measured = metrics.get("correspondence") or {}
    samples, left_out = _samples(reports / "samples")
    return {
        "recipe": recipe,
        "metrics": metrics,
        "card": _text(workspace / BUNDLE / "MODEL_CARD.md"),
        "verdict": _verdict(reports / "verdict.json", metrics["bundle"]),
        "correspondence": correspondence(metrics),
        "judged": measured.get("retrieval"),
        "skipped": measured.get("skipped") or {},
        "significant": SIGNIFICANT,
        "samples": samples,
        "samples_left_out": left_out,
        "curves": _curves(workspace, encoders),
        "quality": _quality(metrics),
        "production_reason": (metrics.get("production") or {}).get("reason"),
        "production": [_NOT_TOLD | row for row in pairs(metrics.get("production"))],
        "baselines": side_by_side(metrics),
        "memorisation": _memorisation(metrics.get("memorisation")),
        "levels": _levels(recipe, metrics["loss"]),
        "encoders": encoders,
        "validate": _checks(reports / "validate.json"),
        "features": _checks(reports / "features.json"),
        "rejected": rejected[:_ROWS],
        "rejected_left_out": len(rejected[_ROWS:]),
    }


def correspondence(metrics: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Each agreement of music with `picture` and with `words`; `way` is how far it got from chance (0) to the real
    music (1), `key` its place in metrics.json."""
    found = {f"planted.{name}": row for name, row in (metrics["planted"] or {}).items()}
    if metrics["level"]:
        found["level"] = metrics["level"] | {"ceiling": 1.0}  # the real music's level is what it is compared with
    measured = metrics.get("correspondence") or {}
    found |= {f"correspondence.{name}": measured[name] for name in (*_PICTURE, *_WORDS) if measured.get(name)}
    told = [
        _NO_CONTROL | {"key": key, "name": _NAMES.get(key, key.split(".")[-1]), "way": _way(row)} | row
        for key, row in found.items()
    ]
    of_words = {f"correspondence.{name}" for name in _WORDS}
    return {
        "picture": [row for row in told if row["key"] not in of_words],
        "words": [row for row in told if row["key"] in of_words],
    }


def _quality(metrics: dict[str, Any]) -> list[Row]:
    """How the pieces sound: their distances from real music, and how much they surprise the model itself."""
    measured = {name: found for name, found in (metrics.get("quality") or {}).items() if name != "reference"}
    return [*rows(measured), *rows(metrics.get("surprise"), "surprise")]


def side_by_side(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """Each figure of the baselines (`rows`), of this model first, then of those that are named (`names`)."""
    baselines = {
        name: {row.name: row for row in rows(found)} for name, found in (metrics.get("baselines") or {}).items()
    }
    baselines = {name: found for name, found in baselines.items() if found}
    own = {row.name: row for part in (metrics, metrics.get("quality")) for row in rows(part)}
    figures = dict.fromkeys(figure for found in baselines.values() for figure in found)
    told = [
        {"name": figure, "figures": [found.get(figure) for found in (own, *baselines.values())]} for figure in figures
    ]
    return {"names": list(baselines), "rows": told} if told else None


def _way(row: dict[str, float]) -> float:
    span = row["ceiling"] - row["wrong"]
    return min(max((row["right"] - row["wrong"]) / span, 0.0), 1.0) if span > 0 else 0.0


def _verdict(path: Path, bundle: str) -> dict[str, Any] | None:
    """The gate's verdict on this very bundle, or None: an older one would be a lie."""
    verdict = _read(path)
    if not verdict or verdict["bundle"] != bundle:
        return None
    return verdict | {"criteria": [_NO_FIGURES | row for row in verdict["criteria"]]}


def _samples(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """Pieces to listen to with spectrograms, as many as the page can carry, and how many it cannot."""
    listed = _read(folder / "samples.json") or []
    shown, size = [], 0
    for sample in listed:
        files = {kind: _playable(folder / f"{sample['number']}-{kind}.wav") for kind in KINDS}
        files = {kind: path for kind, path in files.items() if path.exists()}  # one video alone has no control
        size += sum(path.stat().st_size for path in files.values())
        if size > _MEDIA_BYTES:
            break
        shown.append({"why": "", "control": ""} | sample | {"sounds": _sounds(files)})
    return shown, len(listed) - len(shown)


def _playable(sound: Path) -> Path:
    """The sound with its picture, where there is one."""
    video = sound.with_suffix(".mp4")
    return video if video.exists() else sound


def _sounds(files: dict[str, Path]) -> dict[str, dict[str, str | None]]:
    read = [read_wav(path.with_suffix(".wav")) for path in files.values()]
    pictures = plots.spectrograms([waveform for waveform, _ in read], read[0][1])
    kinds = {".mp4": ("video", "video/mp4"), ".wav": ("audio", "audio/wav")}
    sounds: dict[str, dict[str, str | None]] = {}
    for (name, path), picture in zip(files.items(), pictures, strict=True):
        key, kind = kinds[path.suffix]
        uri = plots.data_uri(path.read_bytes(), kind)
        sounds[name] = {"video": None, "audio": None, "picture": picture} | {key: uri}
    return sounds


def _memorisation(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """How many clips were completed, by length of prompt, drawn."""
    if not found:
        return None
    rows = found["continuation"]["prompts"]
    shares = {
        name: ([row[name]["approximate"] for row in rows], [row[name]["equal"] for row in rows])
        for name in ("train", "held_out")
    }
    picture = plots.completions(
        [row["prompt_s"] for row in rows], {"training clips": shares["train"], "held-out clips": shares["held_out"]}
    )
    return {"picture": picture, "train": shares["train"][0], "held_out": shares["held_out"][0]}


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


def _interval(row: Any) -> str:
    """The interval of a figure, or nothing."""
    low, high = (row.get("low"), row.get("high")) if isinstance(row, dict) else (row.low, row.high)
    return "" if low is None or high is None else f"{_number(low)} … {_number(high)}"


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def _limit(criterion: dict[str, Any]) -> str:
    """What a criterion of the gate asks for."""
    if criterion.get("not_worse_than_production"):
        return "no worse than production"
    limits = (("≥", criterion.get("at_least")), ("≤", criterion.get("at_most")))
    return ", ".join(f"{sign} {_number(limit)}" for sign, limit in limits if limit is not None)


def _outcome(criterion: dict[str, Any]) -> str:
    """What came of a criterion, in a word or two."""
    if criterion["passed"]:
        return "passed over" if criterion["value"] is None else "passed"
    return "too few" if criterion.get("outcome") == "insufficient" else "failed"


def _plain(text: str) -> str:
    """Text that comes from anyone, as it may stand in a table of Markdown: nothing in it is markup."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", " ".join(str(text).split()))


def _number(value: float | None) -> str:
    """Three digits that matter, and none that do not; a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _score(value: float | None) -> str:
    """Two places after the point, without a sign before nought; a dash for nothing."""
    return "–" if value is None else f"{round(value, 2) + 0.0:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}" if 0 < value < 0.01 else f"{value:.0%}"


def _meter(share: float) -> str:
    """A share of 0 … 1 as the width of a bar."""
    return f"{100 * share:.1f}%"


_FILTERS = {
    "interval": _interval,
    "limit": _limit,
    "meter": _meter,
    "number": _number,
    "outcome": _outcome,
    "percent": _percent,
    "plain": _plain,
    "score": _score,
}
