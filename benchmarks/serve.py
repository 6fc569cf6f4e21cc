"""How fast the service is: `python -m benchmarks.serve --json` starts one and asks it over HTTP.

Clients are open-loop where load is measured: they come when they come, however long those before them wait. What the
service costs is told beside the same work in one process with one thread, as each part of the service has; since its
parts are on as many cores as there are, processor time is told, too.
"""

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import torch

from benchmarks import measure
from v2meow.generate.files import read_features
from v2meow.generate.pipeline import Cascade
from v2meow.media import Reader, write_video
from v2meow.release import SHIPPED

SECONDS, FPS, SIDE = 10.0, 10, 64
CONCURRENT, LOAD_S, START_S = 16, 30.0, 300.0
_COMMAND = "from v2meow.cli import main; main()"
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Answer:
    """One request: status, seconds to the first sound and to the end, and what a full service said of coming back."""

    status: int
    first_s: float
    s: float
    retry_after: str | None


class Client:
    """Asks one service for music for one video."""

    def __init__(self, url: str, video: bytes) -> None:
        self._video = video
        self._http = httpx.AsyncClient(base_url=url, timeout=300.0, limits=httpx.Limits(max_connections=None))

    async def ask(self, seed: int) -> Answer:
        """One generation, to its end."""
        began, first, read = time.perf_counter(), 0.0, 0
        files, data = {"video": self._video}, {"seed": str(seed)}
        async with self._http.stream("POST", "/v1/generations", files=files, data=data) as answer:
            async for block in answer.aiter_bytes():
                read += len(block)
                if not first and read > 2 * FPS * SIDE:  # more than a header
                    first = time.perf_counter() - began
        return Answer(answer.status_code, first, time.perf_counter() - began, answer.headers.get("retry-after"))

    async def at_once(self, count: int) -> float:
        """Seconds that so many take together."""
        began = time.perf_counter()
        answers = await asyncio.gather(*(self.ask(seed) for seed in range(count)))
        assert {answer.status for answer in answers} == {200}, answers
        return time.perf_counter() - began

    async def arrivals(self, rate: float, seconds: float) -> list[Answer]:
        """Requests that come `rate` times a second for so long, whatever becomes of those before."""
        asked = []
        for seed in range(round(rate * seconds)):
            asked.append(asyncio.ensure_future(self.ask(seed)))
            await asyncio.sleep(1 / rate)
        return await asyncio.gather(*asked)

    async def close(self) -> None:
        await self._http.aclose()


async def compare(url: str, pid: int, video: Path, rounds: int, load_s: float) -> list[dict[str, Any]]:
    """The rows: one request alone, beside one process; many at once, beside one; and twice what can be sustained."""
    client = Client(url, video.read_bytes())
    try:
        await client.at_once(1)  # pays for what is loaded when it is first used
        used = _cpu_seconds(pid)
        alone = [await client.ask(seed) for seed in range(rounds)]
        cost = (_cpu_seconds(pid) - used) / rounds
        local, local_cost = await asyncio.to_thread(in_one_process, video, rounds)
        together = [await client.at_once(CONCURRENT) / CONCURRENT for _ in range(rounds)]
        latency, each = median(answer.s for answer in alone), median(together)
        answers = await client.arrivals(2 / each, load_s)
    finally:
        await client.close()
    return [
        {"bench": "serve", "case": "idle", "first_s": median(answer.first_s for answer in alone), "s": latency}
        | {"process_s": local, "overhead": latency / local - 1, "cpu_s": cost, "process_cpu_s": local_cost},
        {"bench": "serve", "case": f"{CONCURRENT} at once", "one_s": latency, "each_s": each, "gain": latency / each},
        {"bench": "serve", "case": "overload", "asked_s": 2 / each, **_spread(answers)},
    ]


def _spread(answers: list[Answer]) -> dict[str, Any]:
    taken = sorted(answer.s for answer in answers if answer.status == 200)
    told = Counter(answer.status for answer in answers)
    p50, p95, p99 = (float(np.quantile(taken, share)) for share in (0.5, 0.95, 0.99))
    other = len(answers) - told[200] - told[429]
    return {"asked": len(answers), "busy": told[429] / len(answers), "other": other, "p50": p50, "p95": p95, "p99": p99}


def in_one_process(video: Path, rounds: int) -> tuple[float, float]:
    """Seconds, and processor seconds without the decoding child's, of the same work here: medians of `rounds`."""
    cascade, taken, used = Cascade(SHIPPED / "nano"), [], []
    with Reader(cascade.recipe.media) as reader:

        def make(seed: int) -> None:
            features = read_features(cascade.recipe, reader, video, SECONDS)
            cascade.generate(tuple(part[None] for part in features), None, SECONDS, [seed])

        make(0)
        for seed in range(rounds):
            before = time.process_time()
            taken.append(measure.timed(lambda seed=seed: make(seed)))
            used.append(time.process_time() - before)
    return median(taken), median(used)


@contextmanager
def started(folder: Path) -> Iterator[tuple[str, int]]:
    """`v2meow serve` with the shipped model: its address and process id. It is ended on leaving."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "serve.yaml").write_text(f"open: true\nspool: {folder / 'spool'}\n")
    command = [sys.executable, "-c", _COMMAND, "serve", "--config", str(folder / "serve.yaml"), "--port", str(port)]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        _wait(f"http://127.0.0.1:{port}", process, folder / "serve.log")
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60.0)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=5.0).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise RuntimeError(f"the service did not start: {log.read_text()[-2000:]}")


def _cpu_seconds(root: int) -> float:
    """Processor time so far of a process and all that live and descend from it (Linux)."""
    rows = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        rows[int(stat.parent.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICK
    found = {root}
    while more := {pid for pid, (parent, _) in rows.items() if parent in found} - found:
        found |= more
    return sum(rows[pid][1] for pid in found if pid in rows)


def clip(folder: Path) -> Path:
    """A video of SECONDS that flickers."""
    noise = np.random.default_rng(0)
    pictures = (noise.integers(0, 255, (SIDE, SIDE, 3), np.uint8) for _ in range(round(SECONDS * FPS)))
    write_video(folder / "clip.mp4", pictures, FPS, np.zeros(round(SECONDS * 16_000), np.float32), 16_000)
    return folder / "clip.mp4"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load-seconds", type=float, default=LOAD_S, help="how long the service is overloaded")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measure.emit(measure.machine() | {"load": os.getloadavg()[0]}, json=arguments.json)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = clip(folder)
        with started(folder) as (url, pid):
            for row in asyncio.run(compare(url, pid, video, arguments.rounds, arguments.load_seconds)):
                measure.emit(row, json=arguments.json)
    measure.emit({"bench": "machine", "load": os.getloadavg()[0]}, json=arguments.json)


if __name__ == "__main__":
    main()
