"""A team of threads that run one compiled function together, and wait for each other inside it.

Handing every layer to a pool of threads and back costs more than a small layer's arithmetic. Here a step is handed out
once; between layers the threads meet at a counter, which takes a fraction of a microsecond. One team serves a process:
two that spin for the same cores would slow each other down.

A thread that waits looks at a counter again and again, for a few milliseconds at most. One that slept at once would be
woken by the scheduler on the core of the one that woke it, again and again, while the other core is idle.
"""

import os
import platform
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import int32, int64, njit, types, uint32
from numba.extending import intrinsic

from v2meow.generate.native.compiling import compiled, sources

_PATIENCE_S = 0.002  # after which a waiting thread leaves its core: other work must be keeping its team mate from one
_NAP = 20  # microseconds
_MOST_ALONE = 128  # steps that one thread takes before all try again: a few seconds with a large model
_nap = types.ExternalFunction("usleep", int32(uint32))


def _atomic(emit: Callable[[Any, ir.Value], ir.Value]) -> Any:
    def operation(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, given: tuple[ir.Value]) -> ir.Value:
            return emit(builder, builder.inttoptr(given[0], ir.IntType(64).as_pointer()))

        return int64(int64), generate

    return intrinsic(operation)


def _look(builder: Any, place: ir.Value) -> ir.Value:
    if platform.machine().lower() in ("x86_64", "amd64"):  # saves power, and leaves the core's other thread its share
        name = "llvm.x86.sse2.pause"
        builder.call(
            builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(ir.VoidType(), []), name),
            [],
        )
    return builder.load_atomic(place, "seq_cst", 8)


_increment = _atomic(lambda builder, at: builder.atomic_rmw("add", at, ir.Constant(ir.IntType(64), 1), "seq_cst"))
_value = _atomic(_look)


@njit
def _look_until(counter, goal, looks):
    """Whether `counter` [1] comes to `goal` within so many looks."""
    place = counter.ctypes.data
    for _ in range(looks):  # noqa: SIM110
        if _value(place) >= goal:
            return True
    return False


def _of(version: int) -> tuple[Any, Any]:
    """What a team calls by itself, to be kept on disk for this version of its parts."""

    @compiled
    def reached(counter, goal, looks):
        return version >= 0 and _look_until(counter, goal, looks)

    @compiled
    def post(counter):
        if version >= 0:
            _increment(counter.ctypes.data)

    return reached, post


_reached, _post = _of(sources())


@cache
def _looks() -> int:
    """How many looks take _PATIENCE_S."""
    counter, tried = np.zeros(1, np.int64), 20_000
    _reached(counter, 1, 1)
    began = time.perf_counter()
    _reached(counter, 1, tried)
    return int(tried * _PATIENCE_S / (time.perf_counter() - began))


def counters() -> np.ndarray:
    """What `meet` counts with, int64 [3]: all arrivals, how often somebody had to leave its core to wait, and the looks
    that come before that."""
    return np.array([0, 0, _looks()])


@njit
def meet(arrived, met, threads):
    """Wait until all threads have come here for the (met + 1)th time; met + 1. One alone does not meet: met.

    `arrived` are the threads' `counters`.
    """
    if threads == 1:
        return met
    met += 1
    _increment(arrived.ctypes.data)
    while not _look_until(arrived, met * threads, arrived[2]):
        _increment(arrived.ctypes.data + arrived.itemsize)
        _nap(_NAP)
    return met


class Team:
    """`size` threads, the caller's being one of them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._job: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
        self._posted = np.zeros(1, np.int64)  # jobs so far
        self._called = [threading.Semaphore(0) for _ in range(size - 1)]
        self._asleep = [False] * (size - 1)
        for number in range(1, size):
            threading.Thread(target=self._work, args=(number,), daemon=True, name="decoder").start()

    def run(self, function: Callable[..., Any], *arguments: Any) -> None:
        """function(*arguments, thread, threads) on all threads at once; it must end with a meeting of them all."""
        with self._lock:
            self._job = function, arguments
            _post(self._posted)
            for number, asleep in enumerate(self._asleep):
                if asleep:
                    self._called[number].release()
            function(*arguments, 0, self.size)

    def _work(self, number: int) -> None:
        place, done, looks = number - 1, 0, _looks()
        while True:
            while not _reached(self._posted, done + 1, looks):
                self._asleep[place] = True  # whoever posts after this wakes us; what was posted before, we see
                if self._posted[0] <= done:
                    self._called[place].acquire()
                self._asleep[place] = False
            done += 1
            assert self._job is not None
            function, arguments = self._job
            function(*arguments, number, self.size)


class Pace:
    """Who of a team takes the next step: all, or one alone for a while after they had to wait for each other's core.

    Where other processes want the cores, each of a step's many meetings may take as long as the scheduler lets those
    run. One thread alone is half as fast as two that are not disturbed, and many times as fast as two that are.
    """

    def __init__(self) -> None:
        self._alone, self._next = 0, 1

    def together(self) -> bool:
        """Whether all take the next step. Whoever is told so says afterwards how it went: `tell`."""
        self._alone -= 1
        return self._alone < 0

    def tell(self, *, waited: bool) -> None:
        """How a step of all went: after each that was disturbed, one goes on alone for twice as many as before."""
        self._alone, self._next = (self._next, min(2 * self._next, _MOST_ALONE)) if waited else (0, 1)


_teams: dict[int, Team] = {}
_teams_lock = threading.Lock()


def team(size: int) -> Team:
    """The process's team of that size."""
    with _teams_lock:
        if size not in _teams:
            _teams[size] = Team(size)
        return _teams[size]


os.register_at_fork(after_in_child=_teams.clear)  # threads do not survive a fork
