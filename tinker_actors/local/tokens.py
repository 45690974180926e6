"""What the server signs: tokens in place of keys, and permissions to fetch one file. They cannot be altered."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jwt

__all__ = ["Signer", "TokenError", "Use"]

Use = Literal["api", "file"]
"""What a token is good for; one of the one kind is worth nothing as the other."""
ALGORITHM = "HS256"


class TokenError(Exception):
    """It is no token of this server for this use, or it expired."""


class Signer:
    """Signs and reads JWTs with a secret that only this server has.

    Args:
        secret: at least 32 bytes.
        now: tells the seconds since the epoch.
    """

    def __init__(self, secret: bytes, now: Callable[[], float]) -> None:
        self._secret = secret
        self._now = now

    def sign(self, use: Use, claims: Mapping[str, Any], life_s: float) -> str:
        """A token that says `claims` and works for `life_s`."""
        now = self._now()
        return jwt.encode({**claims, "use": use, "iat": now, "exp": now + life_s}, self._secret, ALGORITHM)

    def read(self, use: Use, token: str) -> dict[str, Any]:
        """What a token says.

        Raises:
            TokenError: it is not for this use, was altered, or expired.
        """
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._secret,
                [ALGORITHM],
                # The library would ask the system's clock.
                options={"verify_exp": False, "verify_iat": False, "require": ["exp"]},
            )
        except jwt.InvalidTokenError as error:
            raise TokenError("the token was not given by this server") from error
        if claims.get("use") != use:
            raise TokenError("the token is for something else")
        if claims["exp"] <= self._now():
            raise TokenError("the token expired")
        return claims
