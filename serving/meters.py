"""What is measured of the service, whatever collects it."""

from typing import Protocol


class Meters(Protocol):
    """Where figures go. Labels are few: models by version, problems by kind."""

    def first_audio(self, seconds: float, model: str) -> None:
        """Time from the request's end to its first sound."""

    def finished(self, seconds: float, music: float, model: str) -> None:
        """A generation that took `seconds` for so many seconds of music."""

    def failed(self, kind: str, model: str) -> None:
        """A generation that ended with a problem."""

    def pieces(self, at_work: int, waiting: int) -> None:
        """Pieces at work, and those that wait for a place, now."""
