"""Settings: frozen; an argument goes before the environment, the environment before the default.

The only module that reads the environment.
"""

import os
from collections.abc import Mapping
from typing import Self
from urllib.parse import urlsplit

import msgspec

from tinker_actors.errors import ConfigError

__all__ = ["DEFAULT_BASE_URL", "LOCAL", "RecoveryPolicy", "Settings"]

DEFAULT_BASE_URL = "https://tinker.thinkingmachines.dev/services/tinker-prod"
LOCAL = "local"
"""The base URL that stands for the embedded server."""
_KEY_PREFIXES = ("tml-", "eyJ")
_LOCAL_KEY = "tml-local"


class Secret(msgspec.Struct, frozen=True):
    """A text that shows itself to nobody but who calls `reveal`."""

    _text: str

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(****)"

    __str__ = __repr__


class RecoveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a training run survives the loss of its model.

    Raises:
        ConfigError: a field is out of range.
    """

    max_attempts: int = 3
    """Restores without progress in between before the run halts."""
    checkpoint_every_steps: int = 20
    """Optimizer steps from one checkpoint of the runtime's own to the next; 0 makes none."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if type(getattr(self, name)) is not int:
                raise ConfigError(
                    f"RecoveryPolicy.{name} must be a whole number, got {getattr(self, name)!r}"
                )
        if self.max_attempts < 1:
            raise ConfigError(f"RecoveryPolicy.max_attempts must be at least 1, got {self.max_attempts}")
        if self.checkpoint_every_steps < 0:
            raise ConfigError(
                f"RecoveryPolicy.checkpoint_every_steps must be 0 or more, got {self.checkpoint_every_steps}"
            )


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a service client works with."""

    base_url: str
    """Of the service, without a trailing slash; "local" for the embedded server."""
    api_key: Secret
    """The credential."""
    project_id: str | None
    """Project of the sessions it opens."""

    @property
    def is_local(self) -> bool:
        """Whether the embedded server is wanted."""
        return self.base_url == LOCAL

    @classmethod
    def resolve(
        cls,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        project_id: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """Arguments, completed from the environment (`TINKER_BASE_URL`, `TINKER_API_KEY`, `TINKER_PROJECT_ID`).

        Raises:
            ConfigError: no key, a key of the wrong form, or a base URL that is none.
        """
        known = os.environ if environment is None else environment
        url = str(base_url or known.get("TINKER_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")
        if url != LOCAL and not _is_http(url):
            raise ConfigError(f'base_url must be an http(s) URL or "local", got {url!r}')
        key = api_key or known.get("TINKER_API_KEY") or (_LOCAL_KEY if url == LOCAL else None)
        if key is None:
            raise ConfigError(
                'an API key is wanted, got none; pass api_key, set TINKER_API_KEY, or use base_url="local"'
            )
        if not isinstance(key, str) or not (key.isascii() and key.isprintable()) or " " in key:
            raise ConfigError(
                "an API key is one word of ASCII letters, digits and signs; look for a line end"
            )
        if not key.startswith(_KEY_PREFIXES):
            raise ConfigError(
                "an API key starts with tml- (or is a JWT, starting with eyJ), got another prefix"
            )
        return cls(base_url=url, api_key=Secret(key), project_id=project_id or known.get("TINKER_PROJECT_ID"))


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
