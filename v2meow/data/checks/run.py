"""Expectations run over a table that comes in parts, so that a catalogue of millions of clips needs little memory.

What each part gives is added up; a rule about values holds for the table when the sums say so. Knows Great
Expectations, not what the rules are about.
"""

# pyright: reportPrivateImportUsage=false

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation import Expectation

from v2meow.data.checks.suites import ACTIONS

_EXAMPLES_SHOWN = 5


@dataclass(kw_only=True)
class Outcome:
    """What became of one expectation over a whole table.

    `observed` is the value of a rule about a whole column, else None; `unexpected` the number of rows against a rule
    about values, else None. `examples` are the names of a few of these, `values` what stands in the column there.
    """

    config: dict[str, Any]
    subject: str  # what a row is: "clips"
    success: bool = True
    observed: Any = None
    unexpected: int | None = None
    rows: int = 0
    missing: int = 0
    examples: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    @property
    def rule(self) -> str:
        return self.config["description"]

    @property
    def action(self) -> str:
        """block, quarantine or warn: what a failure leads to."""
        return ACTIONS[self.config["severity"]]

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "rule": self.rule,
            "name": self.config["type"],
            "column": self.config["kwargs"]["column"],
            "severity": self.config["severity"],
            "action": self.action,
            "success": self.success,
            "observed": self.observed,
            "unexpected": self.unexpected,
            "examples": self.examples,
        }

    def sentence(self) -> str:
        if self.unexpected is None:
            found = f"{self.observed:.3g}" if isinstance(self.observed, int | float) else str(self.observed)
            return f"{self.rule} (found {found})"
        some = f", such as {', '.join(' '.join(name.split()) for name in self.examples)}" if self.examples else ""
        return f"{self.rule} (not so for {self.unexpected} {self.subject}{some})"


@dataclass(frozen=True, kw_only=True)
class Unfit:
    """A row that a rule of severity quarantine is against, by its name, and what stands in the rule's column."""

    name: str
    rule: str
    column: str
    value: Any


def run(
    parts: Iterable[pd.DataFrame], rules: Sequence[Expectation], subject: str, name: str = ""
) -> tuple[list[Outcome], list[Unfit]]:
    """Every rule's outcome over all parts, sorted by rule, and the rows to quarantine.

    `name` is the column that names a row. Rules about a whole column (its maximum) take a table of one part.
    """
    outcomes: dict[str, Outcome] = {}
    unfit: list[Unfit] = []
    for frame in parts:
        for result in _validate(frame, rules, name):
            config = result["expectation_config"]
            outcome = outcomes.setdefault(config["description"], Outcome(config=config, subject=subject))
            if "element_count" in result["result"]:
                _add(outcome, result["result"], name)
                if outcome.action == "quarantine":
                    unfit += _unfit(outcome, result["result"], name)
            else:
                assert outcome.rows == 0, (outcome.rule, "is about a whole column, which came in parts")
                outcome.rows, outcome.success = len(frame), result["success"]
                outcome.observed = _plain(result["result"].get("observed_value"))
    return sorted(outcomes.values(), key=lambda outcome: outcome.rule), unfit


def _validate(frame: pd.DataFrame, rules: Sequence[Expectation], name: str) -> Iterator[dict[str, Any]]:
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("frame")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
    detail: dict[str, Any] = {
        "result_format": "COMPLETE",
        "partial_unexpected_count": _EXAMPLES_SHOWN,
        "return_unexpected_index_query": False,
    }
    if name:
        detail["unexpected_index_column_names"] = [name]
    suite = gx.ExpectationSuite(name="checks", expectations=list(rules))
    for result in batch.validate(suite, result_format=detail).results:
        assert result.expectation_config is not None
        yield {
            "expectation_config": result.expectation_config.to_json_dict(),
            "success": result.success,
            "result": result.result,
        }


def _add(outcome: Outcome, found: dict[str, Any], name: str) -> None:
    """Add a part's figures to the outcome of a rule about values, and judge it by the sums."""
    outcome.rows += int(found["element_count"])
    outcome.missing += int(found.get("missing_count") or 0)
    outcome.unexpected = (outcome.unexpected or 0) + int(found["unexpected_count"])
    mostly = outcome.config["kwargs"].get("mostly", 1.0)
    most = (1 - mostly) * (outcome.rows - outcome.missing)
    outcome.success = outcome.unexpected <= math.floor(most + 1e-9)
    rows = found.get("partial_unexpected_index_list") or []
    column = outcome.config["kwargs"]["column"]
    names = dict.fromkeys([*outcome.examples, *(str(row[name]) for row in rows if isinstance(row, dict))])
    outcome.examples = list(names)[:_EXAMPLES_SHOWN]
    values = [row.get(column) for row in rows if isinstance(row, dict)] or found.get("partial_unexpected_list") or []
    outcome.values = [*outcome.values, *values][:_EXAMPLES_SHOWN]


def _unfit(outcome: Outcome, found: dict[str, Any], name: str) -> Iterator[Unfit]:
    column = outcome.config["kwargs"]["column"]
    for row in found.get("unexpected_index_list") or []:
        yield Unfit(name=str(row[name]), rule=outcome.rule, column=column, value=_plain(row.get(column)))


def _plain(value: Any) -> Any:
    """A number of numpy's as Python's."""
    return value.item() if hasattr(value, "item") else value
