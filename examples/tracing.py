"""See where the time goes: a short run as a tree of OpenTelemetry spans.

Each operation is a span below the program's own, and each HTTP request is one below its operation, also when an actor
was crashed and restarted between the two. Here the spans stay in memory and are printed at the end; a program of yours
sets its own provider and exporter, and passes `otel_propagate=True` or sets `TINKER_ACTORS_OTEL_PROPAGATE=1`.

    pip install "tinker-actors[otel,local]" opentelemetry-sdk
    python examples/tracing.py
"""

import itertools
import sys
from collections.abc import Iterable, Iterator

import tinker_actors as ta
from tinker_actors.supervision.testing import crash
from tinker_actors.tokenization import get_tokenizer

try:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
except ImportError:
    sys.exit('tracing needs OpenTelemetry; pip install "tinker-actors[otel]" opentelemetry-sdk')

TRAINING = "service/session/training/training:1"


def batch() -> list[ta.Datum]:
    """One example."""
    tokens = get_tokenizer("local/tiny").encode("what is not seen is not known")
    return [
        ta.Datum(
            model_input=ta.ModelInput.from_ints(tokens[:-1]),
            loss_fn_inputs={
                "target_tokens": ta.TensorData(tokens[1:], dtype="int64"),
                "weights": ta.TensorData([1.0] * (len(tokens) - 1), dtype="float32"),
            },
        )
    ]


def train(tracer: trace.Tracer) -> None:
    """Two optimizer steps and a sample; the training actor is crashed within the second step."""
    with ta.ServiceClient(base_url="local", otel_propagate=True) as service:
        with tracer.start_as_current_span("setup"):
            training = service.create_lora_training_client("local/tiny", rank=8).result()
        for step in training.steps(2):
            with tracer.start_as_current_span(f"step {step}"):
                forward = training.forward_backward(batch(), "cross_entropy")
                if step == 1:
                    crash(service.address(TRAINING))
                training.optim_step(ta.AdamParams(learning_rate=1e-3)).result()
                forward.result()
        with tracer.start_as_current_span("evaluation"):
            sampler = training.save_weights_and_get_sampling_client("tuned").result()
            sampler.sample([1, 2, 3], 1, ta.SamplingParams(max_tokens=8)).result()


def told(span: ReadableSpan) -> str:
    """A span's name, and what it says of how it went."""
    facts = span.attributes or {}
    shown = [
        str(facts[name])
        for name in ("http.response.status_code", "tinker_actors.rung", "tinker_actors.path", "error.type")
        if name in facts
    ]
    tokens = facts.get("gen_ai.usage.output_tokens")
    if tokens is not None:
        shown.append(f"{tokens} tokens")
    return f"{span.name} ({', '.join(shown)})" if shown else span.name


def tree(spans: Iterable[ReadableSpan], parent: int | None = None, depth: int = 0) -> Iterator[str]:
    """The spans below one of them, a line each; equal neighbours share a line."""
    known = list(spans)
    below = [span for span in known if (None if span.parent is None else span.parent.span_id) == parent]
    below.sort(key=lambda span: span.start_time or 0)
    for line, equal in itertools.groupby(below, told):
        alike = list(equal)
        yield f"{'  ' * depth}{line}{f' x {len(alike)}' if len(alike) > 1 else ''}"
        for span in alike:
            yield from tree(known, span.context.span_id if span.context else 0, depth + 1)


def main() -> None:
    """Trace a run, and print its spans."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    train(trace.get_tracer("examples.tracing"))
    print("\n".join(tree(exporter.get_finished_spans())))


if __name__ == "__main__":
    main()
