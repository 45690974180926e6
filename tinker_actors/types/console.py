"""Pages of the hosted service's console."""

from urllib.parse import quote

__all__ = ["checkpoint_page", "playground_page", "session_page", "sessions_page", "training_run_page"]

_CONSOLE = "https://tinker.thinkingmachines.ai"


def sessions_page() -> str:
    """All sessions."""
    return f"{_CONSOLE}/sessions"


def session_page(session_id: str) -> str:
    """One session."""
    return f"{_CONSOLE}/sessions/{session_id}"


def training_run_page(training_run_id: str) -> str:
    """One training run."""
    return f"{_CONSOLE}/training_runs/{training_run_id}"


def checkpoint_page(training_run_id: str, checkpoint_id: str) -> str:
    """One checkpoint; `checkpoint_id` is `<kind>/<name>`."""
    return f"{_CONSOLE}/checkpoints/{quote(training_run_id, safe='')}/{quote(checkpoint_id, safe='')}"


def playground_page(tinker_path: str) -> str:
    """Where sampler weights are tried out."""
    return f"{_CONSOLE}/playground?mode=checkpoint&checkpoint={quote(tinker_path, safe='')}"
