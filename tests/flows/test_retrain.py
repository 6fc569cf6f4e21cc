"""Retraining: what DVC says is run, once, and what came of it is registered, whoever is killed meanwhile."""

import os
import signal
import subprocess
from pathlib import Path
from uuid import UUID

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun, TaskRunResult
from prefect.context import FlowRunContext
from processes import wait_for

from flows import owed
from flows.cost import Meter
from flows.retrain import retrain
from flows.steps import Pipeline
from v2meow import release, workspace


def trace(place: Path) -> list[str]:
    file = place.parent / "trace"
    return file.read_text().split() if file.exists() else []


def git(place: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=place, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.slow
def test_prefects_tasks_and_edges_are_dvcs_graph(server, fresh, monkeypatch):
    """Two descriptions of one pipeline drift apart: a step would run before what it needs."""
    monkeypatch.setattr(Pipeline, "_step", lambda self, name: None)
    workspace.snapshot(fresh, "all")

    @flow
    def play() -> UUID:
        Pipeline(home=fresh, place=fresh, branch="", meter=Meter(fresh, {}), width=3).run()
        run = FlowRunContext.get()
        assert run and run.flow_run
        return run.flow_run.id

    run = FlowRunFilter(id=FlowRunFilterId(any_=[play()]))

    def recorded() -> list[TaskRun]:  # the server learns of tasks a moment later
        with get_client(sync_client=True) as client:
            return client.read_task_runs(flow_run_filter=run)

    wait_for(lambda: len(recorded()) == len(workspace.graph(fresh)))
    tasks = recorded()
    names = {task.id: task.name for task in tasks}
    edges = {
        task.name: {names[one.id] for one in task.task_inputs.get("wait_for", ()) if isinstance(one, TaskRunResult)}
        for task in tasks
    }
    assert edges == {name: set(needs) for name, needs in workspace.graph(fresh).items()}
    told = workspace.meta(fresh)
    assert {task.name: task.empirical_policy.retries for task in tasks} == {
        n: said["retries"] for n, said in told.items()
    }


@pytest.mark.slow
def test_a_model_is_made_registered_and_staged_and_then_there_is_nothing_to_do(server, small):
    """A schedule that finds nothing new must cost nothing and register nothing."""
    first = retrain(str(small), return_state=True)
    assert first.is_completed() and "v1" in str(first.message)
    registry = release.registry(small)
    assert registry.state("v2meow").stages == {"staging": "v1"}
    assert (small / "models/bundle").is_dir() and workspace.stale(small) == []
    assert registry.find("v2meow@v1").git_revision in git(small, "rev-list", "HEAD").split()
    assert sorted(trace(small)) == ["gather", "left", "right"]
    second = retrain(str(small), return_state=True)
    assert second.name == "Nothing new"
    assert len(registry.state("v2meow").history) == 2 and len(trace(small)) == 3


@pytest.mark.long
def test_steps_side_by_side_run_once_each_and_are_brought_together(server, small):
    """A step that ran in a worktree of its own must be restored in the run's, not run again."""
    recipe = yaml.safe_load((small / "recipe.yaml").read_text()) | {"retrain": {"side_by_side": 2, "store": False}}
    (small / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert "v1" in str(retrain(str(small), return_state=True).message)
    assert sorted(trace(small)) == ["gather", "left", "right"]
    assert workspace.stale(small) == []


@pytest.mark.slow
def test_a_model_that_fails_its_gate_is_not_registered(server, small):
    (small / "data/raw/one.mp4").write_text("bad")
    ended = retrain(str(small), return_state=True)
    assert ended.is_failed() and "goodness" in str(ended.message)
    assert not owed.is_owed(small), "another run would fare no better"
    assert release.registry(small).models() == []
    assert retrain(str(small), return_state=True).is_completed(), "it is told once, not at every schedule"


@pytest.mark.long
def test_a_killed_run_is_gone_on_with(server, small, started, monkeypatch):
    """SIGKILL in a step: nothing half done is believed, nothing finished is done again."""
    monkeypatch.setenv("RIGHT", "sleep 100")
    child = started(small)
    wait_for(lambda: "left" in trace(small), 90)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert release.registry(small).models() == []
    monkeypatch.setenv("RIGHT", "true")
    assert "v1" in str(retrain(str(small), return_state=True).message)
    assert sorted(trace(small)) == ["gather", "left", "right"]


@pytest.mark.long
def test_of_two_runs_at_once_both_end_well_and_register_one_version(small, started):
    """Two schedulers, or a person and one: the same bundle must not become two versions, nor be paid for twice."""
    said = [child.communicate(timeout=240)[0] for child in (started(small), started(small))]
    assert sorted(trace(small)) == ["gather", "left", "right"]
    assert all("v2meow@v1 is registered" in words for words in said), said
    assert [event.kind for event in release.registry(small).state("v2meow").history] == ["register", "assign"]
    assert workspace.stale(small) == [] and workspace.undelivered(small) == []


@pytest.mark.slow
def test_a_run_ends_before_it_costs_more_than_the_recipe_lets_it(server, small, monkeypatch):
    """A step that needs many times what was thought would otherwise go on spending until somebody looks."""
    monkeypatch.setenv("RIGHT", "while :; do :; done")
    recipe = yaml.safe_load((small / "recipe.yaml").read_text()) | {"retrain": {"max_cpu_hours": 6 / 3600}}
    (small / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    ended = retrain(str(small), return_state=True)
    assert ended.is_failed() and "CPU hours" in str(ended.message)
    assert release.registry(small).models() == []
