"""Finished takes as files: WAV and provenance are there, the others are made when they are first asked for."""

import tempfile
from pathlib import Path
from typing import Literal

from serving.problems import Problem
from serving.service import Service
from serving.spool import INPUT, Record
from v2meow.files import read_json
from v2meow.generate.provenance import comment
from v2meow.media import Reader, read_wav, write_ogg

ResultFile = Literal["wav", "ogg", "mp4", "json"]
MEDIA_TYPES: dict[ResultFile, str] = {
    "wav": "audio/wav",
    "ogg": "audio/ogg",
    "mp4": "video/mp4",
    "json": "application/json",
}


def result_file(service: Service, record: Record, take: int, kind: ResultFile) -> Path:
    """The file of a take. Problem 409 before it is done, 404 for a take that is not there."""
    if record.status != "succeeded":
        error = record.error or {}
        detail = f"the music is not there: the generation is {record.status}"
        raise Problem(409, "not-done", f"{detail} ({error['detail']})" if error else detail)
    place = service.spool.place(record.id)
    wav, file = place / f"take-{take}.wav", place / f"take-{take}.{kind}"
    if take not in {made["number"] for made in record.takes}:
        raise Problem(404, "no-such-take", f"there are {len(record.takes)} takes")
    if not file.is_file():
        about = comment(read_json(wav.with_suffix(".json")))
        sound, rate = read_wav(wav)
        with tempfile.TemporaryDirectory(prefix=".", dir=place) as own:
            made = Path(own) / file.name  # two who ask at once each make theirs
            if kind == "ogg":
                write_ogg(made, sound, rate, about)
            else:
                with Reader(service.media) as reader:
                    reader.mux(place / INPUT, sound, rate, made, about)
            made.replace(file)
    return file
