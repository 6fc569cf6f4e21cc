"""The outcomes as Great Expectations' own pages (Data Docs), one a table.

The pages stand alone: nothing is fetched from anywhere, no script runs, and the same outcomes give the same bytes.
"""

# pyright: reportPrivateImportUsage=false

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from great_expectations.core.expectation_validation_result import (
    ExpectationSuiteValidationResult,
    ExpectationValidationResult,
)
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView

from v2meow.data.checks.run import Outcome
from v2meow.files import atomic_folder

# What Great Expectations' page takes from other servers, among it a logo whose address holds the time.
_OUTSIDE = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<style>.*?</style>|<form\b.*?</form>|<button\b.*?</button>"
    r"|<nav class=\"navbar.*?</nav>\s*</div>\s*</nav>",
    re.DOTALL,
)
_LINK = re.compile(r"<a\b(?![^>]*href=\"#)[^>]*>(.*?)</a>", re.DOTALL)
_HEAD = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { border-bottom: 1px solid #8886; padding: .3rem .6rem; text-align: left; vertical-align: top; }
h5 { font-size: 1.15rem; margin: 1.5rem 0 .3rem; } h6 { margin: .3rem 0; } p { margin: .2rem 0; }
ul.nav { columns: 4 10rem; padding-left: 1.2rem; }
.badge { background: #8883; border-radius: .3rem; padding: 0 .3rem; }
.fa-check-circle::before { content: "✓"; color: #1a7f37; } .fa-times::before { content: "✗"; color: #c62828; }
.fa-exclamation-triangle::before, .fa-exclamation-circle::before { content: "!"; color: #b26a00; }
.modal, .sticky, .btn, [hidden] { display: none; }
</style>
"""


def write(folder: Path, tables: Mapping[str, Sequence[Outcome]]) -> None:
    """Write TABLE.html for each table into `folder`, which is replaced as a whole."""
    with atomic_folder(folder) as temporary:
        for name, outcomes in tables.items():
            (temporary / f"{name}.html").write_text(page(name, outcomes), encoding="utf-8")


def page(name: str, outcomes: Sequence[Outcome]) -> str:
    """One page of outcomes."""
    passed = sum(outcome.success for outcome in outcomes)
    suite = ExpectationSuiteValidationResult(
        success=passed == len(outcomes),
        results=[_result(outcome) for outcome in outcomes],
        suite_name=name,
        statistics={
            "evaluated_expectations": len(outcomes),
            "successful_expectations": passed,
            "unsuccessful_expectations": len(outcomes) - passed,
            "success_percent": 100.0 * passed / max(len(outcomes), 1),
        },
        meta={},
    )
    text = DefaultJinjaPageView().render(ValidationResultsPageRenderer(run_info_at_end=True).render(suite))
    text = _LINK.sub(r"\1", _OUTSIDE.sub("", text)).replace("<title></title>", "").replace("Data asset: None<br>", "")
    text = text.replace("Data documentation compiled by Great Expectations", f"Checks of {name}")
    return "\n".join(line.rstrip() for line in text.replace("</head>", f"{_HEAD}</head>").splitlines() if line.strip())


def _result(outcome: Outcome) -> ExpectationValidationResult:
    """As Great Expectations would have it, had the table come in one part."""
    config = outcome.config
    found: dict[str, Any] = {"observed_value": outcome.observed}
    if outcome.unexpected is not None:
        known = max(outcome.rows - outcome.missing, 1)
        found = {
            "element_count": outcome.rows,
            "missing_count": outcome.missing,
            "missing_percent": 100.0 * outcome.missing / max(outcome.rows, 1),
            "unexpected_count": outcome.unexpected,
            "unexpected_percent": 100.0 * outcome.unexpected / known,
            "unexpected_percent_total": 100.0 * outcome.unexpected / max(outcome.rows, 1),
            "unexpected_percent_nonmissing": 100.0 * outcome.unexpected / known,
            "partial_unexpected_list": [html.escape(str(value)) for value in outcome.values],
        }
    return ExpectationValidationResult(
        success=outcome.success,
        expectation_config=ExpectationConfiguration(
            type=config["type"],
            kwargs={key: value for key, value in config["kwargs"].items() if key != "batch_id"},
            description=f"{html.escape(outcome.rule)} ({outcome.action})",
            severity=config["severity"],
        ),
        result=found,
        exception_info={"raised_exception": False, "exception_message": None, "exception_traceback": None},
        meta={},
    )
