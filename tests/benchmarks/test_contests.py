"""The benchmarks run: a case small enough for a moment, and the peers where transformers is installed."""

import json
from itertools import islice
from typing import Any

import pytest
import torch

from benchmarks import peers
from benchmarks import train as bench

TINY = bench.Case(1, 32, 2, batch=2, positions=40)
FIELDS = {"bench", "case", "batch", "dtype", "peer", "ours_ms", "peer_ms", "speedup", "tokens_s", "mfu"}


def test_our_step_is_measured_alone():
    """A benchmark that nobody runs is broken by the next change of the model."""
    (row,) = bench.compare(TINY, ["float32"], rounds=2, alone=True)
    assert row.keys() == FIELDS
    assert (row["case"], row["batch"], row["peer"], row["speedup"]) == ("1x32", "2x40", None, None)
    assert row["ours_ms"] > 0 and 0 < row["mfu"] < 1
    assert row["tokens_s"] == pytest.approx(2 * 4 * 37 / (row["ours_ms"] / 1000))


def test_the_command_prints_the_machine_and_a_row_a_case(monkeypatch, capsys):
    monkeypatch.setattr(bench, "CASES", (TINY,))
    bench.main(["--alone", "--json", "--dtype", "float32", "--rounds", "1"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["bench"] for row in rows] == ["machine", "train"]


def test_a_case_that_is_not_there_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--case", "9x9"])
    assert "4x256" in capsys.readouterr().err


def test_the_bare_decoder_keeps_the_delay_pattern():
    """Codes drawn where the pattern has none would be work that the others do not do."""
    torch.manual_seed(0)
    decoder = peers.BareDecoder(1, 32, 2, 64, 8)
    codes = torch.stack(list(decoder.decode_steps(torch.randn(3, 5, 8), 10)), dim=2)  # [B, K, S]
    assert codes.shape == (3, peers.CODEBOOKS, 10)
    for k in range(peers.CODEBOOKS):
        drawn = (codes[:, k] != peers.PAD).all(0).tolist()
        assert drawn == [k <= step < k + 7 for step in range(10)]


@pytest.mark.slow
def test_the_peer_trains_on_the_same_codes():
    pytest.importorskip("transformers")
    (row,) = bench.compare(TINY, ["float32"], rounds=1, alone=False)
    assert row["peer"] == bench.PEER and row["peer_ms"] > 0 and row["speedup"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_the_peer_decodes_as_without_a_cache(cache, monkeypatch):
    """Its decoder's own `generate` mixes the conditions' keys into the cache: a peer that is wrong is no measure."""
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    module: Any = peers.musicgen_decoder(2, 32, 2, 64, 8).eval()
    given = torch.randn(2, 5, 8)
    advance = peers._musicgen_advance(module, given, 6, cache)
    codes = torch.randint(0, peers.BINS, (4, peers.CODEBOOKS, 6))
    with torch.inference_mode():
        stepped = torch.stack([advance(codes[:, :, step]) for step in range(6)], dim=2)
        memory = module.condition(given)
        memory = torch.cat((memory, torch.zeros_like(memory)))
        whole = module(input_ids=codes.flatten(0, 1), encoder_hidden_states=memory, use_cache=False).logits
    torch.testing.assert_close(stepped, whole.view(4, peers.CODEBOOKS, 6, -1), rtol=1e-4, atol=1e-5)
    drawn = list(islice(peers.decode_steps(module, given, 6, cache), 6))
    assert len(drawn) == 6 and drawn[0].shape == (2, peers.CODEBOOKS)


@pytest.mark.parametrize("batch", [1, 2])
def test_transformers_own_generation_decodes_a_batch_with_guidance(batch, monkeypatch):
    """Without rows of no conditions it would do half of the work that ours does."""
    pytest.importorskip("transformers")
    module: Any = peers.musicgen(1, 32, 2, 64, 24).eval()
    forward, seen = module.decoder.forward, []

    def recorded(*arguments, **named):
        seen.append((named["input_ids"].shape[0], named["encoder_hidden_states"]))
        return forward(*arguments, **named)

    monkeypatch.setattr(module.decoder, "forward", recorded)
    peers.generate(module, batch, 5, 6)
    assert len(seen) >= 5
    for rows, conditions in seen:
        assert rows == 2 * batch * peers.CODEBOOKS and conditions.shape[0] == 2 * batch
        assert not torch.equal(conditions[:batch], conditions[batch:])
