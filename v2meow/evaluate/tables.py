"""Figures of metrics.json as rows of a table: a name, a number, and where there is one its interval and its count.

Knows the form in which measures tell their figures, not what they mean: a mapping with one of MAIN is a figure, any
other is a group of figures, and a bare number in a group is a figure without an interval. Text, lists and what is
missing are no rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAIN = ("value", "right", "difference", "mean")  # of a figure; what else stands there as a bare number is about it
_BESIDE = ("low", "high", "count", "real")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A figure; `name` is its dotted path, as the gate's criteria have it. `real` is what real music has of it."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    count: int | None = None
    real: float | None = None


def rows(found: Any, name: str = "") -> Iterator[Row]:
    """All figures under `name`, in the order in which they are told."""
    if _is_number(found):
        yield Row(name=name, value=found)
    if not isinstance(found, Mapping):
        return
    main = next((key for key in MAIN if _is_number(found.get(key))), None)
    if main is not None:
        yield Row(name=name, value=found[main], **{key: found[key] for key in _BESIDE if _is_number(found.get(key))})
    for key, value in found.items():
        if main is None or isinstance(value, Mapping):
            yield from rows(value, f"{name}.{key}" if name else str(key))


def pairs(found: Any, name: str = "") -> Iterator[dict[str, Any]]:
    """All comparisons with another model under `name`: mappings with a `difference`, with their own path as `name`."""
    if not isinstance(found, Mapping):
        return
    if _is_number(found.get("difference")):
        yield {"name": name, "verdict": _verdict(found)} | dict(found)
        return
    for key, value in found.items():
        yield from pairs(value, f"{name}.{key}" if name else str(key))


def _verdict(row: Mapping[str, Any]) -> str:
    """ "better", "worse" or, where the interval holds 0 or nothing says which way is better, ""."""
    better, low, high = row.get("better"), row.get("low"), row.get("high")
    if better is None or low is None or high is None or low <= 0 <= high:
        return ""
    return "better" if (low > 0) == (better == "higher") else "worse"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
