"""Functions that are compiled on first use and kept on disk, until anything changes that they are compiled from.

Numba by itself looks at the file of a function alone. So a function that is kept stands in another one, whose argument
is the checksum of all files here, and makes some use of that. One that needs nothing but its own file needs no other.
"""

import logging
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

from v2meow.generate.native.maths import FAST

log = logging.getLogger("v2meow.generate")
_SLOW_S = 5.0  # more than it takes to load what was kept


def compiled(function: Callable[..., Any]) -> Any:
    """The function compiled on first use, and kept on disk where there is a place and room for it."""
    dispatcher: Any = njit(nogil=True, **FAST)(function)
    with suppress(RuntimeError):  # nothing is writable: neither the package, nor a home
        dispatcher._cache = _Cache(function)  # as `cache=True` does
    return dispatcher


class _Cache(FunctionCache):
    """Numba's, but that a full disk is no error: what was compiled is there, whether it can be kept or not."""

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):
            super().save_overload(sig, data)


@contextmanager
def told_if_slow() -> Iterator[None]:
    """Around a first call: whoever waits for it to be compiled is told why."""
    told = "the decoding step is being compiled for this machine: half a minute, once"
    timer = threading.Timer(_SLOW_S, log.warning, [told])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def sources(folder: Path = Path(__file__).parent) -> int:
    """A checksum of all that is compiled."""
    return zlib.crc32(b"".join(file.read_bytes() for file in sorted(folder.glob("*.py"))))
