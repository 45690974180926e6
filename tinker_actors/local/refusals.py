"""Why a request is not accepted, as a status and a text."""

from collections.abc import Mapping

__all__ = ["RefusedError", "StartError", "StorageError"]


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


class StorageError(Exception):
    """The store cannot take the change, most often because the disk is full; nothing was written."""


class StartError(Exception):
    """The server cannot start; the text is one line for the user."""
