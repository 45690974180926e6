"""Credentials: the forms they have, where they come from, and what a JWT says about itself."""

import base64
import binascii
import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from tinker_actors.errors import ConfigError

__all__ = ["Credential", "Secret", "check_key", "claims_of", "find_credential"]

_KEY = "tml-"
_JWT = "eyJ"
_COMMAND_TIMEOUT_S = 60.0
_SALT = os.urandom(32)
"""Of digests of this process, so that none tells anything outside of it."""
_WANTED = (
    "an API key is wanted, got none; pass api_key, set TINKER_API_KEY or TINKER_CREDENTIAL_CMD, "
    'or use base_url="local"'
)


class Secret:
    """A text that shows itself to nobody but who calls `reveal`, and that no serializer takes along."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret(****)"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret stays in its process; resolve settings anew in the other one")


def claims_of(token: str) -> dict[str, Any]:
    """What a JWT says, unverified; empty when it is none that can be read."""
    parts = token.split(".")
    if not token.startswith(_JWT) or len(parts) < 2:  # noqa: PLR2004 - header and payload
        return {}
    payload = parts[1] + "=" * (-len(parts[1]) % 4)
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload))
    except (binascii.Error, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def check_key(key: str, now: float) -> str:
    """`key`, if the service may accept it.

    Args:
        key: what was given.
        now: seconds since the epoch, for a JWT's expiry.

    Raises:
        ConfigError: it is no key; the message never repeats it.
    """
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError("an API key is one word of ASCII letters, digits and signs; look for a line end")
    if not key.startswith((_KEY, _JWT)):
        raise ConfigError("an API key starts with tml- (or is a JWT, starting with eyJ), got another prefix")
    expiry = claims_of(key).get("exp")
    if isinstance(expiry, int | float) and expiry <= now:
        raise ConfigError(f"the JWT given as API key expired {now - expiry:.0f} s ago; get a fresh one")
    return key


class Credential(msgspec.Struct, frozen=True):
    """Where the key comes from: itself, or a command that prints one."""

    key: Secret | None = None
    command: Secret | None = None
    """A shell command, run anew for each key that is wanted."""

    def digest(self) -> bytes:
        """What tells it from others in this process, and nobody what it is."""
        secret = self.key or self.command
        return hashlib.blake2b(secret.reveal().encode() if secret else b"", key=_SALT).digest()

    def is_at_hand(self, *, prefers_command: bool = False) -> bool:
        """Whether `read` runs no command."""
        if self.key is None:
            return False
        return not prefers_command or self.command is None or self.key.reveal().startswith(_JWT)

    def read(self, *, prefers_command: bool = False) -> Secret:
        """The key; may take as long as the command does.

        Args:
            prefers_command: run the command, where there is one, although there is a key; a JWT goes before it.

        Raises:
            ConfigError: the command failed, or printed no key; or the key is a JWT that expired meanwhile.
        """
        if self.key is not None and self.is_at_hand(prefers_command=prefers_command):
            if self.key.reveal().startswith(_JWT):
                check_key(self.key.reveal(), time.time())
            return self.key
        if self.command is None:
            raise ConfigError(_WANTED)
        try:
            done = subprocess.run(  # noqa: S602 - the user's own command, as the SDK's documentation has it
                self.command.reveal(),
                shell=True,
                capture_output=True,
                text=True,
                timeout=_COMMAND_TIMEOUT_S,
                check=False,
            )
        except (subprocess.TimeoutExpired, UnicodeDecodeError) as error:
            raise ConfigError(f"TINKER_CREDENTIAL_CMD gave no key: {type(error).__name__}") from None
        if done.returncode != 0:
            raise ConfigError(f"TINKER_CREDENTIAL_CMD must exit with 0, got {done.returncode}")
        if not done.stdout.strip():
            raise ConfigError("TINKER_CREDENTIAL_CMD must print an API key, got nothing")
        return Secret(check_key(done.stdout.strip(), time.time()))


def find_credential(
    argument: str | None, environment: Mapping[str, str], stored: Callable[[], str | None], now: float
) -> Credential:
    """The credential to use: argument, `TINKER_API_KEY`, `TINKER_CREDENTIAL_CMD`, the stored file, in this order.

    A key that is none gives way to the command, where there is one.

    Raises:
        ConfigError: there is none, or a key that is none.
    """
    key: Any = argument or environment.get("TINKER_API_KEY")
    command = environment.get("TINKER_CREDENTIAL_CMD")
    if key:
        if not isinstance(key, str):
            raise ConfigError(f"an API key is a str, got {type(key).__name__}")
        try:
            given = Secret(check_key(key, now))
            return Credential(key=given, command=Secret(command) if command else None)
        except ConfigError:
            if not command:
                raise
    if command:
        return Credential(command=Secret(command))
    kept = stored()
    if kept is None:
        raise ConfigError(_WANTED)
    return Credential(key=Secret(check_key(kept, now)))


class _StoredKey(msgspec.Struct):
    key: str


class _StoredKeys(msgspec.Struct):
    default: str = ""
    keys: dict[str, _StoredKey] = {}


def stored_key(home: Path) -> str | None:
    """The default key in `.tinker/credentials.json`, which the official command-line login writes; None without.

    Raises:
        ConfigError: the file is there but cannot be read.
    """
    path = home / ".tinker" / "credentials.json"
    try:
        document = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"the stored credentials cannot be read: {error}") from None
    try:
        stored = msgspec.json.decode(document, type=_StoredKeys)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ConfigError(
            f"{path} must be a file of credentials in JSON; log in anew, or remove it"
        ) from None
    entry = stored.keys.get(stored.default)
    return None if entry is None else entry.key
