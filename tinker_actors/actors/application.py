"""The caller's own actors in the tree: started, kept in mind for when their supervisor restarts, ended."""

from concurrent.futures import Future

from tinker_actors.actors.published import APPLICATION, Published
from tinker_actors.errors import CommandRefusedError, RuntimeStoppedError, StartFailedError
from tinker_actors.supervision import (
    ActorTree,
    Address,
    ChildSpec,
    Reply,
    Restart,
    StartChild,
    TerminateChild,
)

__all__ = ["ApplicationChildren"]

_TIMEOUT_S = 60.0


class ApplicationChildren:
    """The children of `application`; thread-safe.

    Args:
        tree: that they live in.
        published: where those are noted that come back with their supervisor.
    """

    def __init__(self, tree: ActorTree, published: Published) -> None:
        self._tree = tree
        self._published = published

    def address(self, child_id: str) -> Address:
        """Of one of them, which need not be there yet."""
        return self._tree.address(f"{APPLICATION}/{child_id}")

    def start(self, spec: ChildSpec) -> "Future[Address]":
        """Start a child; its address, or why there is none."""
        started: Future[Address] = Future()
        comes_back = spec.restart is not Restart.TEMPORARY
        is_new = comes_back and self._published.claim_child(APPLICATION, spec)

        def look(reply: Reply) -> None:
            error = reply.exception()
            is_lasting = isinstance(error, StartFailedError | CommandRefusedError | RuntimeStoppedError)
            if error is not None and (is_lasting or not comes_back):
                if is_new:
                    self._published.remove_child(APPLICATION, spec.id, spec)
                self._published.settler.fail(started, error)
                return
            # With any other error its supervisor was restarted: it has the child from the published table.
            if comes_back and not is_new:  # there was one of that id, which has ended since
                self._published.add_child(APPLICATION, spec)
            self._published.settler.settle(started, self.address(spec.id))

        self._tree.address(APPLICATION).ask(StartChild(spec), timeout_s=_TIMEOUT_S).add_done_callback(look)
        return started

    def stop(self, child_id: str) -> "Future[None]":
        """End a child for good; done once it has ended."""
        stopped: Future[None] = Future()
        self._published.remove_child(APPLICATION, child_id)

        def look(reply: Reply) -> None:
            error = reply.exception()
            if error is None:
                self._published.settler.settle(stopped, None)
            else:
                self._published.settler.fail(stopped, error)

        self._tree.address(APPLICATION).ask(TerminateChild(child_id), timeout_s=_TIMEOUT_S).add_done_callback(
            look
        )
        return stopped
