"""Windows that advance over music of any length, carrying context over from one to the next."""

from typing import NamedTuple

_CHUNK_S, _FIRST_CHUNKS_S = 2, (1, 1)  # each costs what its context and the way to the codec cost


class Window(NamedTuple):
    """Frames `start` … `end` - 1, of which those before `fresh` are already known."""

    start: int
    end: int
    fresh: int


def advance(total: int, window: int, context: int) -> list[Window]:
    """Windows of at most `window` frames that cover `total` frames; each begins `context` frames before its new ones.

    The last one is moved back so that it is as long as the others.
    """
    assert 0 <= context < window, (context, window)
    windows, fresh = [], 0
    while fresh < total:
        end = min(total, max(0, fresh - context) + window)
        windows.append(Window(max(0, end - window), end, fresh))
        fresh = end
    return windows


def chunk_ends(total: int, rate: int) -> list[int]:
    """The frames of `total` behind which sound is cut to be decoded and handed out: at whole seconds, soon at first."""
    first = [rate * sum(_FIRST_CHUNKS_S[: count + 1]) for count in range(len(_FIRST_CHUNKS_S))]
    ends = [*first, *range(first[-1] + _CHUNK_S * rate, total, _CHUNK_S * rate)]
    return [*(end for end in ends if end < total), total]
