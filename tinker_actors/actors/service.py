"""The root of the service's tree, and the supervisors of named children below it."""

from collections.abc import Sequence

from tinker_actors.actors.published import Published
from tinker_actors.supervision import ChildSpec, DynamicSupervisor, StartChild, Supervisor

__all__ = ["ApplicationActor", "NamedChildren", "ServiceActor"]


class ServiceActor(Supervisor):
    """Supervises everything that one service client needs."""

    def __init__(self, children: Sequence[ChildSpec]) -> None:
        super().__init__(children, max_restarts=3, within_s=60.0)


class NamedChildren(DynamicSupervisor):
    """A dynamic supervisor that begins with the children that were published for it.

    A dynamic supervisor starts empty; what runs and samplers there are must outlive its restart.
    """

    def __init__(self, published: Published, max_restarts: int = 3) -> None:
        super().__init__(max_restarts=max_restarts, within_s=60.0)
        self._published = published

    def on_start(self) -> None:
        for spec in self._published.children(self.context.path):
            self.context.me.ask(StartChild(spec, retries=True))


class ApplicationActor(NamedChildren):
    """Supervises the caller's own actors; one that ended for good does not come back with it."""

    def on_child_deleted(self, spec: ChildSpec) -> None:
        self._published.remove_child(self.context.path, spec.id, spec)
