import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tinker_actors.errors import ForkedProcessError
from tinker_actors.supervision import ActorTree, ChildSpec, SupervisedActor

StartTree = Callable[..., ActorTree]


class Echo(SupervisedActor):
    def on_receive(self, message: Any) -> Any:
        return message


def runs_in_a_fork(check: Callable[[], bool]) -> bool:
    """Whether `check` holds in a forked process."""
    pid = os.fork()
    if pid == 0:
        verdict = 1
        try:
            verdict = 0 if check() else 2
        finally:
            os._exit(verdict)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def refuses(act: Callable[[], object]) -> bool:
    try:
        act()
    except ForkedProcessError:
        return True
    return False


pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no fork there"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]


def test_address_in_a_forked_process_refuses(start_tree: StartTree) -> None:
    a = start_tree(ChildSpec("a", Echo)).address("root/a")
    assert runs_in_a_fork(lambda: refuses(lambda: a.tell("hello")))
    assert runs_in_a_fork(lambda: refuses(lambda: a.ask("hello")))
    assert runs_in_a_fork(lambda: refuses(lambda: a.call("hello")))
    assert runs_in_a_fork(lambda: not refuses(lambda: a.tell_if_there("hello")))


def test_fork_leaves_the_tree_of_the_parent_alone(start_tree: StartTree) -> None:
    tree = start_tree(ChildSpec("a", Echo))

    def stop_here() -> bool:
        tree.stop(1.0)
        return not tree.stopped.is_set()

    assert runs_in_a_fork(stop_here)
    assert tree.address("root/a").call("hello") == "hello"
