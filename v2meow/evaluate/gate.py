"""The step `gate`: every criterion of the recipe against metrics.json; the verdict is written, passed or not.

A criterion asks that a figure keeps a limit, or that the model is not worse than the one in production on the same
clips. Where there are too few clips to say, it fails and says how many are needed: silence is no evidence.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from v2meow import bundle
from v2meow.config import CriterionConfig, Recipe
from v2meow.evaluate.statistics import worse_by
from v2meow.files import read_json, sha256, write_json

BUNDLE, REPORTS = Path("models/bundle"), Path("reports")  # of a workspace

Outcome = Literal["pass", "fail", "insufficient", "passed over"]
_MAIN = ("value", "right", "difference", "mean")  # of a row of metrics.json, which its interval belongs to


class GateError(ValueError):
    """Metrics that do not belong to the bundle that is judged."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number of metrics.json, the clips it comes from and its interval, where they are told."""

    value: float
    count: int | None = None
    low: float | None = None
    high: float | None = None


def run(recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Write reports/verdict.json, bound to the bundle and to the metrics by their hashes."""
    path, hashed = workspace / REPORTS / "metrics.json", bundle.verify(workspace / BUNDLE)
    metrics = read_json(path)
    if metrics["bundle"] != hashed:
        raise GateError(f"{path} measures another bundle: run `v2meow evaluate` again")
    criteria = [judge(criterion, metrics) for criterion in recipe.gate]
    passed = all(criterion["passed"] for criterion in criteria)
    verdict = {
        "passed": passed,
        "bundle": hashed,
        "metrics": sha256(path),
        "production": _production(metrics),
        "recipe": recipe.name,
        "criteria": criteria,
    }
    write_json(workspace / REPORTS / "verdict.json", verdict)
    return {"passed": passed, **{_name(row): row["reason"] for row in criteria}}


def judge(criterion: CriterionConfig, metrics: dict[str, Any]) -> dict[str, Any]:
    """One line of the verdict: the criterion, value, count, interval, `outcome`, `passed`, and the reason in words.

    A missing value fails unless optional; beside production it is passed over where there is none to compare with.
    """
    found, missing = _find(criterion, metrics)
    if found is None:
        passed_over = criterion.optional or missing != _MISSING
        outcome: Outcome = "passed over" if passed_over else "fail"
        return _line(criterion, outcome, missing, None)
    figure = found if isinstance(found, Figure) else _figure_of(found)
    if figure.count is not None and figure.count < criterion.min_samples:
        needed = f"{figure.count} clips, at least {criterion.min_samples} are needed"
        return _line(criterion, "insufficient", needed, figure)
    holds, asked = (
        _against_production(criterion, found) if isinstance(found, dict) else _against_limit(criterion, found)
    )
    return _line(criterion, "pass" if holds else "fail", f"{_told(figure)}, {asked}", figure)


_MISSING = "missing from metrics.json"


def _find(criterion: CriterionConfig, metrics: dict[str, Any]) -> tuple[Figure | dict[str, Any] | None, str]:
    """What a criterion is about, a figure or a row beside production's; or None, and why there is nothing."""
    if not criterion.not_worse_than_production:
        found = figure(metrics, criterion.metric)
        return found, "not measurable on this catalogue" if criterion.optional else _MISSING
    production = metrics.get("production") or {"reason": "no model is in production yet"}
    if reason := production.get("reason"):
        return None, f"not compared: {reason}"
    row = _walk(production, criterion.metric)
    if isinstance(row, dict) and "difference" in row:
        return row, ""
    return None, "not measurable on this catalogue" if criterion.optional else _MISSING


def _against_limit(criterion: CriterionConfig, found: Figure) -> tuple[bool, str]:
    if criterion.at_least is not None:
        return found.value >= criterion.at_least, f"at least {criterion.at_least:g} is asked"
    assert criterion.at_most is not None
    return found.value <= criterion.at_most, f"at most {criterion.at_most:g} is asked"


def _against_production(criterion: CriterionConfig, row: dict[str, Any]) -> tuple[bool, str]:
    asked = "no worse than production is asked"
    if criterion.tolerance:
        asked = f"worse than production by at most {criterion.tolerance:g} is asked"
    return worse_by(row) <= criterion.tolerance, f"{row['better']} is better, {asked}"


def _line(criterion: CriterionConfig, outcome: Outcome, reason: str, found: Figure | None) -> dict[str, Any]:
    figures = asdict(found) if found else {"value": None, "count": None, "low": None, "high": None}
    passed = outcome in ("pass", "passed over")
    return {**asdict(criterion), **figures, "outcome": outcome, "passed": passed, "reason": reason}


def _told(found: Figure) -> str:
    """Such as "0.82 (0.71 … 0.9 of 47 clips)"."""
    interval = "" if found.low is None or found.high is None else f"{found.low:.3g} … {found.high:.3g}"
    beside = " of ".join(part for part in (interval, found.count and f"{found.count} clips") if part)
    return f"{found.value:.4g} ({beside})" if beside else f"{found.value:.4g}"


def _figure_of(row: dict[str, Any]) -> Figure:
    return Figure(value=row["difference"], count=row["count"], low=row["low"], high=row["high"])


def figure(metrics: dict[str, Any], name: str) -> Figure | None:
    """The number under a dotted name such as `planted.timbre.p_value`, or None; a row stands for its main number.

    The count is that of the row the number is in; the interval, too, if it is the row's main number.
    """
    *parents, last = name.split(".")
    found = _walk(metrics, name)
    row = found if isinstance(found, dict) else _walk(metrics, ".".join(parents)) if parents else metrics
    if isinstance(found, dict):
        last = next((key for key in _MAIN if _is_number(found.get(key))), "")
        found = found.get(last)
    if not _is_number(found):
        return None
    beside = {key: row.get(key) for key in ("count", "low", "high")} if isinstance(row, dict) else {}
    if last not in _MAIN:
        beside |= {"low": None, "high": None}
    return Figure(value=found, **beside)  # type: ignore[arg-type]


def _walk(found: Any, name: str) -> Any:
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _production(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """Which version the model was compared with."""
    found = metrics.get("production") or {}
    return {key: found[key] for key in ("model", "version", "bundle")} if found.get("model") else None


def _name(row: dict[str, Any]) -> str:
    return f"{row['metric']} beside production" if row["not_worse_than_production"] else row["metric"]
