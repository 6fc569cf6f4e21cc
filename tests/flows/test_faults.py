"""What is away comes back: after each fault the run, or the next one, finishes, and nothing is half registered."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from processes import wait_for

from flows import owed
from flows.retrain import retrain, store
from flows.up import Up
from v2meow import release


def trace(place: Path) -> list[str]:
    file = place.parent / "trace"
    return file.read_text().split() if file.exists() else []


@pytest.mark.long
def test_what_was_made_while_the_remote_was_away_is_stored_by_the_next_run(server, small, monkeypatch):
    """The next run has nothing to do, and a lost disk would then have lost the model."""
    monkeypatch.setattr(store, "retry_delay_seconds", [0.1, 0.1, 0.1])
    remote = small.parent / "remote"
    remote.write_text("a disk that is not mounted")
    subprocess.run(
        [sys.executable, "-m", "dvc", "remote", "add", "--force", "--default", "away", str(remote)],
        cwd=small,
        check=True,
        capture_output=True,
    )
    assert retrain(str(small), return_state=True).is_failed()
    assert release.registry(small).models() == [], "a version whose data is nowhere else was registered"
    assert owed.is_owed(small), "nobody would ask again before the next video"
    remote.unlink()
    assert retrain(str(small), return_state=True).is_completed()
    assert sorted(trace(small)) == ["gather", "left", "right"] and any(remote.rglob("*"))
    assert not owed.is_owed(small)
    assert [event.kind for event in release.registry(small).state("v2meow").history] == ["register", "assign"]


@pytest.mark.long
def test_a_run_outlives_its_server(small, free_port, monkeypatch):
    """A server that is killed in mid-run comes back, and the run ends as if nothing had been."""
    monkeypatch.setenv("RIGHT", "sleep 15")
    up, ended = Up(small, free_port), threading.Event()
    try:
        up.start()
        threading.Thread(target=up.keep, args=(ended,), daemon=True).start()
        url = f"http://127.0.0.1:{free_port}/api"
        asked = subprocess.Popen(
            [sys.executable, "-m", "v2meow.cli", "flows", "run", "retrain", "--server", url, "--wait"],
            env=up.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wait_for(lambda: "left" in trace(small), 180)
        os.kill(up.children["server"].pid, signal.SIGKILL)
        told = asked.communicate(timeout=240)[0]
    finally:
        ended.set()
        up.end()
    assert asked.returncode == 0 and "v2meow@v1 is registered" in told, told
    assert sorted(trace(small)) == ["gather", "left", "right"]
    assert [event.kind for event in release.registry(small).state("v2meow").history] == ["register", "assign"]
