import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from tinker_actors.errors import (
    ConfigError,
    HandleClosedError,
    NotDeliveredError,
    OutcomeUnknownError,
    WouldDeadlockError,
)
from tinker_actors.supervision import (
    ActorTree,
    Backoff,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    DeleteChild,
    DynamicSupervisor,
    ErrorContained,
    Kind,
    Proxy,
    Reply,
    StartChild,
    SupervisedActor,
    Supervisor,
    TerminateChild,
)
from tinker_actors.supervision.proxy import UndeclaredError
from tinker_actors.supervision.testing import VirtualClock, crash, expect

StartTree = Callable[..., ActorTree]


class Shelf:
    """What an actor holds."""

    def __init__(self) -> None:
        self.books: list[str] = []

    def add(self, book: str) -> int:
        self.books.append(book)
        return len(self.books)

    def burn(self) -> None:
        self.books.clear()


class Library(SupervisedActor):
    """Lends books."""

    reply_errors = (LookupError,)
    exposed: ClassVar[tuple[str, ...]] = ("lend", "leave", "title", "shelf.add", "spoil")

    title = "a library"

    def __init__(self) -> None:
        super().__init__()
        self.shelf = Shelf()
        self.debts = 3

    def lend(self, book: str, *, days: int = 7) -> tuple[int, str, int]:
        """Lend one."""
        if book not in self.shelf.books:
            raise KeyError(book)
        return self.context.epoch, book, days

    def leave(self) -> None:
        raise SystemExit

    def spoil(self) -> None:
        raise ValueError("spoilt")

    def sell(self) -> None:
        """Nobody may from outside."""


SPEC = ChildSpec("a", Library)


@pytest.fixture
def tree(start_tree: StartTree) -> ActorTree:
    return start_tree(SPEC)


@pytest.fixture
def library(tree: ActorTree) -> Any:
    return tree.address("root/a").proxy(Library)


# What it offers.


def test_method_is_a_call_with_arguments_that_answers_with_a_reply(library: Any) -> None:
    """HAN-03."""
    library.shelf.add("Emma").result()
    reply = library.lend("Emma", days=3)
    assert isinstance(reply, Reply)
    assert reply.result() == (1, "Emma", 3)


def test_method_of_an_attribute_is_called_by_its_dotted_path(library: Any) -> None:
    """HAN-03."""
    assert [library.shelf.add(book).result() for book in ("Emma", "Persuasion")] == [1, 2]


def test_deferred_call_expects_no_answer_and_keeps_its_place(library: Any) -> None:
    """HAN-03."""
    for book in "xyz":
        library.shelf.add.defer(book)
    assert library.lend.defer("x") is None
    assert library.shelf.add("last").result() == 4


def test_attribute_is_read_as_a_reply(library: Any) -> None:
    """HAN-03."""
    assert isinstance(library.title, Reply)
    assert library.title.result() == "a library"


def test_attribute_is_set_in_the_actor_before_the_assignment_is_over(library: Any) -> None:
    """HAN-03."""
    library.title = "a better library"
    assert library.title.result() == "a better library"
    assert Library.title == "a library"


def test_methods_kept_apart_from_their_proxy_still_work(library: Any) -> None:
    add = library.shelf.add
    assert add("Emma").result() == 1


@pytest.mark.parametrize(
    "name", ["sell", "debts", "books", "_actor_loop", "_stop", "stop", "actor_ref", "on_receive", "context"]
)
def test_name_that_is_not_exposed_is_no_attribute_and_nothing_is_sent(
    tree: ActorTree, library: Any, name: str
) -> None:
    """HAN-03."""
    tree.address("root").call(TerminateChild("a"))
    with pytest.raises(AttributeError, match=name):
        getattr(library, name)
    with pytest.raises(AttributeError, match=name):
        setattr(library, name, "x")


@pytest.mark.parametrize("name", ["burn", "books", "_books", "add.__self__"])
def test_member_that_is_not_exposed_is_no_attribute_and_nothing_is_sent(
    tree: ActorTree, library: Any, name: str
) -> None:
    """HAN-03."""
    tree.address("root").call(TerminateChild("a"))
    with pytest.raises(AttributeError, match=name):
        getattr(library.shelf, name)


@pytest.mark.parametrize("name", ["lend", "shelf"])
def test_only_attributes_are_set(library: Any, name: str) -> None:
    """HAN-03."""
    with pytest.raises(AttributeError, match=name):
        setattr(library, name, "x")


def test_owner_of_an_exposed_method_is_not_itself_exposed(tree: ActorTree, library: Any) -> None:
    """HAN-03."""
    tree.address("root").call(TerminateChild("a"))
    with pytest.raises(AttributeError, match="shelf"):
        library.shelf()
    with pytest.raises(AttributeError, match="shelf"):
        library.shelf.defer()


def test_proxy_lists_what_it_offers(library: Any) -> None:
    assert dir(library) == ["leave", "lend", "shelf", "spoil", "title"]


def test_proxy_and_its_methods_say_what_they_are(library: Any) -> None:
    assert isinstance(library, Proxy)
    assert repr(library) == "<Proxy Library at root/a>"
    assert repr(library.shelf.add) == "<ProxyMethod shelf.add of root/a>"


# Interfaces that are not the actor's class.


class Lending:
    """A part of what a library does, and something that it does not."""

    exposed = ("lend", "sell", "price", "shelf.burn")

    def lend(self, book: str) -> None: ...

    def sell(self) -> None: ...


@pytest.mark.parametrize(
    "use",
    [
        lambda proxy: proxy.sell(),
        lambda proxy: proxy.price,
        lambda proxy: proxy.shelf.burn(),
    ],
    ids=["method", "attribute", "dotted"],
)
def test_actor_that_does_not_expose_what_the_interface_says_answers_so_and_lives_on(
    tree: ActorTree, use: Callable[[Any], Reply]
) -> None:
    """HAN-03."""
    proxy = tree.address("root/a").proxy(Lending)
    with pytest.raises(UndeclaredError, match="Library does not expose"):
        use(proxy).result()
    with pytest.raises(KeyError):
        proxy.lend("Emma").result()
    assert epoch(tree) == 1


def epoch(tree: ActorTree) -> int:
    node = tree.snapshot().find("root/a")
    assert node is not None
    return node.epoch


def test_attribute_that_the_actor_does_not_expose_is_not_set(tree: ActorTree) -> None:
    """HAN-03."""
    with pytest.raises(UndeclaredError):
        tree.address("root/a").proxy(Lending).price = 3
    assert epoch(tree) == 1


def test_deferred_call_of_what_the_actor_does_not_expose_is_reported_and_harms_nobody(
    tree: ActorTree,
) -> None:
    """HAN-03."""
    with expect(tree, ErrorContained, path="root/a"):
        tree.address("root/a").proxy(Lending).sell.defer()
    assert epoch(tree) == 1


class Sketch:
    """An interface that forgets that `lend` is a method."""

    exposed = ("lend",)


def test_method_is_neither_read_nor_replaced_as_an_attribute(tree: ActorTree) -> None:
    """HAN-02, HAN-03."""
    sketch = tree.address("root/a").proxy(Sketch)
    with pytest.raises(UndeclaredError):
        sketch.lend.result()
    with pytest.raises(UndeclaredError):
        sketch.lend = "not a method"
    with pytest.raises(KeyError):
        tree.address("root/a").proxy(Library).lend("Emma").result()


class Confused:
    """An interface that takes the title for a method."""

    exposed = ("title",)

    def title(self) -> None: ...


def test_attribute_that_an_interface_takes_for_a_method_is_an_answer(tree: ActorTree) -> None:
    """HAN-03."""
    with pytest.raises(UndeclaredError):
        tree.address("root/a").proxy(Confused).title().result()
    assert tree.address("root/a").proxy().title.result() == "a library"
    assert epoch(tree) == 1


class Silent:
    """Exposes nothing."""


class Misspelt:
    """Exposes what cannot be."""

    exposed = "lend"


class Prying:
    """Wants what is private."""

    exposed = ("_stop",)


@pytest.mark.parametrize("interface", [Silent, Misspelt, Prying, SupervisedActor, Supervisor])
def test_interface_that_offers_nothing_usable_is_refused(tree: ActorTree, interface: type[Any]) -> None:
    """HAN-03."""
    with pytest.raises(ConfigError, match=r"exposed"):
        tree.address("root/a").proxy(interface)


def test_proxy_without_an_interface_takes_that_of_the_actor(tree: ActorTree) -> None:
    """HAN-03."""
    assert tree.address("root/a").proxy().title.result() == "a library"


@pytest.mark.parametrize("path", ["root/nobody", "root/dyn/a"])
def test_proxy_without_an_interface_needs_an_actor_that_was_built_once(
    start_tree: StartTree, path: str
) -> None:
    """HAN-03."""
    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR))
    with pytest.raises(NotDeliveredError, match="was never built"):
        tree.address(path).proxy()
    tree.address("root/dyn").call(StartChild(SPEC))
    assert tree.address("root/dyn/a").proxy().title.result() == "a library"


def test_proxy_with_an_interface_needs_no_actor_yet(start_tree: StartTree) -> None:
    """HAN-03."""
    tree = start_tree(ChildSpec("dyn", DynamicSupervisor, kind=Kind.SUPERVISOR))
    early = tree.address("root/dyn/a").proxy(Library)
    assert isinstance(early.title.exception(), NotDeliveredError)
    tree.address("root/dyn").call(StartChild(SPEC))
    assert early.title.result() == "a library"


# Errors.


def test_declared_error_of_an_exposed_method_is_an_answer(tree: ActorTree, library: Any) -> None:
    with pytest.raises(KeyError):
        library.lend("Emma").result()
    assert epoch(tree) == 1


def test_any_other_error_of_an_exposed_method_is_answered_and_ends_the_incarnation(
    tree: ActorTree, library: Any
) -> None:
    with expect(tree, ChildStarted, path="root/a", epoch=2), pytest.raises(ValueError, match="spoilt"):
        library.spoil().result()


def test_error_in_a_deferred_call_ends_the_incarnation(tree: ActorTree, library: Any) -> None:
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        library.spoil.defer()


def test_exit_in_an_exposed_method_leaves_its_outcome_unknown(tree: ActorTree, library: Any) -> None:
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        assert isinstance(library.leave().exception(), OutcomeUnknownError)


def test_wrong_arguments_are_an_error_of_the_call(tree: ActorTree, library: Any) -> None:
    with expect(tree, ChildStarted, path="root/a", epoch=2), pytest.raises(TypeError):
        library.lend().result()


def test_error_while_an_attribute_is_set_is_raised_by_the_assignment(start_tree: StartTree) -> None:
    class Careful(SupervisedActor):
        reply_errors = (ValueError,)
        exposed = ("weight",)

        @property
        def weight(self) -> float:
            return 1.0

        @weight.setter
        def weight(self, value: float) -> None:
            if value < 0:
                raise ValueError("weight must be 0 or more")

    careful = start_tree(ChildSpec("a", Careful)).address("root/a").proxy()
    careful.weight = 2.0
    with pytest.raises(ValueError, match="0 or more"):
        careful.weight = -1.0
    assert careful.weight.result() == 1.0


# Restarts, ends, memory.


def test_proxy_survives_restarts_and_calls_the_incarnation_of_the_moment(
    tree: ActorTree, library: Any
) -> None:
    """HAN-02."""
    for number in (2, 3):
        library.shelf.add("Emma").result()
        with expect(tree, ChildStarted, path="root/a", epoch=number):
            crash(tree.address("root/a"))
        assert library.shelf.add("Emma").result() == 1
        assert library.lend("Emma").result() == (number, "Emma", 7)


def test_proxy_call_during_the_backoff_waits_for_the_next_incarnation(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    """HAN-02."""
    spec = ChildSpec("a", Library, backoff=Backoff(base_s=1.0, jitter=0.0))
    tree = start_tree(spec, clock=clock)
    library = tree.address("root/a").proxy()
    with expect(tree, ChildRestarting):
        crash(tree.address("root/a"))
    title = library.title
    clock.advance(1.0)
    assert title.result() == "a library"


def test_proxy_holds_no_actor(start_tree: StartTree) -> None:
    """HAN-02."""
    made: list[weakref.ref[Library]] = []

    class Remembered(Library):
        def on_start(self) -> None:
            made.append(weakref.ref(self))

    tree = start_tree(ChildSpec("a", Remembered))
    library = tree.address("root/a").proxy()
    lend, add = library.lend, library.shelf.add
    add("Emma").result()
    with expect(tree, ChildStarted, path="root/a", epoch=2):
        crash(tree.address("root/a"))
    for thread in threading.enumerate():
        if thread.name == "actor:root/a#1":
            thread.join(5.0)
    gc.collect()
    assert [actor() is None for actor in made] == [True, False]
    add("Emma").result()
    assert lend("Emma").result() == (2, "Emma", 7)


def test_proxy_of_a_deleted_child_is_closed(tree: ActorTree, library: Any) -> None:
    """HAN-05."""
    tree.address("root").call(TerminateChild("a"))
    tree.address("root").call(DeleteChild("a"))
    assert isinstance(library.title.exception(), HandleClosedError)
    with pytest.raises(HandleClosedError):
        library.title = "x"
    with pytest.raises(HandleClosedError):
        library.lend.defer("Emma")


def test_actor_that_waits_for_its_own_proxy_is_told_so(start_tree: StartTree) -> None:
    """HAN-04."""

    class Selfish(SupervisedActor):
        reply_errors = (WouldDeadlockError,)
        exposed = ("wait", "assign", "value")
        value = 0

        def wait(self) -> Any:
            return self.context.address(self.context.path).proxy().value.result()

        def assign(self) -> None:
            self.context.address(self.context.path).proxy().value = 1

    tree = start_tree(ChildSpec("a", Selfish))
    selfish = tree.address("root/a").proxy()
    for method in (selfish.wait, selfish.assign):
        with pytest.raises(WouldDeadlockError):
            method().result()
    assert selfish.value.result() == 0


def test_time_limit_of_a_proxy_holds_for_each_of_its_calls(
    start_tree: StartTree, clock: VirtualClock
) -> None:
    class Slow(SupervisedActor):
        exposed = ("wait",)

        def wait(self) -> Reply:
            return Reply()

    slow = start_tree(ChildSpec("a", Slow), clock=clock).address("root/a").proxy(timeout_s=2.0)
    first = slow.wait()
    clock.advance(1.0)
    second = slow.wait()
    clock.advance(1.0)
    assert (first.done(), second.done()) == (True, False)
    clock.advance(1.0)
    assert isinstance(second.exception(), (OutcomeUnknownError, NotDeliveredError))


# Declarations.


def define(exposed: Any) -> type[SupervisedActor]:
    return type("Bad", (SupervisedActor,), {"exposed": exposed})


@pytest.mark.parametrize(
    ("exposed", "complaint"),
    [
        ("lend", "a tuple of names"),
        (["lend"], "a tuple of names"),
        (None, "a tuple of names"),
        ((1,), "public names only"),
        (("",), "public names only"),
        (("two words",), "public names only"),
        (("_stop",), "public names only"),
        (("__init__",), "public names only"),
        (("shelf._books",), "public names only"),
        (("_shelf.books",), "public names only"),
        (("shelf.",), "public names only"),
        (("a.b.c",), "one dot"),
        (("lend", "lend"), "each name once"),
    ],
)
def test_interface_that_cannot_be_served_is_refused_where_it_is_defined(exposed: Any, complaint: str) -> None:
    """HAN-03."""
    with pytest.raises(ConfigError, match=complaint):
        define(exposed)


def test_subclass_exposes_what_its_parent_does_unless_it_says_otherwise() -> None:
    class Branch(Library):
        pass

    class Closed(Library):
        exposed: ClassVar[tuple[str, ...]] = ()

    assert Branch.exposed == Library.exposed
    assert Closed.exposed == ()


@pytest.mark.parametrize(
    ("base", "name"),
    [
        (SupervisedActor, "_kit_loop"),
        (SupervisedActor, "_create_actor_inbox"),
        (SupervisedActor, "_actor_loop"),
        (SupervisedActor, "_handle_receive"),
        (SupervisedActor, "_stop"),
        (Supervisor, "_kit_loop"),
        (Supervisor, "_kit_configure"),
        (DynamicSupervisor, "_kit_configure"),
    ],
)
def test_method_of_the_kit_or_of_pykka_is_not_replaced_by_accident(
    base: type[SupervisedActor], name: str
) -> None:
    with pytest.raises(ConfigError, match=name):
        type("Bad", (base,), {name: lambda _self: None})


def test_private_methods_of_ones_own_may_have_any_other_name() -> None:
    class Fine(SupervisedActor):
        def _mine(self) -> None: ...

        def __mangled(self) -> None: ...

    class Finer(Fine):
        def _mine(self) -> None: ...

    assert issubclass(Finer, SupervisedActor)
