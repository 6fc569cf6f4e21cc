"""Many processes at work on one registry, some of them killed at random: the history stays one story."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from candidates import MODEL, attest, log_files, register_many
from processes import wait_for

from v2meow.registry import Registry
from v2meow.registry.rules import may_hold

# A worker asks for the same things in the same order with the same keys, however often it is started.
WORKER = """
import json, random, sys, time
from pathlib import Path
from v2meow.registry import Registry, RegistryError

location, worker, folder = sys.argv[1], sys.argv[2], Path(sys.argv[5])
count, pause = int(sys.argv[3]), float(sys.argv[4])
registry, choice = Registry(location), random.Random(worker)
registry.state("v2meow")
(folder / f"{worker}.ready").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
for number in range(count):
    key, version = f"{worker}.{number}", f"v{choice.randint(1, 4)}"
    stage, turn = choice.choice(["staging", "production", "production"]), choice.random()
    time.sleep(2 * pause * choice.random())
    begun, worked, what, why = time.perf_counter(), time.process_time(), "promote", ""
    try:
        if turn < 0.05:
            what = "rollback"
            registry.rollback("v2meow", stage, actor=worker, idempotency_key=key)
        elif turn < 0.15:
            what = "attest"
            bundle, report = registry.state("v2meow").versions[version].bundle, folder / f"{key}.json"
            report.write_text(json.dumps({"passed": True, "bundle": bundle, "numbers": {"number": number}}))
            registry.attest("v2meow", version, "smoke", report, actor=worker, idempotency_key=key)
        else:
            registry.promote("v2meow", version, stage, actor=worker, idempotency_key=key)
    except RegistryError as error:
        why = str(error)
    took = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - worked}
    print(json.dumps({"key": key, "what": what, "why": why} | took), flush=True)
"""
_REASONS = ("is held by", "no smoke report", "cannot be rolled back")


def crowd(registry: Registry, folder: Path, workers: int, count: int, kills: int, pause: float) -> list[dict[str, Any]]:
    """What the workers say of their requests, each of which comes `pause` seconds after the one before, on average.

    `kills` times one of them is killed and started again.
    """
    for name in register_many(registry, folder, 4):
        registry.promote(MODEL, name, "staging", actor="ada")
        attest(registry, folder, name)

    def start(worker: int) -> subprocess.Popen:
        arguments = [registry.location, f"w{worker}", str(count), str(pause), str(folder)]
        with (folder / f"{worker}.jsonl").open("a") as out:
            return subprocess.Popen([sys.executable, "-c", WORKER, *arguments], stdout=out)

    running, chance = [start(worker) for worker in range(workers)], random.Random(7)
    try:
        wait_for(lambda: len(list(folder.glob("*.ready"))) == workers, 120.0)
        (folder / "go").touch()
        for _ in range(kills):
            time.sleep(chance.uniform(0.05, 0.4))
            victim = chance.randrange(workers)
            running[victim].kill()
            running[victim].wait()
            running[victim] = start(victim)
        assert [child.wait(timeout=500) for child in running] == [0] * workers
    finally:
        for child in running:
            child.kill()
            child.wait()
    lines = [line for worker in range(workers) for line in (folder / f"{worker}.jsonl").read_text().splitlines()]
    return [json.loads(line) for line in lines]


def check(registry: Registry, answers: list[dict[str, Any]], requests: int) -> None:
    """The log has no gap and no request twice, and at every event the rules held; who lost was told why."""
    state = registry.state(MODEL)
    keys = Counter(event.idempotency_key for event in state.history if event.idempotency_key)
    assert set(keys.values()) == {1}
    won, lost = ({found["key"] for found in answers if bool(found["why"]) == refused} for refused in (False, True))
    assert len(won | lost) == requests
    assert keys.keys() <= won  # whoever was killed after it had written was told so when it asked again
    assert all(any(reason in found["why"] for reason in _REASONS) for found in answers if found["why"])
    for number, event in enumerate(state.history):
        before = replace(state, history=state.history[:number])
        if event.kind in ("assign", "rollback") and event.stage:
            assert event.expected_previous == before.stages.get(event.stage)
            after = replace(state, history=state.history[: number + 1])
            assert after.stages == before.stages | {event.stage: event.version.name}
        if event.kind == "assign" and event.stage:
            assert event.evidence == may_hold(before, before.versions[event.version.name], event.stage)
    assert all(Registry(registry.location).state(MODEL) == state for _ in range(3))


def p95(answers: list[dict[str, Any]], figure: str) -> float:
    """What 95 of 100 promotions stay below, those that lost included."""
    taken = sorted(found[figure] for found in answers if found["what"] == "promote")
    return taken[len(taken) * 95 // 100]


def test_a_crowd_leaves_one_story(registry, tmp_path):
    check(registry, crowd(registry, tmp_path, workers=4, count=12, kills=4, pause=0.02), requests=48)
    assert [path.name for path in log_files(registry)] == [
        f"{number:08d}.json" for number in range(1, len(registry.state(MODEL).history) + 1)
    ]


def test_a_crowd_leaves_one_story_in_a_bucket(bucket, tmp_path):
    registry = Registry(bucket)
    check(registry, crowd(registry, tmp_path, workers=3, count=8, kills=2, pause=0.05), requests=24)


@pytest.mark.long
@pytest.mark.parametrize("kept", ["folder", "bucket"])
def test_sixteen_promote_fifty_times_each(kept, tmp_path, request):
    """Sixteen ask, each every two seconds. What others do on the machine counts for the seconds, not for the work."""
    registry = Registry(request.getfixturevalue("bucket") if kept == "bucket" else tmp_path / "registry")
    answers = crowd(registry, tmp_path, workers=16, count=50, kills=20, pause=2.0)
    check(registry, answers, requests=800)
    events, seconds, cpu = len(registry.state(MODEL).history), p95(answers, "seconds"), p95(answers, "cpu")
    print(f"{kept}: {events} events, p95 of a promotion {seconds:.3f} s, of which {cpu:.3f} s of work")
    assert cpu < 0.1
