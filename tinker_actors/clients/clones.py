"""Samplers in other processes: a handle says which one, and a client is made from it there.

A handle holds no key. The client over it has connections of its own, shared with others in its process; it starts no
session and sends no beats: the process that the handle came from keeps the sampler alive.
"""

import base64
import binascii
import os
import threading
import weakref
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from tinker_actors.actors.runtime import Runtime
from tinker_actors.actors.sampling import Sampler
from tinker_actors.clients.sampling import SamplingClient, SamplingPlace
from tinker_actors.clients.tracing import tracing_for
from tinker_actors.config import EMBEDDED_KEY, RecoveryPolicy, Settings
from tinker_actors.errors import ValidationError
from tinker_actors.types.checks import shown

__all__ = ["from_handle", "to_handle"]

VERSION = 1


class _Handle(msgspec.Struct, frozen=True, kw_only=True, rename={"version": "v"}):
    version: int
    place: SamplingPlace


def to_handle(place: SamplingPlace) -> str:
    """URL-safe text that names a sampler, without any key."""
    document = msgspec.json.encode(_Handle(version=VERSION, place=place))
    return base64.urlsafe_b64encode(document).decode()


def from_handle(handle: str, api_key: str | None = None) -> SamplingClient:
    """A client of the sampler that `handle` names.

    Raises:
        ValidationError: it is no handle of ours.
        ConfigError: there is no key for the service.
    """
    place = _read(handle)
    key = EMBEDDED_KEY if place.is_embedded else api_key
    owner = _owner_of(Settings.resolve(base_url=place.base_url, api_key=key))
    runtime = owner.runtime
    sampler = Sampler(
        owner.next_name(),
        runtime.settler,
        sampling_session_id=place.sampling_session_id,
        trained_from=place.base_model,
        is_clone=True,
        tracing=runtime.published.tracing,
    )
    runtime.start_sampler(sampler)
    client = SamplingClient(
        sampler,
        place.base_model,
        runtime.tree.clock,
        lambda: (place.base_url, place.is_embedded),
        model_path=place.model_path,
        owner=owner,
        telemetry=runtime.published.telemetry,
    )
    weakref.finalize(client, runtime.retire_sampler, sampler).atexit = False
    return client


def _read(handle: Any) -> SamplingPlace:
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(handle), type=_Handle)
    except (msgspec.DecodeError, binascii.Error, ValueError, TypeError) as error:
        raise ValidationError(f"a handle from get_sampler_handle() is wanted, got {shown(handle)}") from error
    if found.version != VERSION:
        raise ValidationError(f"a handle of version {VERSION} is wanted, got {found.version}")
    return found.place


class _Owner:
    """What the clients of one service in this process share; closed with the last of them."""

    def __init__(self, settings: Settings) -> None:
        self.runtime = Runtime(settings, RecoveryPolicy(), None, {}, None, tracing=tracing_for(settings))
        self._lock = threading.Lock()
        self._count = 0
        weakref.finalize(self, self.runtime.close_soon).atexit = False

    def next_name(self) -> str:
        with self._lock:
            self._count += 1
            return str(self._count)


_owners: "WeakValueDictionary[tuple[str, bytes, int], _Owner]" = WeakValueDictionary()
_lock = threading.Lock()


def _owner_of(settings: Settings) -> _Owner:
    with _lock:
        name = (settings.base_url, settings.credential.digest(), os.getpid())
        owner = _owners.get(name)
        if owner is None or owner.runtime.published.stopped is not None:
            owner = _owners[name] = _Owner(settings)
        return owner
