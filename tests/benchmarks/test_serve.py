"""The benchmark of the service tells what it measured; the service itself is in tests/serving."""

import subprocess
import sys

import pytest
from processes import wait_for

from benchmarks import serve as bench
from benchmarks.serve import Answer
from v2meow.config import MediaConfig
from v2meow.media import Reader


def test_those_that_were_sent_away_are_no_part_of_the_times():
    """A refusal takes milliseconds: among the times it would make a full service look fast."""
    made = [Answer(200, 0.5, float(second), None) for second in range(1, 10)]
    row = bench._spread([*made, Answer(429, 0.0, 0.001, "2"), Answer(503, 0.0, 30.0, None)])
    assert row["asked"] == 11 and row["busy"] == pytest.approx(1 / 11) and row["other"] == 1
    assert (row["p50"], row["p95"]) == (5.0, pytest.approx(8.6))


def test_processor_time_is_that_of_all_who_descend_from_a_process():
    """Ray's workers are children's children; without them the service would cost nothing."""
    work = "sum(range(20_000_000)); input()"
    command = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    parent = subprocess.Popen([sys.executable, "-c", command], stdin=subprocess.PIPE)
    try:
        wait_for(lambda: bench._cpu_seconds(parent.pid) > 0.2)
    finally:
        parent.communicate()
    assert bench._cpu_seconds(parent.pid) == 0.0


def test_the_clip_is_as_long_as_the_figures_say(tmp_path):
    with Reader(MediaConfig(timeout_s=30.0, memory_mib=1536, max_pixels=40_000_000, max_seconds=7200.0)) as reader:
        assert reader.probe(bench.clip(tmp_path)).seconds == pytest.approx(bench.SECONDS, abs=0.11)
