"""The only home of containers and of PyAV: probe, pictures, sound, and writing them."""

from v2meow.media.bounded import Spare
from v2meow.media.opus import OggOpus, write_ogg
from v2meow.media.probe import AudioProbe, Probe
from v2meow.media.read import seek_plan
from v2meow.media.reader import Reader
from v2meow.media.scoring import Scoring
from v2meow.media.source import MediaError
from v2meow.media.write import pcm, read_wav, wav_header, write_video, write_wav

__all__ = [
    "AudioProbe",
    "MediaError",
    "OggOpus",
    "Probe",
    "Reader",
    "Scoring",
    "Spare",
    "pcm",
    "read_wav",
    "seek_plan",
    "wav_header",
    "write_ogg",
    "write_video",
    "write_wav",
]
