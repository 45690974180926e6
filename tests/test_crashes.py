"""Crashes are the supervisors' business: nothing else in the package catches every error."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tinker_actors"

# Where code of the caller's, or another process, meets ours: module -> how many handlers, and why there.
EDGES = {
    "actors/futures.py": 1,  # a done-callback of the caller's, also on the thread that settles futures
    "actors/run.py": 1,  # a loss of the caller's own: its error is that of its call
    "clients/background.py": 1,  # as in losses/threads.py
    "clients/future.py": 1,  # the error of one future becomes the error of the one made from it
    "clients/service.py": 1,  # the error of a close belongs to whoever waits for it
    "clients/training.py": 1,  # as in clients/future.py
    "clients/walk.py": 1,  # the error of a walk belongs to whoever waits for it
    "losses/pipeline.py": 1,  # a loss or regularizer of the caller's
    "losses/threads.py": 1,  # its error belongs to whoever waits for it
    "observe/otel.py": 1,  # a processor or propagator of the program's
    "tokenization/chat.py": 1,  # a template that came with a model from strangers
    "tokenization/fast.py": 1,  # a library that raises nothing narrower over a file of the user
    "wire/hub.py": 1,  # a library that raises what it likes, and its servers with it
}


def catches_everything(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        return False
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException") for kind in kinds)


def modules() -> list[str]:
    """What runs in or around the actors of a client; the embedded server is another process."""
    found = (str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))
    return sorted(name for name in found if not name.startswith(("supervision/", "local/")))


@pytest.mark.parametrize("module", modules())
def test_no_module_outside_of_the_kit_catches_a_crash(module: str) -> None:
    tree = ast.parse((PACKAGE / module).read_text())
    handlers = [
        node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and catches_everything(node)
    ]
    assert len(handlers) == EDGES.get(module, 0)
