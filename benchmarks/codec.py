"""The codecs: speed of decoding, and what is left of music, beside EnCodec's own modules trained as long."""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from encodec.model import EncodecModel
from torch import Tensor

from benchmarks import measure
from benchmarks.codec_peer import PeerCodec, train
from v2meow.config import EncodecConfig, LappedCodecConfig, load_recipe, recipe_path
from v2meow.encoders.codec import Codec, LappedCodec, load_codec
from v2meow.encoders.codec.causal import CausalEncodec
from v2meow.encoders.codec.measures import buzz_db, mel_distance, si_sdr
from v2meow.media import MediaError, Reader
from v2meow.train.codec import train_codec

SECONDS_DECODED = 4.0
CHUNK_SECONDS = 1.0  # as sound is streamed
MOST_SECONDS = 12.0  # of a file: the first two thirds are trained on, the rest is measured
AUDIBLE = 1e-3  # what ends with less is cut off there: silence has no quality
HELP = """\
Decoding with one thread, then, where a folder of music is given, the quality of the small codec on it.

  x_real_time   seconds of sound decoded in a second, a piece of 4 s in chunks of 1 s as it is streamed: our small
                codec; EnCodec's 24 kHz architecture at 6 kbit/s in float32 and bfloat16; and the package's own model
                (`package`: whole, because it cannot go on)

For every file of the folder, on its last third, for codecs trained on the first two thirds of all of them:

  si_sdr_db, mel_distance, buzz_db    ours; `peer_`: EnCodec's modules at the same frames, levels and entries, trained
                                      in this run for as many seconds of the processor as ours took, from scratch;
                                      `bundle_`: the codec of --bundle as it is, which was not trained on these files

bfloat16 is 100 times slower on CPUs without AVX512-BF16: leave it out there with --no-bfloat16.

  uv run python -m benchmarks.codec music --bundle v2meow/shipped/nano --json
"""


def main(arguments: list[str] | None = None) -> None:
    """Print the machine, a row a decoder, and a row a file."""
    asked = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    measure.emit(measure.machine(), json=asked.json)
    for row in speed(asked.rounds, bfloat16=not asked.no_bfloat16):
        measure.emit(row, json=asked.json)
    if asked.folder:
        for row in quality(asked.folder, asked.recipe, asked.bundle, asked.peer_times):
            measure.emit(row, json=asked.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.codec", description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, help="music files of any format; default: speed alone")
    parser.add_argument("--recipe", default="nano", help="whose codec is trained; default: nano")
    parser.add_argument("--bundle", type=Path, help="whose codec is measured on the music as well, as it is")
    parser.add_argument("--peer-times", type=float, default=1.0, help="as long as ours the peer is trained; default: 1")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of text")
    parser.add_argument("--rounds", type=int, default=5, help="rounds in which each decodes once; default: 5")
    parser.add_argument("--no-bfloat16", action="store_true", help="in float32 alone")
    return parser


def speed(rounds: int, *, bfloat16: bool) -> Iterator[dict[str, Any]]:
    """One row a decoder, of random weights."""
    contestants: dict[str, Callable[[], object]] = {
        "lapped": _streamed(LappedCodec(_lapped("nano")).eval()),
        "package encodec-24k": _package_decoding(),
    }
    for name in ("float32", "bfloat16") if bfloat16 else ("float32",):
        contestants[f"encodec-24k {name}"] = _streamed(_random_encodec(bfloat16=name == "bfloat16"))
    with torch.inference_mode():
        taken = measure.alternate(contestants, rounds)
    for name, seconds in taken.items():
        yield {"bench": "codec", "decoder": name, "x_real_time": SECONDS_DECODED / median(seconds)}


def quality(folder: Path, recipe: str, bundle: Path | None = None, peer_times: float = 1.0) -> Iterator[dict[str, Any]]:
    """One row of what training took, one a file of `folder`, then their mean."""
    config, music = _lapped(recipe), _read(folder, recipe)
    made = None if bundle is None else _of_bundle(bundle, config)
    cut = {name: len(waveform) * 2 // 3 // config.hop * config.hop for name, waveform in music.items()}
    training = _stacked([waveform[: cut[name]] for name, waveform in music.items()], config)
    ours, peer, start = LappedCodec(config), PeerCodec(config), time.process_time()
    train_codec(ours, training, 0, lambda loss: None)
    seconds = time.process_time() - start
    steps = train(peer, training, 0, peer_times * seconds)
    yield {"bench": "codec", "fit_seconds": seconds, "steps": config.steps, "peer_steps": steps}
    rows = []
    for name, waveform in music.items():
        heard = waveform[None, cut[name] : len(waveform) // config.hop * config.hop]
        figures = _figures(ours.decode(ours.encode(heard)), heard, config)
        theirs = _figures(peer.restored(heard), heard, config)
        rows.append(figures | {f"peer_{key}": value for key, value in theirs.items()})
        if made:
            its = _figures(made.decode(made.encode(heard)), heard, config)
            rows[-1] |= {f"bundle_{key}": value for key, value in its.items()}
        yield {"bench": "codec", "file": name, **rows[-1]}
    yield {"bench": "codec", "file": "mean", **{key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}}


def _figures(restored: Tensor, heard: Tensor, config: LappedCodecConfig) -> dict[str, float]:
    restored, heard = restored[:, : -config.hop], heard[:, : -config.hop]
    return {
        "si_sdr_db": float(si_sdr(restored, heard)),
        "mel_distance": float(mel_distance(restored, heard, config.sample_rate)),
        "buzz_db": buzz_db(restored, heard, config.sample_rate, config.rate),
    }


def _lapped(recipe: str) -> LappedCodecConfig:
    config = load_recipe(recipe_path(recipe)).codec
    if not isinstance(config, LappedCodecConfig):
        raise SystemExit(f"--recipe {recipe}: its codec is not trained here")
    return config


def _of_bundle(bundle: Path, config: LappedCodecConfig) -> Codec:
    codec = load_codec(bundle / "encoders" / "codec")
    if any(getattr(codec.config, key) != getattr(config, key) for key in ("sample_rate", "hop", "levels", "bins")):
        raise SystemExit(f"--bundle {bundle}: its codec has other frames, levels or entries than the recipe's")
    return codec


def _read(folder: Path, recipe: str) -> dict[str, Tensor]:
    """Waveforms [T] by file name, without silence at the end; files that are too short or no music are left out."""
    loaded, music = load_recipe(recipe_path(recipe)), {}
    with Reader(loaded.media) as reader:
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            try:
                waveform = torch.from_numpy(reader.waveform(path, loaded.codec.sample_rate, 0.0, MOST_SECONDS))
            except MediaError:
                continue
            sounding = (waveform.abs() > AUDIBLE).nonzero()
            if len(sounding) and sounding[-1] > 3 * loaded.codec.sample_rate:
                music[path.name] = waveform[: int(sounding[-1]) + 1]
    if not music:
        raise SystemExit(f"{folder} holds no music of more than 3 seconds")
    return music


def _stacked(waveforms: list[Tensor], config: LappedCodecConfig) -> Tensor:
    """Pieces [N, T] of two seconds, the last of each file from its end."""
    length = 2 * config.rate * config.hop
    pieces = [part for waveform in waveforms for part in (*waveform.split(length)[:-1], waveform[-length:])]
    return torch.stack([piece for piece in pieces if len(piece) == length])


def _streamed(codec: LappedCodec | CausalEncodec) -> Callable[[], object]:
    config, number = codec.config, 0
    chunk, frames = round(CHUNK_SECONDS * config.rate), round(SECONDS_DECODED * config.rate)

    def run() -> None:
        nonlocal number
        number += 1  # other codes each time: nothing is carried from the round before
        random = torch.Generator().manual_seed(number)
        codes = torch.randint(0, config.bins, (1, config.levels, frames), generator=random)
        for first in range(0, frames, chunk):
            codec.decode_part(codes, first, min(frames, first + chunk))

    return run


def _random_encodec(*, bfloat16: bool) -> CausalEncodec:
    config = EncodecConfig(kind="encodec", asset="", sample_rate=24_000, bandwidth=6.0, bfloat16=bfloat16)
    model = EncodecModel.encodec_model_24khz(pretrained=False)
    return CausalEncodec(config, model.encoder, model.quantizer, model.decoder).eval()


def _package_decoding() -> Callable[[], object]:
    model = EncodecModel.encodec_model_24khz(pretrained=False)
    codes = torch.randint(0, 1024, (1, 8, round(75 * SECONDS_DECODED)))
    return lambda: model.decode([(codes, None)])


if __name__ == "__main__":
    main()
