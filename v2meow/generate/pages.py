"""Pages of memory: huge ones for what every decoding step reads, and none for what is gone.

A step reads each weight once. In pages of 4 KiB, looking up where they are costs 4 to 6 % of it (4096 x 1024, float32,
in a virtual machine). Linux puts memory that is in use into pages of 2 MiB when it is asked to. Elsewhere, and where
it refuses, nothing happens.
"""

import ctypes
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_PAGE = 2 * 2**20
_HUGEPAGE, _COLLAPSE = 14, 25  # madvise: prefer huge pages from now on; make them now (Linux 6.1)
_MAPS = Path("/proc/self/maps")


class Span(NamedTuple):
    """Addresses `start` … `end` - 1."""

    start: int
    end: int


def use_huge_pages(used: Iterable[Span]) -> int:
    """Ask for huge pages around the given spans of this process's memory; the bytes that now lie in such pages."""
    if not _MAPS.exists():
        return 0
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    gained = 0
    for span in huge_spans(list(used), _anonymous(_MAPS.read_text())):
        length = span.end - span.start
        if madvise(span.start, length, _HUGEPAGE) == 0 and madvise(span.start, length, _COLLAPSE) == 0:
            gained += length
    return gained


def give_back_free_pages() -> None:
    """Return memory that this process has freed to the system, where its allocator (glibc's) kept it for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def huge_spans(used: list[Span], mappings: list[Span]) -> list[Span]:
    """What lies between the first and the last used byte of each mapping, in whole huge pages.

    Allocations that follow each other share pages; a mapping's other ends may never have been touched.
    """
    found = []
    for mapping in mappings:
        inside = [span for span in used if mapping.start <= span.start and span.end <= mapping.end]
        if inside:
            start = -(-min(span.start for span in inside) // _PAGE) * _PAGE
            end = max(span.end for span in inside) // _PAGE * _PAGE
            found += [Span(start, end)] if end > start else []
    return found


def _anonymous(maps: str) -> list[Span]:
    """The writable, private mappings of /proc/PID/maps that belong to no file."""
    found = []
    for line in maps.splitlines():
        addresses, rights, _, _, inode, *name = line.split(maxsplit=5)
        if rights == "rw-p" and inode == "0" and (not name or name[0] == "[heap]"):
            found.append(Span(*(int(address, 16) for address in addresses.split("-"))))
    return found
