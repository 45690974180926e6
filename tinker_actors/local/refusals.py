"""Why a request is not accepted, as a status and a text."""

from collections.abc import Mapping

__all__ = ["BusyError", "RefusedError", "StartError", "StorageError"]


class RefusedError(Exception):
    """The request is answered with a 4xx and changes nothing."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        """HTTP status."""
        self.detail = detail
        """What was wrong, for the caller."""
        self.headers = headers
        """What the answer carries besides."""


class BusyError(RefusedError):
    """Too much waits already: 429, to be sent again a little later."""

    def __init__(self, detail: str, queue_state: str, retry_after_s: float = 1.0) -> None:
        super().__init__(429, detail, {"Retry-After": f"{retry_after_s:g}"})
        self.queue_state = queue_state
        """`paused_rate_limit`: the caller's own requests are too many. `paused_capacity`: everybody's are."""
        self.retry_after_s = retry_after_s
        """When it is worth while to ask again."""


class StorageError(Exception):
    """The store cannot take the change, most often because the disk is full; nothing was written."""


class StartError(Exception):
    """The server cannot start; the text is one line for the user."""
