"""A look-alike of an actor: its exposed methods as calls that answer with a `Reply`.

A proxy knows names only. It holds no actor, and what it may say is declared by the class, not found by looking
into a live object.
"""

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Final, NoReturn

from tinker_actors.errors import ConfigError
from tinker_actors.supervision.replies import Reply

if TYPE_CHECKING:
    from tinker_actors.supervision.address import Address

__all__ = [
    "OF_PROXY",
    "CallMethod",
    "GetAttribute",
    "Proxy",
    "ProxyMethod",
    "UndeclaredError",
    "check_exposed",
    "perform",
]


@dataclass(frozen=True, slots=True)
class CallMethod:
    """Call the exposed method `name`."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GetAttribute:
    """Read the exposed attribute `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class SetAttribute:
    """Give the exposed attribute `name` a value."""

    name: str
    value: Any


OF_PROXY: Final = frozenset({CallMethod, GetAttribute, SetAttribute})


class UndeclaredError(AttributeError):
    """The actor that answers does not expose that name; it is an answer and ends nobody."""


def perform(message: CallMethod | GetAttribute | SetAttribute, actor: Any) -> Any:
    """Do what a proxy asked for, in the actor's thread.

    Raises:
        UndeclaredError: the actor's class does not expose that name.
    """
    kind = type(actor)
    if message.name not in kind.exposed:
        raise UndeclaredError(f"{kind.__qualname__} does not expose {message.name!r}")
    match message:
        case CallMethod(name, args, kwargs):
            method = reduce(getattr, name.split("."), actor)
            if not callable(method):
                raise UndeclaredError(f"{kind.__qualname__}.{name} is no method")
            return method(*args, **kwargs)
        case GetAttribute(name) | SetAttribute(name) if callable(getattr(kind, name, None)):
            raise UndeclaredError(f"{kind.__qualname__}.{name} is a method")
        case GetAttribute(name):
            return getattr(actor, name)
        case SetAttribute(name, value):
            setattr(actor, name, value)
    return None


def check_exposed(kind: type[Any]) -> None:
    """Refuse an interface that cannot be served.

    Raises:
        ConfigError: a name is private or none, or stands there twice.
    """
    exposed = kind.exposed
    if not isinstance(exposed, tuple):
        raise ConfigError(f"{kind.__qualname__}.exposed must be a tuple of names, got {exposed!r}")
    for name in exposed:
        parts = name.split(".") if isinstance(name, str) else []
        if not parts or not all(part.isidentifier() and not part.startswith("_") for part in parts):
            raise ConfigError(f"{kind.__qualname__}.exposed must have public names only, got {name!r}")
        if len(parts) > 2:  # noqa: PLR2004 - an attribute and its method
            raise ConfigError(f"{kind.__qualname__}.exposed must have one dot a name at most, got {name!r}")
    if len(set(exposed)) < len(exposed):
        raise ConfigError(f"{kind.__qualname__}.exposed must have each name once, got {exposed}")


def _refuse_private(proxy: object, name: str) -> None:
    """No interface has private names; Python asks for some, also of an object that is not complete yet."""
    if name.startswith("_"):
        raise AttributeError(f"a {type(proxy).__name__} has no attribute {name!r}")


class ProxyMethod:
    """A method of a proxy: call it for a `Reply`, or `defer` it to expect none."""

    __slots__ = ("_address", "_exposed", "_name", "_timeout_s")

    def __init__(self, address: "Address", name: str, exposed: tuple[str, ...], timeout_s: float) -> None:
        self._address, self._name, self._exposed, self._timeout_s = address, name, exposed, timeout_s

    def __call__(self, *args: Any, **kwargs: Any) -> Reply:
        """Ask for the call; what it returns or raises comes in the reply."""
        return self._address.ask(self._message(args, kwargs), timeout_s=self._timeout_s)

    def defer(self, *args: Any, **kwargs: Any) -> None:
        """Tell the actor to make the call; an error there is a crash.

        Raises:
            NotDeliveredError: like `Address.tell`, with its other errors.
        """
        self._address.tell(self._message(args, kwargs))

    def _message(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallMethod:
        if self._name not in self._exposed:
            raise AttributeError(f"{self!r} is no method; only members of it are exposed")
        return CallMethod(self._name, args, kwargs)

    def __getattr__(self, name: str) -> "ProxyMethod":
        _refuse_private(self, name)
        path = f"{self._name}.{name}"
        if path not in self._exposed:
            raise AttributeError(f"{self!r} has no member {name!r}")
        return ProxyMethod(self._address, path, self._exposed, self._timeout_s)

    def __repr__(self) -> str:
        return f"<ProxyMethod {self._name} of {self._address.path}>"


class Proxy:
    """What `Address.proxy` gives: methods to call, attributes to read and to set.

    `proxy.method(...)` and `proxy.attribute` are a `Reply` each; `proxy.method.defer(...)` expects none;
    `proxy.attribute = value` waits until it is done. Each call finds the incarnation of its moment.
    """

    __slots__ = ("_address", "_interface", "_timeout_s")

    def __init__(self, address: "Address", interface: type[Any], timeout_s: float) -> None:
        object.__setattr__(self, "_address", address)
        object.__setattr__(self, "_interface", interface)
        object.__setattr__(self, "_timeout_s", timeout_s)

    def __getattr__(self, name: str) -> Any:
        _refuse_private(self, name)
        interface = self._interface
        exposed = interface.exposed
        is_owner = any(path.startswith(f"{name}.") for path in exposed)
        if name not in exposed and not is_owner:
            raise AttributeError(f"{interface.__qualname__} exposes no {name!r}, only {', '.join(exposed)}")
        if is_owner or callable(getattr(interface, name, None)):
            return ProxyMethod(self._address, name, exposed, self._timeout_s)
        return self._address.ask(GetAttribute(name), timeout_s=self._timeout_s)

    def __setattr__(self, name: str, value: Any) -> None:
        interface = self._interface
        if name not in interface.exposed or callable(getattr(interface, name, None)):
            raise AttributeError(f"{interface.__qualname__} exposes no attribute {name!r} to set")
        self._address.call(SetAttribute(name, value), timeout_s=self._timeout_s)

    def __dir__(self) -> list[str]:
        return sorted({path.partition(".")[0] for path in self._interface.exposed})

    def __copy__(self) -> "Proxy":
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Proxy":
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} is good in this process only; send its path")

    def __repr__(self) -> str:
        return f"<Proxy {self._interface.__qualname__} at {self._address.path}>"
