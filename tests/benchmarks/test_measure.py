"""Figures that compare fairly: contestants in turns, ratios within a round, one object a line."""

import json

import pytest
import torch

from benchmarks import measure


@pytest.fixture
def clock(monkeypatch):
    """A clock that only what is measured moves."""
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])

    def work(seconds):
        now[0] += seconds

    return work


def test_contestants_take_turns_and_the_first_round_is_free(clock):
    """One after the other, the second would have another machine: others' work comes and goes."""
    turns, cost = [], iter([9.0, 9.0, 1.0, 2.0, 3.0, 4.0])

    def contestant(name):
        turns.append(name)
        clock(next(cost))

    taken = measure.alternate({name: lambda name=name: contestant(name) for name in "ab"}, rounds=2)
    assert turns == ["a", "b"] * 3
    assert taken == {"a": [1.0, 3.0], "b": [2.0, 4.0]}


def test_a_ratio_is_the_median_of_the_rounds_own():
    """A disturbance that lasts a round hits both; the ratio of medians would keep half of it."""
    taken = {"peer": [2.0, 20.0, 3.0], "ours": [1.0, 10.0, 1.0]}
    assert measure.ratio(taken, "peer", "ours") == 2.0


def test_a_result_for_programs_is_one_object_a_line(capsys):
    measure.emit({"case": "4x256", "ours_ms": 1234.567, "rows": 123456, "peer": None}, json=True)
    line, rest = capsys.readouterr().out.split("\n")
    assert rest == ""
    assert json.loads(line) == {"case": "4x256", "ours_ms": 1230.0, "rows": 123456, "peer": None}


def test_a_result_for_people_promises_no_more_than_was_measured(capsys):
    """Six digits of a time that moves by a tenth from run to run are five too many."""
    measure.emit({"case": "4x256", "ours_ms": 1234.567, "mfu": 0.123456, "peer": None}, json=False)
    assert capsys.readouterr().out == "case 4x256  ours_ms 1,230  mfu 0.123  peer -\n"


def test_the_machine_is_told_with_every_result():
    """A figure without its machine cannot be compared with any other."""
    machine = measure.machine()
    assert machine["bench"] == "machine" and machine["threads"] == torch.get_num_threads()
    assert machine["cpu"] and json.dumps(machine)


def test_bandwidth_and_matrix_products_are_of_this_world():
    """Bytes for bits, or milliseconds for seconds, make floors that nothing can reach."""
    assert 1e8 < measure.read_bandwidth(2**24) < 1e14
    assert 1e8 < measure.gemm_rate(torch.float32) < 1e16
