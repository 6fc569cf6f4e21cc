"""From outcomes to what the step says: the report, the page for people, and whether the pipeline goes on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from v2meow.data.checks import pages
from v2meow.data.checks.run import Outcome
from v2meow.data.manifest import DataError
from v2meow.files import write_json

REPORTS = Path("reports")


def conclude(
    workspace: Path, name: str, subject: str, figures: dict[str, Any], tables: Mapping[str, Sequence[Outcome]]
) -> dict[str, Any]:
    """Write reports/NAME.json and the pages reports/data-docs/NAME, then raise DataError when something blocks.

    `tables` are the outcomes by the table that they are about. Returns the step's summary.
    """
    outcomes = [outcome for part in tables.values() for outcome in part]
    failed = [outcome for outcome in outcomes if not outcome.success]
    blocking = [outcome for outcome in failed if outcome.action == "block"]
    report = {"passed": not blocking, "figures": figures, "checks": [outcome.plain() for outcome in outcomes]}
    write_json(workspace / REPORTS / f"{name}.json", report)
    pages.write(workspace / REPORTS / "data-docs" / name, tables)
    if blocking:
        what = "; ".join(outcome.sentence() for outcome in blocking)
        raise DataError(f"{subject} failed {len(blocking)} of {len(outcomes)} checks: {what}; see reports/{name}.json")
    return figures | {"checks": len(outcomes), "warnings": [outcome.sentence() for outcome in failed]}
