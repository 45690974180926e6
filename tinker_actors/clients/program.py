"""A program that ends in order, whatever happens to it: signals, clients that are still open, exit codes.

The library itself installs no signal handler; this is where a program asks for them.
"""

import contextlib
import inspect
import math
import os
import signal
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from tinker_actors.errors import ConfigError

if TYPE_CHECKING:  # the command line is to start without loading these
    from tinker_actors.clients.future import APIFuture

__all__ = ["closing", "closing_limit_s", "note_open", "run"]

DEADLINE_S = 30.0
"""Seconds from the first signal, or the end of `main`, to the end of the process; what managers of processes give."""
MARGIN_S = 2.0
"""Of these, what closing clients leaves for the rest."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BY_SIGNAL = 128
"""Added to a signal's number this is the exit code, as shells have it."""


class _Closable(Protocol):
    def close(self, status: str = ...) -> "APIFuture[None]": ...


_open_clients: "weakref.WeakSet[_Closable]" = weakref.WeakSet()
_program: "_Program | None" = None


def note_open(client: _Closable) -> None:
    """Have `run` close `client`, if nobody else does."""
    _open_clients.add(client)


def closing_limit_s(wanted_s: float) -> float:
    """How long a client may take to close: `wanted_s`, or what a program that ends has left."""
    program = _program
    return wanted_s if program is None else max(1.0, min(wanted_s, program.left_s() - MARGIN_S))


@contextlib.contextmanager
def closing() -> Iterator[None]:
    """Close a client in this block: the first signal lets that go on, until the deadline."""
    program = _program
    if program is None:
        yield
        return
    with program.ending():
        yield


def run(
    main: "Callable[[], int | None] | Callable[[], Coroutine[Any, Any, int | None]]",
    *,
    deadline_s: float = DEADLINE_S,
) -> NoReturn:
    """Run `main`, then end the process; also when it is interrupted or terminated, and whatever hangs.

    The first SIGINT raises `KeyboardInterrupt` in `main`, the first SIGTERM `SystemExit`; a coroutine is cancelled. So
    `with` blocks close what they hold: what was submitted is finished and saved, as far as time allows. Then the
    clients that are still open are closed. A second signal ends the process at once, and so does the deadline;
    the journal loses nothing by either.

    The exit code is what `main` returned (None is 0), 1 after an exception, and 128 plus its number after a signal.

    Args:
        main: a function without arguments, or a coroutine function; what gives a coroutine is one, too.
        deadline_s: seconds from the first signal, or from the end of `main`, until the process is ended.

    Raises:
        ConfigError: this is not the main thread, another program runs here, `main` is no function, or `deadline_s` no
            time.
        SystemExit: always, but for an exception of `main`.
    """
    global _program  # noqa: PLW0603 - a process has one program
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("run must be called in the main thread, which alone gets signals")
    if _program is not None:
        raise ConfigError("run is called once in a process, got a second call")
    given: Any = main
    if not callable(given):
        if inspect.iscoroutine(given):
            given.close()  # nobody will await it
        raise ConfigError(f"main must be a function, got {type(given).__name__}; hand it over uncalled")
    if not isinstance(deadline_s, int | float) or not 0 < deadline_s < math.inf:
        raise ConfigError(f"deadline_s must be seconds above 0, got {deadline_s!r}")
    _program = program = _Program(deadline_s)
    sys.exit(program.run(main))


class _Program:
    """The one program of this process."""

    def __init__(self, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._end_at: float | None = None
        self._signal: int | None = None
        self._cancel: Callable[[], object] | None = None
        """Cancels `main`, while that is a coroutine that runs."""
        self._is_ending = False
        self._exit_code = 1
        """Of a process that does not end by itself."""

    def left_s(self) -> float:
        """Seconds until the process is ended."""
        end_at = self._end_at
        return self._deadline_s if end_at is None else end_at - time.monotonic()

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """A block whose work is what a signal would begin."""
        before, self._is_ending = self._is_ending, True
        try:
            yield
        finally:
            self._is_ending = before

    def run(self, main: Callable[[], Any]) -> int:
        """Run `main` and close everything; the exit code."""
        self._listen()
        status = "errored"
        try:
            code = self._call(main)
            status, self._exit_code = "success", code
        except (KeyboardInterrupt, SystemExit) as error:
            if self._signal is None:
                if isinstance(error, SystemExit) and isinstance(error.code, int | None):
                    self._exit_code = error.code or 0
                status = "success" if isinstance(error, SystemExit) and not error.code else "interrupted"
                raise
            status, code = "interrupted", _BY_SIGNAL + self._signal
        finally:
            if os.getpid() == self._pid:
                self._end(status)
        return code if self._signal is None else _BY_SIGNAL + self._signal

    def _call(self, main: Callable[[], Any]) -> int:
        given = main()
        if not inspect.iscoroutine(given):
            return _code(given)

        import asyncio

        async def cancellable() -> Any:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - this runs in one
            loop = asyncio.get_running_loop()
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            try:
                return await given
            finally:
                self._cancel = None

        try:
            return _code(asyncio.run(cancellable()))
        except asyncio.CancelledError:
            if self._signal is None:
                raise
            raise KeyboardInterrupt from None

    def _end(self, status: str) -> None:
        """Close the clients that nobody closed, until the deadline."""
        self._is_ending = True
        self._arm()
        futures = [client.close(status).future() for client in list(_open_clients)]
        for future in futures:
            try:
                future.exception(max(0.0, self.left_s()))
            except TimeoutError:
                break

    # Signals -------------------------------------------------------------------------------------

    def _listen(self) -> None:
        # A thread hears of signals by itself: the main thread may be stuck where no handler runs.
        self._ear, mouth = socket.socketpair()
        mouth.setblocking(False)
        self._mouth = mouth  # kept open
        self._handlers = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
        os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=self._forget)
        threading.Thread(target=self._hear, name="program-signals", daemon=True).start()

    def _forget(self) -> None:
        """In a forked child: its signals are its own, and none of ours is told of them."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)
        _let_through()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        """In the main thread, between two steps of its Python code."""
        if self._signal is not None:
            return  # the second one is forced by who hears it
        self._signal = number
        self._arm()
        if self._is_ending:
            return
        if self._cancel is not None:
            self._cancel()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(_BY_SIGNAL + number)

    def _hear(self) -> None:
        """On a thread of its own: begin the deadline at the first signal, end the process at the second."""
        heard = 0
        while True:
            for number in self._ear.recv(16):
                if number in _SIGNALS:
                    heard += 1
                    self._exit_code = _BY_SIGNAL + number
                    if heard > 1:
                        os._exit(self._exit_code)
                    self._arm()

    # The deadline --------------------------------------------------------------------------------

    def _arm(self) -> None:
        """End the process in `deadline_s`, if it does not end by itself; the first call counts."""
        with self._lock:
            if self._end_at is not None:
                return
            self._end_at = time.monotonic() + self._deadline_s
        threading.Thread(target=self._enforce, name="program-deadline", daemon=True).start()

    def _enforce(self) -> None:
        time.sleep(max(0.0, self.left_s()))
        stuck = ", ".join(
            thread.name for thread in threading.enumerate() if not thread.daemon and thread.is_alive()
        )
        message = f"not everything ended within {self._deadline_s:g} s (threads: {stuck}); leaving\n"
        os.write(2, message.encode())
        os._exit(self._exit_code)


def _hold_back() -> None:
    """Before a fork: a signal that comes to the child before it is on its own would be told to the parent."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _code(returned: Any) -> int:
    """The exit code that `main` asks for.

    Raises:
        ConfigError: it returned something else.
    """
    if returned is None:
        return 0
    if not isinstance(returned, int):
        raise ConfigError(f"main must return an exit code or None, got {type(returned).__name__}")
    return int(returned)
