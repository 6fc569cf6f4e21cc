"""The gate lets a bundle through on its own measured numbers only, and says why."""

import dataclasses
import json

import pytest

from v2meow import bundle
from v2meow.config import CriterionConfig, load_recipe, recipe_path
from v2meow.evaluate import gate
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
