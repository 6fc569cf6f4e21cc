"""The step `gate`: every criterion of the recipe against metrics.json; the verdict is written, passed or not."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from v2meow import bundle
from v2meow.config import CriterionConfig, Recipe
from v2meow.files import read_json, write_json

BUNDLE, REPORTS = Path("models/bundle"), Path("reports")  # of a workspace


class GateError(ValueError):
    """Metrics that do not belong to the bundle that is judged."""


def run(recipe: Recipe, workspace: Path) -> dict[str, Any]:
    """Write reports/verdict.json, bound to the bundle by its hash."""
    metrics, hashed = read_json(workspace / REPORTS / "metrics.json"), bundle.verify(workspace / BUNDLE)
    if metrics["bundle"] != hashed:
        raise GateError(f"{workspace / REPORTS / 'metrics.json'} measures another bundle: run `v2meow evaluate` again")
    criteria = [judge(criterion, metrics) for criterion in recipe.gate]
    passed = all(criterion["passed"] for criterion in criteria)
    verdict = {"passed": passed, "bundle": hashed, "recipe": recipe.name, "criteria": criteria}
    write_json(workspace / REPORTS / "verdict.json", verdict)
    return {"passed": passed, **{row["metric"]: row["reason"] for row in criteria}}


def judge(criterion: CriterionConfig, metrics: dict[str, Any]) -> dict[str, Any]:
    """One line of the verdict: value, limit, passed and the reason in words. A missing value fails unless optional."""
    value = look_up(metrics, criterion.metric)
    if value is None:
        word = "not measurable on this catalogue" if criterion.optional else "missing from metrics.json"
        return {**asdict(criterion), "value": None, "passed": criterion.optional, "reason": word}
    if criterion.at_least is not None:
        passed, limit = value >= criterion.at_least, f"at least {criterion.at_least:g}"
    else:
        assert criterion.at_most is not None
        passed, limit = value <= criterion.at_most, f"at most {criterion.at_most:g}"
    return {**asdict(criterion), "value": value, "passed": bool(passed), "reason": f"{value:.4g}, {limit} is asked"}


def look_up(metrics: dict[str, Any], name: str) -> float | None:
    """The number under a dotted name such as `planted.timbre.p_value`, or None."""
    found: Any = metrics
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, int | float) else None
