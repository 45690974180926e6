import threading
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest

from tinker_actors.supervision import ActorTree, ChildSpec, Clock, Kind, Supervisor
from tinker_actors.supervision.testing import VirtualClock

StartTree = Callable[..., ActorTree]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """After each test no thread of an actor, a timer or a listener is left, and Pykka knows no actor."""
    yield
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("actor")]
    for thread in ours:
        thread.join(5.0)
    assert [thread.name for thread in ours if thread.is_alive()] == []
    assert pykka.ActorRegistry.get_all() == []


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def start_tree(nothing_left: None) -> Iterator[StartTree]:  # noqa: ARG001 - for the order of the endings
    """Makes and starts a tree whose root has the given children; stopped after the test."""
    trees: list[ActorTree] = []

    def start(*children: ChildSpec, clock: Clock | None = None, **limits: Any) -> ActorTree:
        limits = {"max_restarts": 100, **limits}
        root = ChildSpec("root", lambda: Supervisor(children, **limits), kind=Kind.SUPERVISOR)
        tree = ActorTree(root, clock=clock, seed=1)
        trees.append(tree)
        tree.start(10.0)
        return tree

    yield start
    for tree in trees:
        tree.stop(5.0)
