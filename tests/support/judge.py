"""What became of a run, by the embedded server's own account: judges tests of recovery."""

from control import Control
from harness import Server

CHANGING = ("forward_backward", "optim_step")


def changes(control: Control, model_id: str) -> list[tuple[str, str]]:
    """What changed a model, in order: kind and digest of each request that succeeded."""
    return [
        (entry.kind, entry.content)
        for entry in control.executed(model_id)
        if entry.kind in CHANGING and entry.form != "error"
    ]


def steps(control: Control, model_id: str) -> int:
    """Optimizer steps that a model took."""
    return sum(kind == "optim_step" for kind, _ in changes(control, model_id))


def verdict(server: Server, path: str) -> tuple[str, list[tuple[str, str]]]:
    """Digest of the state that was saved under `path`, and what changed the model that it is of."""
    return server.digest(path), changes(server.control, path.removeprefix("tinker://").partition("/")[0])
