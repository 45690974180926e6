"""Who may ask: any key by default, one key, or tokens that a key was exchanged for."""

import hashlib
import hmac
from typing import Any

from tinker_actors.local.options import Options
from tinker_actors.local.refusals import RefusedError
from tinker_actors.local.tokens import Signer, TokenError

__all__ = ["OWNER", "Access"]

PREFIXES = ("tml-", "eyJ")
OWNER = "local"
"""Whose everything here is: whoever may ask owns all of it."""


class Access:
    """Checks the key that a request carries.

    Args:
        options: how the server was started.
        signer: signs the tokens.
    """

    def __init__(self, options: Options, signer: Signer) -> None:
        self._wanted = options.api_key
        self._exchanges = options.jwt
        self._life_s = options.jwt_life_s
        self._signer = signer

    def check(self, key: str) -> None:
        """Nothing if a request with `key` is answered.

        Raises:
            RefusedError: 401, it is not; one whose token expired is told so, and exchanges its key again.
        """
        if not self._exchanges:
            self.check_key(key)
            return
        try:
            self._signer.read("api", key)
        except TokenError as error:
            refusal = f"X-API-Key must be a token of auth/token: {error}"
            raise RefusedError(401, refusal, {"WWW-Authenticate": 'Bearer error="invalid_token"'}) from error

    def check_key(self, key: str) -> None:
        """Nothing if `key` itself is accepted, whether or not it must be exchanged.

        Raises:
            RefusedError: 401, it is not.
        """
        if not key.startswith(PREFIXES):
            raise RefusedError(401, "X-API-Key must be a key that starts with tml- or eyJ")
        if self._wanted is not None and not hmac.compare_digest(key.encode(), self._wanted.encode()):
            raise RefusedError(401, "X-API-Key must be the key that this server was started with")

    def token(self) -> str:
        """A token in place of a key that was checked."""
        claims = {"iss": "passport-local", "sub": OWNER, "org_id": OWNER, "email": ""}
        return self._signer.sign("api", claims, self._life_s)

    def describe(self, key: str) -> dict[str, Any]:
        """The record of a key, without the key."""
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4])
        details = {"org_details": {"name": OWNER}, "user_details": {"email": ""}}
        return {"key_id": number, "name": OWNER, "note": "", "details": details}
