"""What an operator sets: the `args` of the application in a Ray Serve config file, and of `v2meow serve`.

The music itself is set by the recipe inside the bundle; nothing here changes it.
"""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

PART_NAMES = ("ingress", "visual", "text", "semantic", "coarse", "fine", "codec")
PartName = Literal["ingress", "visual", "text", "semantic", "coarse", "fine", "codec"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelShare(_Section):
    """A bundle and its share of the requests that name none.

    `name` is a folder, the name of a bundle that comes with the package, or NAME@STAGE or NAME@v3 in the registry.
    A stage is followed: whatever version takes it is served within `refresh_s`.
    """

    name: str = "nano"
    share: Annotated[float, Field(ge=0.0)] = 1.0


class PartScaling(_Section):
    """How many processes a part has, and what each takes.

    Between `min_replicas` and `max_replicas` Ray Serve aims at `target_ongoing` requests in each, after `upscale_s` and
    `downscale_s`; 0 of `min_replicas` lets an idle part go. `pieces` windows are decoded at once in a stage's process.
    """

    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: Annotated[int, Field(ge=1)] = 1
    target_ongoing: Annotated[float, Field(gt=0.0)] = 16.0
    upscale_s: Annotated[float, Field(ge=0.0)] = 10.0
    downscale_s: Annotated[float, Field(ge=0.0)] = 300.0
    cpus: Annotated[float, Field(ge=0.0)] = 0.25
    gpus: Annotated[float, Field(ge=0.0)] = 0.0
    threads: Annotated[int, Field(ge=1)] = 1
    pieces: Annotated[int, Field(ge=1)] = 16

    @model_validator(mode="after")
    def _ordered(self) -> "PartScaling":
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self


class Limits(_Section):
    """What one request may ask for, and how many an ingress process takes in.

    Pieces of music that are `running` share the stages; so many more are `waiting` for a place, and what comes then
    is asked to come back later (429). A request that is not done `deadline_s` after it was taken in ends with an error.
    """

    upload_mib: Annotated[int, Field(ge=1)] = 256
    upload_s: Annotated[float, Field(gt=0.0)] = 60.0
    max_seconds: Annotated[float, Field(gt=0.0)] = 120.0
    max_takes: Annotated[int, Field(ge=1)] = 8
    running: Annotated[int, Field(ge=1)] = 16
    waiting: Annotated[int, Field(ge=0)] = 32
    deadline_s: Annotated[float, Field(gt=0.0)] = 120.0


class Settings(_Section):
    """All of it; every value has a default, but who is let in must be said.

    `workspace`: whose registry holds NAME@STAGE. `keys`: the file of `v2meow keys`; without one nobody is let in, or
    everybody where the service is `open`.
    `sources`: beginnings of s3:// addresses that videos may be fetched from. `spool`: a folder for results, which all
    ingress processes see; they are kept for `keep_s`. A process that is to end has `drain_s` to finish its music.
    `watermark`: a file with the secret that all music is marked by; without one none is.
    """

    models: Annotated[tuple[ModelShare, ...], Field(min_length=1)] = (ModelShare(),)
    workspace: str | None = None
    refresh_s: Annotated[float, Field(gt=0.0)] = 10.0
    parts: dict[PartName, PartScaling] = {}
    limits: Limits = Limits()
    keys: str | None = None
    open: bool = False
    sources: tuple[str, ...] = ()
    spool: str = "/tmp/v2meow-spool"  # noqa: S108
    keep_s: Annotated[float, Field(gt=0.0)] = 3600.0
    drain_s: Annotated[float, Field(ge=0.0)] = 600.0
    watermark: str | None = None

    @model_validator(mode="after")
    def _shares(self) -> "Settings":
        if not sum(model.share for model in self.models) > 0.0:
            raise ValueError("models: no model has a share above 0")
        if self.open == (self.keys is not None):
            raise ValueError("set either `keys`, a file made by `v2meow keys create`, or `open: true`")
        if wrong := [source for source in self.sources if not re.fullmatch(r"s3://[^/]+(/.*)?", source)]:
            raise ValueError(f"sources: not the beginning of an s3:// address: {', '.join(wrong)}")
        return self

    def part(self, name: PartName) -> PartScaling:
        return self.parts.get(name, PartScaling())
