"""Which tracer a client works with."""

from tinker_actors.actors.tracing import Tracing
from tinker_actors.config import Settings

__all__ = ["tracing_for"]


def tracing_for(settings: Settings) -> Tracing | None:
    """OpenTelemetry where it is wanted; nothing of it is loaded otherwise."""
    if not settings.otel_propagate:
        return None
    from tinker_actors.observe.otel import OpenTelemetry

    return OpenTelemetry(kept=(name for name, _ in settings.headers))
