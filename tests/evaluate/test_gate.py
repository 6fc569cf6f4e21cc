"""The gate lets a bundle through on its own measured numbers only, and says why."""

import dataclasses
import json

import pytest
import tiny

from v2meow import bundle
from v2meow.config import CriterionConfig, RecipeError, load_recipe, recipe_path
from v2meow.evaluate import gate
from v2meow.files import sha256
from v2meow.registry import Registry

METRICS = {"loss": {"semantic": {"margin": 0.2}}, "audio": {"silent_share": 0.0}, "planted": None}


def _at_least(metric: str, limit: float, **options) -> CriterionConfig:
    return CriterionConfig(metric=metric, at_least=limit, **options)


def _at_most(metric: str, limit: float, **options) -> CriterionConfig:
    return CriterionConfig(metric=metric, at_most=limit, **options)


@pytest.fixture
def workspace(tmp_path):
    """A workspace with a bundle and the metrics of that very bundle."""
    (tmp_path / "recipe.yaml").write_text("name: nano\n")
    digest = bundle.assemble({"recipe.yaml": tmp_path / "recipe.yaml"}, tmp_path / gate.BUNDLE)
    _write_metrics(tmp_path, METRICS | {"bundle": digest})
    return tmp_path


def _write_metrics(workspace, metrics):
    (workspace / "reports").mkdir(exist_ok=True)
    (workspace / "reports/metrics.json").write_text(json.dumps(metrics))


def _judge_workspace(workspace, *criteria: CriterionConfig) -> dict:
    recipe = dataclasses.replace(load_recipe(recipe_path("nano")), gate=criteria)
    gate.run(recipe, workspace)
    return json.loads((workspace / "reports/verdict.json").read_text())


@pytest.mark.parametrize(
    ("criterion", "passed", "reason"),
    [
        (_at_least("loss.semantic.margin", 0.1), True, "0.2, at least 0.1 is asked"),
        (_at_least("loss.semantic.margin", 0.2), True, "0.2, at least 0.2 is asked"),
        (_at_least("loss.semantic.margin", 0.3), False, "0.2, at least 0.3 is asked"),
        (_at_most("audio.silent_share", 0.0), True, "0, at most 0 is asked"),
        (_at_most("loss.semantic.margin", 0.1), False, "0.2, at most 0.1 is asked"),
        (_at_most("planted.timbre.p_value", 0.01, optional=True), True, "not measurable on this catalogue"),
        (_at_most("planted.timbre.p_value", 0.01), False, "missing from metrics.json"),
        (_at_least("loss.semantic", 0.0), False, "missing from metrics.json"),
        (_at_least("loss.semantic.margin.mean", 0.0), False, "missing from metrics.json"),
    ],
)
def test_a_criterion_is_judged_with_its_reason(criterion, passed, reason):
    """A limit counts as met; a misspelt metric must not pass silently, an unmeasurable optional one may."""
    row = gate.judge(criterion, METRICS)
    assert (row["passed"], row["reason"]) == (passed, reason)


def test_an_optional_criterion_that_was_measured_counts():
    """Optional means "where it can be measured", not "may fail"."""
    assert not gate.judge(_at_most("loss.semantic.margin", 0.1, optional=True), METRICS)["passed"]


def test_one_failed_criterion_fails_the_bundle(workspace):
    good, bad = _at_least("loss.semantic.margin", 0.1), _at_least("loss.semantic.margin", 0.3)
    assert _judge_workspace(workspace, good, good)["passed"]
    verdict = _judge_workspace(workspace, good, bad, good)
    assert not verdict["passed"]
    assert [row["passed"] for row in verdict["criteria"]] == [True, False, True]


def test_metrics_of_another_bundle_are_refused(workspace):
    """Otherwise a good model's numbers would let a later one in."""
    _write_metrics(workspace, METRICS | {"bundle": "0" * 64})
    with pytest.raises(gate.GateError, match="measures another bundle: run `v2meow evaluate` again"):
        _judge_workspace(workspace, _at_least("loss.semantic.margin", 0.1))
    assert not (workspace / "reports/verdict.json").exists()


def test_a_bundle_that_changed_after_its_evaluation_is_refused(workspace):
    with (workspace / gate.BUNDLE / "recipe.yaml").open("a") as file:
        file.write("seed: 1\n")
    with pytest.raises(bundle.BundleError, match=r"changed: recipe\.yaml"):
        _judge_workspace(workspace, _at_least("loss.semantic.margin", 0.1))


def test_the_registry_takes_a_passing_verdict_as_it_is_written(workspace):
    """Gate and registry meet only in this file: its shape is their contract."""
    verdict = _judge_workspace(workspace, _at_least("loss.semantic.margin", 0.1))
    version = Registry(workspace / "registry").register(
        "v2meow",
        workspace / gate.BUNDLE,
        workspace / "reports/verdict.json",
        data_version="d1",
        git_revision="g1",
        actor="ada",
    )
    assert version.verdict == verdict and version.bundle == verdict["bundle"]


def _beside(difference: float, better: str = "higher", count: int = 48, reach: float = 0.1) -> dict:
    row = {"difference": difference, "low": difference - reach, "high": difference + reach, "count": count}
    return {
        "production": {
            "model": "v2meow",
            "version": "v1",
            "bundle": "b",
            "planted": {"timbre": row | {"better": better}},
        }
    }


def _no_worse(**options) -> CriterionConfig:
    return CriterionConfig(metric="planted.timbre", not_worse_than_production=True, **options)


@pytest.mark.parametrize(
    ("metrics", "options", "outcome"),
    [
        (_beside(0.3), {}, "pass"),
        (_beside(-0.09), {}, "pass"),
        (_beside(-0.11), {}, "fail"),
        (_beside(-0.11), {"tolerance": 0.05}, "pass"),
        (_beside(-0.16), {"tolerance": 0.05}, "fail"),
        (_beside(0.11, better="lower"), {}, "fail"),
        (_beside(0.09, better="lower"), {}, "pass"),
        (_beside(-0.3, better="lower"), {}, "pass"),
        (_beside(0.3, count=15), {"min_samples": 16}, "insufficient"),
        (_beside(0.3, count=16), {"min_samples": 16}, "pass"),
        ({"production": {"model": "v2meow"}}, {}, "fail"),
        ({"production": {"model": "v2meow"}}, {"optional": True}, "passed over"),
        ({"production": {"model": None, "reason": "no model is in production yet"}}, {}, "passed over"),
        ({}, {}, "passed over"),
    ],
)
def test_a_model_may_not_be_worse_than_production_beyond_the_interval(metrics, options, outcome):
    """A difference that chance explains stops nobody; one that it does not stops, whichever direction is better."""
    line = gate.judge(_no_worse(**options), metrics)
    assert (line["outcome"], line["passed"]) == (outcome, outcome in ("pass", "passed over"))


def test_too_few_clips_fail_and_say_how_many_are_needed():
    """Three clips never show that a model is worse: that would be a way through the gate."""
    line = gate.judge(_no_worse(min_samples=16), _beside(0.3, count=3))
    assert line["reason"] == "3 clips, at least 16 are needed"


def test_a_line_tells_count_and_interval():
    """A number alone says nothing of how far it can be trusted."""
    line = gate.judge(_no_worse(), _beside(-0.2))
    assert line["reason"] == "-0.2 (-0.3 … -0.1 of 48 clips), higher is better, no worse than production is asked"
    row = {"right": 0.5, "low": 0.4, "high": 0.6, "p_value": 0.003, "count": 47}
    metrics = {"planted": {"timbre": row}}
    whole = gate.judge(_at_least("planted.timbre", 0.3), metrics)
    assert whole["reason"] == "0.5 (0.4 … 0.6 of 47 clips), at least 0.3 is asked"
    assert whole == gate.judge(_at_least("planted.timbre.right", 0.3), metrics) | {"metric": "planted.timbre"}
    assert gate.judge(_at_most("planted.timbre.p_value", 0.01), metrics)["reason"] == (
        "0.003 (47 clips), at most 0.01 is asked"  # the interval is not that of the p-value
    )


def test_why_nothing_is_compared_stands_in_the_verdict(workspace):
    """And which model that was: people must see that a comparison did not take place."""
    named = {"model": "v2meow", "version": "v1", "bundle": "b"}
    digest = bundle.verify(workspace / gate.BUNDLE)
    _write_metrics(workspace, METRICS | {"bundle": digest, "production": named | {"reason": "other features"}})
    verdict = _judge_workspace(workspace, _no_worse())
    (line,) = verdict["criteria"]
    assert (line["passed"], line["value"], line["reason"]) == (True, None, "not compared: other features")
    assert verdict["production"] == named


def test_a_verdict_is_bound_to_its_metrics(workspace):
    """Evidence that can be exchanged afterwards is none."""
    verdict = _judge_workspace(workspace, _at_least("loss.semantic.margin", 0.1))
    assert verdict["metrics"] == sha256(workspace / "reports/metrics.json")


def test_the_verdict_names_the_production_that_it_was_compared_with(workspace):
    digest = bundle.verify(workspace / gate.BUNDLE)
    _write_metrics(workspace, METRICS | {"bundle": digest} | _beside(0.0))
    assert _judge_workspace(workspace, _no_worse())["production"] == {"model": "v2meow", "version": "v1", "bundle": "b"}


@pytest.mark.parametrize(
    ("criterion", "problem"),
    [
        ({"metric": "a", "at_least": 1.0, "not_worse_than_production": True}, "give exactly one of"),
        ({"metric": "a"}, "give exactly one of"),
        ({"metric": "a", "at_least": 1.0, "tolerance": 0.1}, "a limit has its own"),
        ({"metric": "a", "not_worse_than_production": True, "tolerance": -0.1}, "must be at least 0"),
        ({"metric": "a", "at_most": 1.0, "min_samples": -1}, "must be at least 0"),
    ],
)
def test_a_criterion_that_says_nothing_is_refused(criterion, problem):
    with pytest.raises(RecipeError, match=problem):
        tiny.recipe({"gate": [criterion]})
