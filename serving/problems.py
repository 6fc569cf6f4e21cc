"""What can go wrong with a request, as RFC 9457 problem details: one shape for every error of the API."""

from typing import Any

from v2meow.assets import AssetError
from v2meow.bundle import BundleError
from v2meow.generate.parts import PromptError
from v2meow.media import MediaError

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):  # noqa: N818
    """An answer other than the one asked for. `kind` names it for programs, `detail` tells people what to do."""

    def __init__(self, status: int, kind: str, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail, self.retry_after = status, kind, detail, retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.status, self.kind, self.detail, self.retry_after)

    @property
    def body(self) -> dict[str, Any]:
        """Its members in JSON; `retriable` says whether the same request may succeed later."""
        title = self.kind.replace("-", " ")
        members = {"type": f"urn:v2meow:problem:{self.kind}", "title": title, "status": self.status}
        members |= {"detail": self.detail, "retriable": self.status in (408, 425, 429, 502, 503, 504)}
        return members | ({"retry_after": round(self.retry_after, 1)} if self.retry_after is not None else {})

    @property
    def headers(self) -> dict[str, str]:
        after = {} if self.retry_after is None else {"Retry-After": str(max(1, round(self.retry_after)))}
        return after | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def _rebuilt(status: int, kind: str, detail: str, retry_after: float | None) -> Problem:
    return Problem(status, kind, detail, retry_after=retry_after)


def problem_of(error: BaseException) -> Problem:
    """The problem that an error of the cascade is; one that nobody foresaw is told of without its details."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, MediaError):
        return Problem(422, "unusable-video", f"the video cannot be used: {error.reason}")
    if isinstance(error, PromptError):
        return Problem(422, "unusable-prompt", str(error))
    if isinstance(error, (BundleError, AssetError)):
        return Problem(503, "model-unavailable", "the model cannot be loaded at present", retry_after=30.0)
    if isinstance(error, TimeoutError):
        return Problem(504, "deadline-passed", "the music was not done in time: try again later, or ask for less")
    return Problem(500, "internal-error", "something went wrong that is not the request's fault; it was logged")
