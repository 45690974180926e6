"""Settings: frozen; an argument goes before the environment, the environment before the default."""

import os
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import msgspec

from tinker_actors.config.credentials import Credential, Secret, find_credential, stored_key
from tinker_actors.errors import ConfigError, MissingExtraError

__all__ = ["DEFAULT_BASE_URL", "EMBEDDED_KEY", "LOCAL", "Settings"]

DEFAULT_BASE_URL = "https://tinker.thinkingmachines.dev/services/tinker-prod"
LOCAL = "local"
"""The base URL that stands for the embedded server."""
EMBEDDED_KEY = "tml-local"
_CLOUDFLARE = {
    "CLOUDFLARE_ACCESS_CLIENT_ID": "cf-access-client-id",
    "CLOUDFLARE_ACCESS_CLIENT_SECRET": "cf-access-client-secret",
}
_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})
_Choice = TypeVar("_Choice", bound=str)

_OURS = frozenset({"x-api-key", "content-type", "accept", "content-length", "host", "content-encoding"})


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a service client works with."""

    base_url: str
    """Of the service, without a trailing slash; "local" for the embedded server."""
    credential: Credential
    """Where the key comes from."""
    project_id: str | None
    """Project of the sessions it opens."""
    tags: tuple[str, ...] = ()
    """Of the sessions it opens."""
    headers: tuple[tuple[str, Secret], ...] = ()
    """Sent with every request beside our own, by lower-case name."""
    query: tuple[tuple[str, str], ...] = ()
    """Added to the URL of every request."""
    proxy: Secret | None = None
    """URL of the proxy; None leaves it to the environment."""
    codec: Literal["protobuf", "json"] | None = None
    """What training requests travel in; None finds out what the server reads."""
    transport: Literal["fast", "httpx"] | None = None
    """What sends requests, "httpx" being its engine httpcore; None takes the fast one where it is installed."""
    otel_propagate: bool = False
    """Whether spans are made with OpenTelemetry, and their context goes out with every request."""
    telemetry: bool = False
    """Whether the service is told how the program fares."""

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
        default_headers: Mapping[str, Any] | None = None,
        default_query: Mapping[str, Any] | None = None,
        proxy: str | None = None,
        codec: str | None = None,
        transport: str | None = None,
        otel_propagate: bool | None = None,
        telemetry: bool | None = None,
        environment: Mapping[str, str] | None = None,
        home: Path | None = None,
    ) -> Self:
        """Arguments, completed from the environment.

        Read there: `TINKER_BASE_URL`, `TINKER_API_KEY`, `TINKER_CREDENTIAL_CMD`, `TINKER_PROJECT_ID`, `TINKER_TAGS`,
        `TINKER_TELEMETRY`, `TINKER_ACTORS_CODEC`, `TINKER_ACTORS_TRANSPORT`, `TINKER_ACTORS_OTEL_PROPAGATE`,
        `CLOUDFLARE_ACCESS_CLIENT_ID` and `CLOUDFLARE_ACCESS_CLIENT_SECRET`; in the home directory, the credentials that
        the official login stored.
        What is empty counts as not given.

        Raises:
            ConfigError: no key, a key of the wrong form, or another argument that cannot be used.
        """
        texts = {"base_url": base_url, "api_key": api_key, "project_id": project_id, "proxy": proxy}
        _check_kinds(str, "text", {**texts, "codec": codec, "transport": transport})
        mappings = {"default_headers": default_headers, "default_query": default_query}
        _check_kinds(bool, "True or False", {"otel_propagate": otel_propagate, "telemetry": telemetry})
        _check_kinds(Mapping, "a mapping of names to values", mappings)
        known = os.environ if environment is None else environment
        url = str(base_url or known.get("TINKER_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")
        if url != LOCAL and not _is_http(url):
            raise ConfigError(f'base_url must be an http(s) URL or "local", got {url!r}')
        if "@" in urlsplit(url).netloc:
            raise ConfigError("base_url must hold no password, for it is shown; put one into default_headers")
        if proxy is not None and not _is_http(proxy):
            raise ConfigError("proxy must be an http(s) URL, got something else")
        access = {name: known[variable] for variable, name in _CLOUDFLARE.items() if known.get(variable)}
        return cls(
            base_url=url,
            credential=_credential(url, api_key, known, Path.home() if home is None else home),
            project_id=project_id or known.get("TINKER_PROJECT_ID") or None,
            tags=tuple(tag.strip() for tag in known.get("TINKER_TAGS", "").split(",") if tag.strip()),
            headers=_headers({**access, **_texts("default_headers", default_headers)}),
            query=tuple(_texts("default_query", default_query).items()),
            proxy=None if proxy is None else Secret(proxy),
            codec=_choice("codec", codec or known.get("TINKER_ACTORS_CODEC"), "protobuf", "json"),
            transport=_transport(transport or known.get("TINKER_ACTORS_TRANSPORT")),
            telemetry=_telemetry(telemetry, known.get("TINKER_TELEMETRY", "")),
            otel_propagate=_otel(otel_propagate, known.get("TINKER_ACTORS_OTEL_PROPAGATE", "")),
        )


def _check_kinds(kind: type[Any], wanted: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of another kind; none of them is shown, for it may be a secret."""
    for name, value in arguments.items():
        if value is not None and not isinstance(value, kind):
            raise ConfigError(f"{name} must be {wanted}, got {type(value).__name__}")


def _credential(url: str, api_key: str | None, known: Mapping[str, str], home: Path) -> Credential:
    if url == LOCAL and not api_key:
        # A key for somewhere else is nothing to the embedded server, be it good or bad.
        return Credential(key=Secret(EMBEDDED_KEY))
    return find_credential(api_key, known, lambda: stored_key(home), time.time())


def _choice(name: str, given: str | None, *offered: _Choice) -> _Choice | None:
    for one in offered:
        if one == given:
            return one
    if given:
        raise ConfigError(f"{name} must be one of {', '.join(offered)}, or None to find out, got {given!r}")
    return None


def _transport(given: str | None) -> Literal["fast", "httpx"] | None:
    choice: Literal["fast", "httpx"] | None = _choice("transport", given, "fast", "httpx")
    if choice == "fast" and find_spec("pyqwest") is None:
        raise ConfigError(
            'transport "fast" needs pyqwest, which is not installed; pip install "tinker-actors[fast]", or'
            ' choose "httpx"'
        )
    return choice


def _otel(given: bool | None, variable: str) -> bool:
    wanted = _truth("TINKER_ACTORS_OTEL_PROPAGATE", variable) if given is None else given
    if wanted and not _has_otel():
        raise MissingExtraError(
            "otel_propagate needs opentelemetry-api, which is not installed; leave it off, or", extra="otel"
        )
    return wanted


def _telemetry(given: bool | None, variable: str) -> bool:
    """As the official SDK reads its variable, whatever is no yes is a no; without it, ours is a no."""
    return variable.strip().lower() in _TRUE if given is None else given


def _has_otel() -> bool:
    try:
        return find_spec("opentelemetry.trace") is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False


def _truth(name: str, given: str) -> bool:
    known = given.strip().lower()
    if known and known not in _TRUE | _FALSE:
        raise ConfigError(f"{name} must be one of 1, true, yes, on, 0, false, no, off, got {given!r}")
    return known in _TRUE


def _texts(name: str, given: Mapping[str, Any] | None) -> dict[str, str]:
    """Names and values as text; those without a value are left out.

    Raises:
        ConfigError: a name is blank, or a value is no text, number or truth value.
    """
    texts: dict[str, str] = {}
    for key, value in (given or {}).items():
        if not isinstance(key, str) or not key.strip():
            raise ConfigError(f"{name} must have names that are not blank, got {key!r}")
        if value is None:
            continue
        if not isinstance(value, str | int | float):
            raise ConfigError(f"{name}[{key!r}] must be text or a number, got {type(value).__name__}")
        texts[key] = str(value)
    return texts


def _headers(texts: Mapping[str, str]) -> tuple[tuple[str, Secret], ...]:
    headers = {}
    for name, value in texts.items():
        if name.lower() in _OURS:
            raise ConfigError(f"default_headers must leave {name} to the client; a key goes into api_key")
        if not (name + value).isascii() or not (name + value).isprintable():
            raise ConfigError(f"default_headers[{name!r}] must be printable ASCII")
        headers[name.lower()] = Secret(value)
    return tuple(headers.items())


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
