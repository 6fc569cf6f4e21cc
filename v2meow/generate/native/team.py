"""A team of threads that run one compiled function together, and wait for each other inside it.

Handing every layer to a pool of threads and back costs more than a small layer's arithmetic. Here a step is handed out
once; between layers the threads meet at a counter, which takes a fraction of a microsecond. One team serves a process:
two that spin for the same cores would slow each other down.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import int32, int64, njit, types, uint32
from numba.extending import intrinsic

# Looks at the counter (some 50 microseconds) before a waiting thread sleeps: if other work keeps the thread that it
# waits for from a core, then only a core that falls idle takes that one over.
_PATIENCE = 20_000
_SLEEP = 10  # microseconds
_sleep = types.ExternalFunction("usleep", int32(uint32))


def _atomic(emit: Callable[[Any, ir.Value], ir.Value]) -> Any:
    @intrinsic
    def operation(_: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, given: tuple[ir.Value]) -> ir.Value:
            return emit(builder, builder.inttoptr(given[0], ir.IntType(64).as_pointer()))

        return int64(int64), generate

    return operation


_arrive = _atomic(lambda builder, place: builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "acq_rel"))
_count = _atomic(lambda builder, place: builder.load_atomic(place, "acquire", 8))


@njit
def meet(arrived, met, threads):
    """Wait until all threads have come here for the (met + 1)th time; met + 1. `arrived` [1] counts all arrivals."""
    met += 1
    place = arrived.ctypes.data
    _arrive(place)
    looks = 0
    while _count(place) < met * threads:
        looks += 1
        if looks > _PATIENCE:
            _sleep(_SLEEP)
    return met


class Team:
    """`size` threads, the caller's being one of them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._job: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
        self._called = [threading.Semaphore(0) for _ in range(size - 1)]
        for number, called in enumerate(self._called, 1):
            threading.Thread(target=self._work, args=(number, called), daemon=True, name="decoder").start()

    def run(self, function: Callable[..., Any], *arguments: Any) -> None:
        """function(*arguments, thread, threads) on all threads at once; it must end with a meeting of them all."""
        with self._lock:
            self._job = function, arguments
            for called in self._called:
                called.release()
            function(*arguments, 0, self.size)

    def _work(self, number: int, called: threading.Semaphore) -> None:
        while True:
            called.acquire()
            assert self._job is not None
            function, arguments = self._job
            function(*arguments, number, self.size)


_teams: dict[int, Team] = {}
_teams_lock = threading.Lock()


def team(size: int) -> Team:
    """The process's team of that size."""
    with _teams_lock:
        if size not in _teams:
            _teams[size] = Team(size)
        return _teams[size]


os.register_at_fork(after_in_child=_teams.clear)  # threads do not survive a fork
