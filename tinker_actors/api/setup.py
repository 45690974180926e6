"""What a server says about itself before anything else: its flags, and a token for our key.

None of these is repeated by a rule of its own: they are part of the try of the request that needs them.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from tinker_actors.api.chunks import MAX_CHUNK_BYTES, MAX_CHUNK_DATA
from tinker_actors.api.sessions import CHECK_URL, SDK_VERSION
from tinker_actors.errors import APIStatusError
from tinker_actors.wire.calls import NO_ENDPOINT, Call, Pool, json_body, read_json
from tinker_actors.wire.retry import BRIEF

__all__ = [
    "NO_FLAGS",
    "ClientConfig",
    "DynamicConfig",
    "KeyRecord",
    "client_config",
    "dynamic_config",
    "exchange_key",
    "get_own_key",
    "has_no_flags",
    "revoke_own_key",
]

DYNAMIC_TIMEOUT_S = 10.0


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The flags that we act on, at the values they have where the server says nothing."""

    pjwt_auth_enabled: bool = False
    """Whether keys are exchanged for tokens."""
    credential_default_source: str = "api_key"
    """Where the key comes from that is exchanged; "credential_cmd" puts the command before a key of the environment."""
    proto_compress_fwdbwd: bool = False
    """Whether bodies of forward_backward are to come in zstd."""
    parallel_fwdbwd_chunks: bool = True
    """Whether chunks of one operation may come out of order."""
    fwdbwd_max_chunk_len: int = MAX_CHUNK_DATA
    """Data per chunk."""
    fwdbwd_max_chunk_bytes_count: int = MAX_CHUNK_BYTES
    """Estimated bytes per chunk."""
    fwdbwd_dispatch_bytes_semaphore_size: int = 50_000_000
    """Bytes of training data being submitted."""
    sample_max_concurrent_requests: int = 2000
    """Samples in flight per sampler."""
    sample_dispatch_bytes_semaphore_size: int = 10 * 2**20
    """Estimated bytes of samples being submitted."""
    inflight_response_bytes_semaphore_size: int = 50 * 2**20
    """Bytes of large results being fetched."""
    billing_exception_max_pause_duration_sec: float = 3600.0
    """How long a 402 is waited out."""


NO_FLAGS = ClientConfig()
"""Of a server that has no such endpoint."""


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the service says of the key that asked."""

    key_id: int
    """Its number."""
    name: str | None = None
    """Its name."""
    note: str | None = None
    """What its owner wrote beside it."""
    details: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Whose it is."""


class DynamicConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The flags that may change while we run."""

    refresh_interval_sec: float = 300.0
    """Seconds until they are asked for again; 10 at least."""
    sample_cancel_enabled: bool = False
    """Whether the server wants to know of results nobody waits for."""
    sample_cancel_max_batch_size: int = 64
    """Most of them at once."""


class _Request(msgspec.Struct, frozen=True):
    sdk_version: str = SDK_VERSION


class _Token(msgspec.Struct, frozen=True):
    jwt: str


def client_config() -> Call[ClientConfig]:
    """The server's flags."""
    return Call(
        operation="client_config",
        path="client/config",
        body=json_body(_Request()),
        pool=Pool.SESSION,
        read=read_json(ClientConfig, CHECK_URL),
    )


def dynamic_config() -> Call[DynamicConfig]:
    """The server's changing flags."""
    return Call(
        operation="dynamic_config",
        path="client/dynamic_config",
        body=json_body(_Request()),
        timeout_s=DYNAMIC_TIMEOUT_S,
        pool=Pool.SESSION,
        read=read_json(DynamicConfig),
    )


def exchange_key() -> Call[str]:
    """A token for the key that the request carries."""
    read = read_json(_Token)
    return Call(
        operation="auth_token",
        path="auth/token",
        body=b"{}",
        pool=Pool.SESSION,
        read=lambda answer: read(answer).jwt,
    )


def get_own_key() -> Call[KeyRecord]:
    """What the service knows of the key that the request carries."""
    return Call(
        operation="get_own_key",
        method="GET",
        path="auth/apikey/me",
        pool=Pool.SESSION,
        retry=BRIEF,
        read=read_json(KeyRecord),
    )


def revoke_own_key() -> Call[None]:
    """The end of the key that the request carries. Never repeated: a second one would be told that the key is none."""
    return Call(
        operation="revoke_own_key",
        method="DELETE",
        path="auth/apikey/me",
        pool=Pool.SESSION,
        read=lambda _: None,
    )


def has_no_flags(error: Exception) -> bool:
    """Whether this refusal means that the server has no such endpoint, so that the defaults hold."""
    return isinstance(error, APIStatusError) and error.status in NO_ENDPOINT
