"""What a run's page shows: tables of what it ran, found and cost, as Prefect's artifacts."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

_REPORTS = ("report.html", "docs/index.html", "data_docs/index.html")  # of those, what is there


def run(ran: list[str], hours: dict[str, float], added_bytes: int, place: Path) -> None:
    """What a retraining ran and used, and where its reports lie."""
    figures = [f"| {name} | {value:.3g} |" for name, value in hours.items()]
    figures.append(f"| storage added, MB | {added_bytes / 1e6:.3g} |")
    links = [f"- {place / 'reports' / name}" for name in _REPORTS if (place / "reports" / name).is_file()]
    steps = f"Ran {', '.join(ran)}." if ran else "Nothing was out of date."
    _markdown("run", "\n".join([steps, "", "| used | |", "|---|---|", *figures, "", *links]))


def verdict(found: dict[str, Any]) -> None:
    """The gate's criteria, line by line."""
    rows = [
        {"metric": row.get("metric"), "value": row.get("value"), "passed": row.get("passed"), "why": row.get("reason")}
        for row in found.get("criteria", ())
    ]
    _table("gate", rows, f"The gate {'passed' if found.get('passed') else 'did not pass'}")


def trial(kind: str, numbers: dict[str, Any], reasons: Iterable[str]) -> None:
    """What a trial of a model found: smoke, canary."""
    rows = [{"figure": name, "value": value} for name, value in numbers.items()]
    _table(kind, rows, "; ".join(reasons) or "passed")


def drift(columns: dict[str, dict[str, Any]]) -> None:
    """How the figures of videos that came lie beside those of the last dataset."""
    _table("drift", [{"figure": name} | found for name, found in columns.items()], "New videos beside the last dataset")


def decision(text: str) -> None:
    """What a promotion came to, and why."""
    _markdown("decision", text)


def _table(key: str, rows: list[dict[str, Any]], description: str) -> None:
    with suppress(Exception):  # a run is not worth less because its page could not be written
        create_table_artifact(rows, key=key, description=description)


def _markdown(key: str, text: str) -> None:
    with suppress(Exception):
        create_markdown_artifact(text, key=key)
