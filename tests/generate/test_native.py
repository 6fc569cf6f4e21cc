"""The compiled step's parts against plain arithmetic, and its threads."""

import errno
import itertools
import subprocess
import sys
import threading
import time
from typing import Any

import numba
import numpy as np
import pytest
import tiny
import torch
from numba import njit, types
from numba.core import config
from numba.core.caching import IndexDataCacheFile
from numba.extending import intrinsic
from torch.nn import functional as F

from v2meow.config import SamplingConfig
from v2meow.generate.linear import RoundedLinear, lower
from v2meow.generate.native import compiling, maths, vectors
from v2meow.generate.native.compiling import compiled, sources, told_if_slow
from v2meow.generate.native.dots import BFLOAT16, COLUMNS, FLOAT16, FLOAT32, INT5, INT8, OFFSET, tile
from v2meow.generate.native.draw import draw
from v2meow.generate.native.packed import pack, padded, unpack
from v2meow.generate.native.products import Layer, Scratch, project, whole_groups
from v2meow.generate.native.step import _of
from v2meow.generate.native.team import Pace, Team, counters, meet
from v2meow.generate.native.vectors import LANES
from v2meow.generate.native.weights import Matrices
from v2meow.generate.sampling import sample
from v2meow.model.transformer import Block

OUTS = 48
WIDTHS = {kind: COLUMNS[kind] + 192 for kind in (FLOAT32, FLOAT16, BFLOAT16, INT8)} | {
    INT5: COLUMNS[INT8] + 160
}  # a whole block of columns and a part


def _weights(kind: int) -> torch.Tensor:
    weight = torch.randn(OUTS, WIDTHS[kind], generator=torch.Generator().manual_seed(kind))
    integers = (30 * weight).clamp(-127, 127).to(torch.int8)
    floats = {FLOAT32: weight, FLOAT16: weight.half(), BFLOAT16: weight.bfloat16()}
    return (floats | {INT8: integers, INT5: pack(integers)})[kind]


def _scales(kind: int) -> torch.Tensor:
    return torch.linspace(0.5, 2, OUTS) if kind in (INT8, INT5) else torch.empty(0)


def _product(kind: int, weight: torch.Tensor, x: torch.Tensor, threads: int = 1) -> torch.Tensor:
    rows = len(x)
    y = torch.full((whole_groups(rows), OUTS), torch.nan)
    x, sums = F.pad(x, (0, 0, 0, len(y) - rows)), np.full(len(y) * 8 * LANES, np.nan, np.float32)
    rounded, unpacked = np.full(len(x) * padded(x.shape[1]), 99, np.uint8), np.zeros(32 * padded(x.shape[1]), np.int8)
    scratch = Scratch(sums, rounded, np.zeros(len(x), np.float32), unpacked)
    whole = unpack(weight, padded(WIDTHS[INT5])) if kind == INT5 else weight
    offsets = (OFFSET * whole.sum(1)).to(torch.int32)
    layer = Layer(kind, weight.data_ptr(), _scales(kind).numpy(), offsets.numpy())
    for thread in range(threads):
        project(layer, x.numpy(), rows, y.numpy(), scratch, (weight.data_ptr(), 0), thread, threads)
    return y[:rows]


@pytest.mark.parametrize(("kind", "rows"), list(itertools.product((FLOAT32, FLOAT16, BFLOAT16), range(1, 12))))
def test_products_are_those_of_plain_arithmetic(kind, rows):
    """Every number of rows, in groups or by themselves; weights are exact in both forms."""
    weight, x = _weights(kind), torch.randn(rows, WIDTHS[kind])
    expected = (x.double() @ weight.double().T).float()
    torch.testing.assert_close(_product(kind, weight, x), expected, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("rows", range(1, 12))
def test_products_of_bytes_are_those_of_the_plain_layer_to_the_last_bit(rows):
    """Rows read at once and rows decoded step by step meet in one attention. Sums are as large as they can be."""
    weight = _weights(INT8)
    weight[0], weight[1] = 127, -127
    x = torch.randn(rows, WIDTHS[INT8]) * torch.logspace(-3, 3, rows)[:, None]
    x[0] = 9.0
    assert torch.equal(_product(INT8, weight, x), RoundedLinear(weight, _scales(INT8), None)(x))


@pytest.mark.parametrize("rows", range(1, 12))
def test_products_of_packed_weights_are_those_of_the_plain_layer_to_the_last_bit(rows):
    """Its lines end inside of a group: what lies behind counts for nothing."""
    weight, x = _weights(INT5), torch.randn(rows, WIDTHS[INT5])
    assert torch.equal(_product(INT5, weight, x), RoundedLinear(weight, _scales(INT5), None, WIDTHS[INT5])(x))


@pytest.mark.parametrize(("rows", "stride"), [(1, 32), (4, 64)])
def test_processors_without_its_instructions_add_up_the_same_bytes(rows, stride):
    """The tile that is compiled for them, at the largest sums."""
    width, outs = 192, 6
    x = torch.randint(0, 256, (rows, width), dtype=torch.uint8)
    weight = torch.randint(-127, 128, (outs, width), dtype=torch.int8)
    x[0], weight[0] = 255, -127
    y, sums = np.zeros((rows, outs), np.int32), np.zeros(rows * outs * LANES, np.int32)
    plain = tile(rows, outs, INT8, 1, stride=stride, plain=True)

    @njit
    def product(weights, x, y, sums):
        plain(weights, x, y, sums, weights, width, outs, 0, width)

    product(weight.data_ptr(), x.data_ptr(), y.ctypes.data, sums.ctypes.data)
    assert (y == (x.long() @ weight.long().T).numpy()).all()


def _plain_widener() -> Any:
    @intrinsic
    def widen(_, halves, floats):
        def generate(context, builder, _, given):
            read = vectors.load(builder, given[0], vectors.HALVES, 2)
            found = vectors.from_float16(context, builder, read, plain=True)
            builder.store(found, builder.inttoptr(given[1], vectors.FLOATS.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return widen


def test_processors_without_its_instruction_read_the_same_float16():
    """Every number that there is, exactly: subnormal ones, both noughts, infinity."""
    numbers, widen = torch.arange(1 << 16).to(torch.int16).view(torch.float16), _plain_widener()

    @njit
    def widen_all(halves, floats, count):
        for first in range(0, count, LANES):
            widen(halves + 2 * first, floats + 4 * first)

    found = torch.zeros(len(numbers))
    widen_all(numbers.data_ptr(), found.data_ptr(), len(numbers))
    rational = ~numbers.isnan()
    assert torch.equal(found.view(torch.int32)[rational], numbers.float().view(torch.int32)[rational])
    assert found[~rational].isnan().all()


@pytest.mark.parametrize("kind", [FLOAT32, FLOAT16, BFLOAT16, INT8, INT5])
def test_a_row_is_the_same_bit_for_bit_in_any_company(kind):
    """Else a request would give other music in other company."""
    weight, x = _weights(kind), torch.randn(7, WIDTHS[kind])
    together = _product(kind, weight, x)
    for row in range(7):
        assert torch.equal(_product(kind, weight, x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_share_the_outputs_without_gaps(threads):
    weight, x = _weights(FLOAT32), torch.randn(3, WIDTHS[FLOAT32])
    assert torch.equal(_product(FLOAT32, weight, x, threads), _product(FLOAT32, weight, x))


@njit
def _each(function, x, out):
    for i in range(len(x)):
        out[i] = function(x[i])


def test_exponentials_are_exact_to_float32():
    x = -np.linspace(0, 80, 10_001).astype(np.float32)
    found = np.empty_like(x)
    _each(maths.exp_of_negative, x, found)
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=1e-6)
    _each(maths.exp_of_negative, np.full(1, -np.inf, np.float32), found[:1])
    assert 0 <= found[0] < 1e-37


def test_gelu_is_that_of_pytorch():
    x = np.linspace(-12, 12, 10_001).astype(np.float32)
    found = np.empty_like(x)
    _each(maths.gelu, x, found)
    np.testing.assert_allclose(found, F.gelu(torch.from_numpy(x).double()).numpy(), atol=1e-6)


@pytest.mark.parametrize("rows", [1, 4])
def test_gelu_covers_its_columns_and_no_others(rows):
    x = torch.randn(rows, 48)
    found = x.clone()
    maths.activate(found.numpy(), rows, 8, 40)
    expected = torch.cat((x[:, :8], F.gelu(x[:, 8:40]), x[:, 40:]), 1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("top_k", [0, 1, 7, 64])
def test_codes_are_drawn_as_elsewhere(top_k, top_p):
    """The same numbers give the same codes; a number within rounding of two codes' border may give either."""
    random = torch.Generator().manual_seed(top_k)
    logits, numbers = 3 * torch.randn(400, 64, generator=random), torch.rand(400, generator=random)
    config = SamplingConfig(temperature=0.8, top_k=top_k, top_p=top_p, guide_video=1.0, guide_text=1.0)
    expected = sample(logits, config, numbers).tolist()
    found = [draw(row, 0.8, top_k, top_p, number) for row, number in zip(logits.numpy(), numbers.tolist(), strict=True)]
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= 399
    assert len(set(found)) > 10


def test_layers_become_views_of_one_buffer():
    """Weights are not kept twice, and what computes with many rows computes with the very same ones."""
    model = tiny.model("semantic")
    lower(model, "int8")
    before = model.head.weight.clone()
    matrices = Matrices(model)
    assert matrices.kind == INT8 and torch.equal(model.head.weight, before)
    first, length = matrices.buffer.data_ptr(), matrices.buffer.nbytes
    for block in model.blocks:
        assert isinstance(block, Block) and block.cross
        for layer in (
            block.attention.qkv,
            block.attention.out,
            block.cross.query,
            block.cross.out,
            block.feed[0],
            block.feed[2],
        ):
            assert first <= layer.weight.data_ptr() < first + length  # type: ignore[operator, union-attr]


@njit(nogil=True)
def _relay(arrived, board, rounds, met, thread, threads):
    """Each thread writes its line, and after the meeting adds up those of all."""
    for _ in range(rounds):
        board[0, thread] += thread + 1
        met = meet(arrived, met, threads)
        board[1, thread] += board[0, :threads].sum()
        met = meet(arrived, met, threads)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_threads_of_a_team_see_what_the_others_wrote_before_a_meeting(size):
    """More threads than cores, too: the sums come out short when one goes on too early."""
    team, rounds = Team(size), 300 // size
    arrived, board = counters(), np.zeros((2, LANES), np.int64)
    for number in range(3):
        team.run(_relay, arrived, board, rounds, number * 2 * rounds)
    each = size * (size + 1) // 2
    assert (board[1, :size] == each * (3 * rounds) * (3 * rounds + 1) // 2).all()


def test_callers_of_a_team_take_turns():
    """Two engines that are stepped by two threads share its members."""
    team = Team(2)

    def caller() -> None:
        arrived, board = counters(), np.zeros((2, LANES), np.int64)
        for number in range(50):
            team.run(_relay, arrived, board, 3, number * 6)
        sums.append(board[1, :2].tolist())

    sums: list[list[int]] = []
    callers = [threading.Thread(target=caller) for _ in range(3)]
    for each in callers:
        each.start()
    for each in callers:
        each.join(60)
    assert sums == [[3 * 150 * 151 // 2] * 2] * 3


def test_whoever_has_to_wait_for_long_is_counted():
    """It tells that other processes want the cores."""
    team, arrived = Team(2), counters()
    _meet(arrived, 0, 1)  # compiled before: both would be late otherwise

    def late(thread: int, threads: int) -> None:
        time.sleep(0.5 * thread)
        _meet(arrived, 0, threads)

    team.run(late)
    assert arrived[0] == 2 and arrived[1] > 0


@pytest.mark.parametrize(("looks", "naps"), [(1, True), (1 << 40, False)])
def test_patience_is_what_the_process_measured_and_no_part_of_the_code(looks, naps):
    """Code that is kept on disk would have that of whichever process compiled it."""
    team, arrived = Team(2), counters()
    arrived[2] = looks
    _meet(arrived, 0, 1)

    def late(thread: int, threads: int) -> None:
        time.sleep(0.2 * thread)
        _meet(arrived, 0, threads)

    team.run(late)
    assert arrived[0] == 2 and (arrived[1] > 0) == naps


@njit(nogil=True)
def _meet(arrived, met, threads):
    meet(arrived, met, threads)


def test_one_goes_on_alone_ever_longer_while_all_are_disturbed_and_no_longer_than_that():
    pace, runs = Pace(), []
    for _ in range(600):
        runs.append(pace.together())
        if runs[-1]:
            pace.tell(waited=len(runs) < 500)
    tried = [place for place, together in enumerate(runs) if together]
    assert [b - a - 1 for a, b in itertools.pairwise(tried[:10])] == [1, 2, 4, 8, 16, 32, 64, 128, 128]
    assert all(runs[tried[10] :]) and tried[10] > 500


def test_a_function_that_cannot_be_kept_on_disk_is_compiled_all_the_same():
    """As in a container whose files are read-only and whose user has no home."""
    names: dict = {}
    exec("def double(x):\n    return 2 * x", names)  # of no file, so there is no place for its cache either
    with pytest.raises(RuntimeError, match="cannot cache"):
        njit(cache=True)(names["double"])
    assert compiled(names["double"])(21) == 42


def _tripled(x: int) -> int:
    return 3 * x


def test_a_full_disk_costs_what_was_to_be_kept_and_nothing_else(monkeypatch, tmp_path):
    """Music would not be made, nor a model measured, for the sake of a faster start the next time."""
    full: list[OSError] = []

    def save(*_: object) -> None:
        full.append(OSError(errno.ENOSPC, "No space left on device"))
        raise full[-1]

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(IndexDataCacheFile, "save", save)
    assert compiled(_tripled)(14) == 42 and full


def test_what_can_be_kept_is_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    assert compiled(_tripled)(14) == 42
    assert compiled(_tripled).stats.cache_path == str(next(tmp_path.iterdir()))
    again = compiled(_tripled)
    assert again(14) == 42 and sum(again.stats.cache_hits.values()) == 1


@pytest.mark.parametrize(("slow_s", "told"), [(0.0, True), (60.0, False)])
def test_whoever_waits_for_the_compiler_is_told_so(slow_s, told, monkeypatch, caplog):
    """Half a minute of nothing, the very first time, is taken for a hang."""
    monkeypatch.setattr(compiling, "_SLOW_S", slow_s)
    with told_if_slow():
        time.sleep(0.2)
    assert ("is being compiled" in caplog.text) == told


def test_the_compiled_step_is_there_where_nothing_can_be_kept_on_disk():
    """One function that insists on its cache would end every command there, at its import."""
    no_place = "from numba.core import caching; caching.CacheImpl._locator_classes = []"
    code = f"{no_place}; import v2meow.generate.native.state"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_kept_on_disk_is_forgotten_when_a_part_of_it_changes(tmp_path):
    """Numba looks at the file of the step alone: after an update, tiles of the old version would go on computing."""
    (tmp_path / "a.py").write_text("one")
    (tmp_path / "b.py").write_text("two")
    before = sources(tmp_path)
    assert sources(tmp_path) == before
    (tmp_path / "b.py").write_text("three")
    assert sources(tmp_path) != before
    made = [_of(version) for version in (0, 0, 1)]
    keys = [step._cache._index_key((numba.int64,) * 6, step.targetctx.codegen()) for step in made]
    assert keys[0] == keys[1] != keys[2]
