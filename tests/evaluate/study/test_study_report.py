"""What people and programs read of a study, through the commands that write it."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from designs import paper_study, rated, simulated
from typer.testing import CliRunner

from v2meow.cli_study import app
from v2meow.evaluate.study.ballots import Ballots, Cast, sqlite_url
from v2meow.evaluate.study.design import RATINGS, Study, StudyError, read_study, write_study
from v2meow.evaluate.study.report import page, text
from v2meow.evaluate.study.tally import results


def _stored(folder: Path, study: Study, ratings) -> None:
    write_study(folder, study)
    ballots = Ballots(sqlite_url(folder / RATINGS), study.id)
    assert all(ballots.cast(one) is Cast.NEW for one in ratings)
    ballots.close()


def test_the_report_command_writes_page_and_table_and_prints_the_same_as_json(tmp_path):
    study = paper_study(("new", "old"), 5, silent=1, mismatched=1)
    ratings = simulated(study, np.array([0.6, -0.6]), raters=6, seed=1)
    checks = [rated("silent-0", 2, rater=f"r{n}") for n in range(5)] + [rated("silent-0", 0, rater="r5")]
    _stored(tmp_path, study, [*ratings, *checks, rated("mismatched-0", 1, rater="r0", swapped=True)])
    shown = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "new against old" in shown.output and "1 left out" in shown.output
    machine = json.loads(CliRunner().invoke(app, ["report", str(tmp_path), "--json"]).stdout)
    assert machine["excluded"] == 1 and machine["counted"] == 25
    rows = list(csv.DictReader((tmp_path / "report" / "ratings.csv").open()))
    assert len(rows) == 30 + 6 + 1
    assert sum(row["excluded"] == "1" for row in rows) == 6
    control = next(row for row in rows if row["kind"] == "mismatched")
    assert (control["towards_a"], control["left"], control["heard_a_s"], control["heard_b_s"]) == (
        "1",
        "b",
        "4.0",
        "3.0",
    )
    assert (tmp_path / "report" / "report.html").stat().st_size < 100_000


def test_the_page_loads_nothing_and_names_are_text_in_it():
    """Names of systems come from whoever made the study: no script of theirs may run in a reader's browser."""
    study = paper_study(("<script>alert(1)</script>", "=HYPERLINK(1)"), 2, title="<b>A & B</b>")
    html = page(results(study, simulated(study, np.zeros(2), raters=3, seed=0)))
    assert "<script" not in html and "<b>A" not in html
    assert not re.search(r"(src|href)=|url\(|@import", html)


def test_formulas_do_not_reach_spreadsheets(tmp_path):
    study = paper_study(("=1+1", "@sum"), 1)
    _stored(tmp_path, study, [rated("=1+1-@sum-0", 1, rater="ann")])
    assert CliRunner().invoke(app, ["report", str(tmp_path)]).exit_code == 0
    (row,) = csv.DictReader((tmp_path / "report" / "ratings.csv").open())
    assert (row["system_a"], row["system_b"]) == ("'=1+1", "'@sum")


def test_a_study_that_nobody_rated_has_a_report_too():
    study = paper_study(("one", "two"), 2)
    found = results(study, [])
    assert "not rated yet" in text(found) and "Not rated yet" in page(found)
    json.dumps(found, allow_nan=False)


def test_a_few_ratings_have_a_report_without_nan(tmp_path):
    """One rater, one video, no second opinion: nothing may become NaN, which is no JSON."""
    study = paper_study(("one", "two", "three"), 2)
    for ratings in ([rated("one-two-0", 2, rater="ann")], [rated("one-two-0", 0, rater=r) for r in ("ann", "bob")]):
        found = results(study, ratings)
        json.dumps(found, allow_nan=False)
        assert [row["system"] for row in found["questions"]["fit"]["systems"]] in (["one", "two"], ["two", "one"])
        assert "not defined" in text(found) and "its score is a guess" in text(found)
        page(found)


def test_the_whole_way_by_commands(music, tmp_path):
    """create, then report, from the folders of two systems; and one line for what cannot be."""
    run, out = CliRunner(), tmp_path / "study"
    systems = [f"--system={name}={music / name}" for name in ("falcon", "badger")]
    made = run.invoke(app, ["create", str(out), *systems, "--silent", "0", "--per-rater", "1"])
    assert made.exit_code == 0, made.output
    assert "each rater sees: 1" in made.output and read_study(out).per_rater == 1
    assert run.invoke(app, ["report", str(out)]).exit_code == 0
    assert isinstance(run.invoke(app, ["report", str(tmp_path)]).exception, StudyError)
    assert run.invoke(app, ["create", str(tmp_path / "x"), "--system", "falcon"]).exit_code == 2


def test_a_study_of_another_version_is_not_guessed_at(tmp_path):
    (tmp_path / "study.json").write_text('{"format": 99}')
    with pytest.raises(StudyError, match="another version"):
        read_study(tmp_path)
    (tmp_path / "study.json").write_text('{"format": 1, "items": [], "pairs": [], "systems": []}')
    with pytest.raises(StudyError, match="damaged"):
        read_study(tmp_path)
