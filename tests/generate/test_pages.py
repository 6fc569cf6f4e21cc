"""Huge pages are asked for where the used memory is, and nowhere else."""

import subprocess
import sys

import pytest

from v2meow.generate.pages import Span, huge_spans

PAGE = 2 * 2**20
MAPPINGS = [Span(10 * PAGE, 20 * PAGE), Span(30 * PAGE, 40 * PAGE)]


def _span(start: float, end: float) -> Span:
    return Span(int(start * PAGE), int(end * PAGE))


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ([], []),
        ([_span(10.1, 10.9)], []),  # less than a page
        ([_span(10, 12)], [_span(10, 12)]),
        ([_span(10.5, 12.5)], [_span(11, 12)]),
        ([_span(10.1, 10.2), _span(13, 13.1)], [_span(11, 13)]),
        ([_span(18, 21)], []),  # not all within the mapping
        ([_span(11, 12), _span(31, 33)], [_span(11, 12), _span(31, 33)]),
    ],
)
def test_whole_pages_between_the_first_and_the_last_used_byte(used, expected):
    """Pages around it would be filled with zeros that nobody asked for."""
    assert huge_spans(used, MAPPINGS) == expected


HUGE = """
import torch
from pathlib import Path
from v2meow.generate.pages import Span, use_huge_pages

def huge():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages"))

tensor = torch.arange(8 * 2**21 // 8)
before = huge()
gained = use_huge_pages([Span(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes)])
print(gained, huge() - before, int(torch.equal(tensor, torch.arange(8 * 2**21 // 8))))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")
def test_memory_in_use_moves_into_huge_pages_and_keeps_its_content():
    """In a process of its own: here, the memory may lie in huge pages already."""
    done = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, check=True)
    gained, more, kept = map(int, done.stdout.split())
    if not gained:
        pytest.skip("this kernel gives no huge pages on demand: it is older than 6.1, or they are switched off")
    assert 6 * PAGE <= gained <= 8 * PAGE
    assert more > 0 and kept


HEAP = """
import resource, torch
from pathlib import Path
from v2meow.generate.pages import give_back_free_pages

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

torch.ones(2**20)  # 4 MiB: once such a block is freed, glibc takes the next ones from its heap
blocks, between = [], []
for _ in range(64):
    blocks.append(torch.ones(2**20))
    between.append(torch.ones(2**10))  # what keeps the heap from shrinking by itself
held = resident()
del blocks
kept = resident()
give_back_free_pages()
print(held - kept, kept - resident(), sum(int(small.sum()) for small in between))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps freed memory in this way")
def test_freed_memory_is_given_back():
    """Weights that were copied would be held twice for ever. In a process whose heap nothing else has shaped."""
    done = subprocess.run([sys.executable, "-c", HEAP], capture_output=True, text=True, check=True)
    by_itself, given_back, kept = map(int, done.stdout.split())
    assert by_itself < 100 * 2**20 < given_back
    assert kept == 64 * 2**10
