"""The watch on the source: new files come in once, and what came is told to whoever waits for it."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_bundle
import tones
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from processes import wait_for

from flows import asking, owed
from flows import ingest as flow
from flows.deployments import deploy
from flows.ingest import ingest
from v2meow import workspace
from v2meow.config import load_recipe
from v2meow.data import clips
from v2meow.data import pull as pulling
from v2meow.data.drift import profile
from v2meow.data.manifest import read_clips_table
from v2meow.data.source import open_source
from v2meow.data.stats import per_video
from v2meow.files import write_json

COUNT = 21  # videos; below 20 nothing is said about drift


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """The events that a look at the source emitted."""
    events: list[str] = []
    monkeypatch.setattr(flow, "emit_event", lambda name, about, payload: events.append(name))
    return events


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def runs(home: Path) -> list[FlowRun]:
    """All runs of `retrain` for a workspace, begun or not."""
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs()
    return [run for run in found if run.parameters == {"folder": str(home), "reason": run.parameters.get("reason")}]


def test_new_videos_come_in_once_and_start_a_retraining(server, small, source, told):
    """A poll that tells of the same videos again would train for ever."""
    tiny_bundle.silent_video(source / "new.mp4")
    first = ingest(str(small), str(source), return_state=True)
    assert first.is_completed() and "1 files came" in str(first.message) and "enough" in str(first.message)
    assert (small / "data/raw/source/new.mp4").is_file()
    owed.settle(small)  # the retraining came to its end
    assert ingest(str(small), str(source), return_state=True).name == "Nothing new"
    assert told == [flow.ARRIVED]


def test_videos_whose_look_was_killed_before_it_told_of_them_are_told_of_by_the_next(server, small, source, told):
    """Nothing comes in then: who only counts what came would leave them to wait for others."""
    tiny_bundle.silent_video(source / "new.mp4")
    pulling.pull(small, open_source(str(source)))
    ingest(str(small), str(source), return_state=True)
    assert told == [flow.ARRIVED]


def test_a_retraining_that_did_not_end_is_asked_for_again_ever_more_rarely(server, small, source, told, monkeypatch):
    """A remote that was away is back in a while; one that never comes back must not cost a run at every look."""
    monkeypatch.setattr(flow, "due_or_under_way", lambda *_: False)
    tiny_bundle.silent_video(source / "new.mp4")
    monkeypatch.setattr(flow, "was_cancelled", lambda *_: False)
    ingest(str(small), str(source), return_state=True)
    when = [look for look in range(1, 2 * 2**owed.MOST) if flow._ask_again(small)]
    assert told == [flow.ARRIVED, *[flow.UNFINISHED] * owed.MOST]
    assert when == [1, 3, 7, 15, 31, 63]


def test_what_comes_while_a_retraining_is_under_way_is_judged_when_it_has_ended(
    server, small, source, told, monkeypatch
):
    """It may take in some of it: asked for at every arrival, retrainings of a few videos each would queue up."""
    tiny_bundle.silent_video(source / "new.mp4")
    monkeypatch.setattr(flow, "due_or_under_way", lambda *_: True)
    assert "wait for the end" in str(ingest(str(small), str(source), return_state=True).message)
    assert "wait for the end" in str(ingest(str(small), str(source), return_state=True).message) and told == []
    monkeypatch.setattr(flow, "due_or_under_way", lambda *_: False)
    ingest(str(small), str(source), return_state=True)
    assert told == [flow.ARRIVED]


def kept(name: str) -> list[dict[str, Any]]:
    """The events of a name that the server has stored; it writes them in batches, later than it acts on them."""
    with get_client(sync_client=True) as client:
        return client.request("POST", "/events/filter", json={"filter": {"event": {"name": [name]}}}).json()["events"]


@pytest.mark.slow
def test_drift_starts_a_retraining_before_there_is_enough(server, small, source):
    """With a real server: the event says what moved, and its automation makes the run; once for what came."""
    (small / "recipe.yaml").write_text(yaml.safe_dump(tiny.values({"retrain": {"min_new_hours": 100.0}})))
    tones.make(source, COUNT, level=0.5)
    pulling.pull(small, open_source(str(source)))
    clips.run(load_recipe(small / "recipe.yaml"), small)
    profiles = {name: asdict(profile(values)) for name, values in per_video(read_clips_table(small)).items()}
    write_json(small / "reports/features.json", {"figures": {"profiles": profiles}})
    workspace.snapshot(small, "trained")
    deploy(small)
    tones.make(source, 3, level=0.5, first=100)
    assert "not enough" in str(ingest(str(small), str(source), return_state=True).message)
    tones.make(source, COUNT, level=0.02, first=200)
    drifted = ingest(str(small), str(source), return_state=True)
    assert "of another kind" in str(drifted.message) and "loudness, LUFS moved from" in str(drifted.message)
    wait_for(lambda: len(runs(small)) == 1, 60)
    assert runs(small)[0].parameters["reason"] == "drift" and asking.due_or_under_way("retrain", small)
    assert ingest(str(small), str(source), return_state=True).name == "Nothing new"
    wait_for(lambda: bool(kept(flow.DRIFTED)), 60)
    payload = kept(flow.DRIFTED)[0]["payload"]
    assert payload["columns"]["lufs"]["psi"] > payload["columns"]["lufs"]["limit"] and "LUFS" in payload["words"]
    time.sleep(5.0)
    assert len(runs(small)) == 1
