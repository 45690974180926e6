"""Spans of what a client does, and their context in its requests."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from harness import ADAM, BATCHES, KEY, WAIT_S, Server, client, step
from network import CALL, Bench, answers
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import tinker_actors as ta
from tinker_actors.actors.transport import Fetch
from tinker_actors.config import Settings
from tinker_actors.errors import APIConnectionError, ConfigError, MissingExtraError, StepVoidError
from tinker_actors.observe.otel import OpenTelemetry, extract_context, inject_headers
from tinker_actors.supervision import ChildStarted
from tinker_actors.supervision.testing import crash, expect
from tinker_actors.wire.calls import Answer, Call

NO_CHECKPOINTS = ta.RecoveryPolicy(checkpoint_every_steps=0)
PROMPT = [1, 2, 3]
DRAW = ta.SamplingParams(max_tokens=4, seed=1, temperature=0.5, stop="secret stop")


class Seen:
    """The spans that ended since the test began."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    def below(self, parent: ReadableSpan) -> list[ReadableSpan]:
        return [span for span in self.all() if span.parent is not None and span.parent == parent.context]


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Of the process's provider, which can be set once."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def seen(exporter: InMemorySpanExporter) -> Iterator[Seen]:
    exporter.clear()
    yield Seen(exporter)
    exporter.clear()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> trace.Tracer:
    """The program's own."""
    assert exporter is not None
    return trace.get_tracer("the program")


def context_of(span: ReadableSpan) -> trace.SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


# What spans there are --------------------------------------------------------------------------------


def test_each_operation_is_a_span_below_the_callers_and_its_requests_are_below_it(
    server: Server, seen: Seen, tracer: trace.Tracer
) -> None:
    with (
        client(server, None, recovery=NO_CHECKPOINTS, otel_propagate=True) as service,
        tracer.start_as_current_span("epoch"),
    ):
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        step(training, 0)
        sampler = training.save_weights_and_get_sampling_client("s").result(WAIT_S)
        sampler.sample(PROMPT, 1, DRAW).result(WAIT_S)
        service.get_server_capabilities().result(WAIT_S)
    epoch = seen.one("epoch")
    operations = {
        "create_training_client",
        "forward_backward",
        "optim_step",
        "save_weights_for_sampler",
        "create_sampling_client",
        "sample",
        "get_server_capabilities",
    }
    assert {span.name for span in seen.below(epoch)} == operations
    for name, request in [
        ("create_training_client", "POST create_model"),
        ("forward_backward", "POST forward_backward"),
        ("optim_step", "POST optim_step"),
        ("save_weights_for_sampler", "POST save_weights_for_sampler"),
        ("create_sampling_client", "POST create_sampling_session"),
        ("sample", "POST asample"),
        ("get_server_capabilities", "GET get_server_capabilities"),
    ]:
        below = seen.below(seen.one(name))
        assert request in {span.name for span in below}, name
        assert {span.kind for span in below} == {SpanKind.CLIENT}


def test_a_request_has_the_attributes_of_the_conventions(server: Server, seen: Seen) -> None:
    with client(server, None, otel_propagate=True, default_query={"token": "hidden"}) as service:
        service.get_server_capabilities().result(WAIT_S)
    found = attributes(seen.one("GET get_server_capabilities"))
    assert found == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.full": f"{server.url}/api/v1/get_server_capabilities",
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "tinker_actors.operation": "get_server_capabilities",
    }


def test_a_sample_says_what_was_asked_for_and_how_much_came(server: Server, seen: Seen) -> None:
    with client(server, None, otel_propagate=True) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        response = sampler.sample(PROMPT, 2, DRAW).result(WAIT_S)
    found = attributes(seen.one("sample"))
    drawn = sum(len(one.tokens) for one in response.sequences)
    reasons = tuple(str(one.stop_reason) for one in response.sequences)
    assert {name: value for name, value in found.items() if name.startswith("gen_ai.")} == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "tinker",
        "gen_ai.request.stream": False,
        "gen_ai.request.model": "local/tiny",
        "gen_ai.request.choice.count": 2,
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.seed": 1,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": drawn,
        "gen_ai.response.finish_reasons": reasons,
    }


def test_a_stream_is_a_span_until_its_last_token(server: Server, seen: Seen, tracer: trace.Tracer) -> None:
    with client(server, None, otel_propagate=True) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        with tracer.start_as_current_span("reader"):
            chunks = list(sampler.sample_stream(PROMPT, DRAW))
    span = seen.one("sample_stream")
    assert span.parent == seen.one("reader").context
    assert [one.name for one in seen.below(span)] == ["POST stream_sample"]
    drawn = sum(chunk.token_id is not None for chunk in chunks)
    assert attributes(span)["gen_ai.usage.output_tokens"] == drawn


def test_a_custom_loss_is_one_span_and_its_code_runs_below_the_caller(
    server: Server, seen: Seen, tracer: trace.Tracer
) -> None:
    from tinker_actors.losses import value_and_grad

    @value_and_grad
    def loss(_data: Any, logprobs: Any) -> Any:
        with tracer.start_as_current_span("my loss"):
            return sum(-one.sum() for one in logprobs), [-1.0 + 0.0 * one for one in logprobs], {}

    with client(server, None, recovery=NO_CHECKPOINTS, otel_propagate=True) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        with tracer.start_as_current_span("caller"):
            training.forward_backward_custom(BATCHES[0], loss).result(WAIT_S)
    span, caller = seen.one("forward_backward_custom"), seen.one("caller")
    assert span.parent == caller.context == seen.one("my loss").parent
    sent = [one.name for one in seen.below(span) if "retrieve_future" not in one.name]
    assert sent == ["POST forward_backward", "POST forward_backward"]


def test_an_operation_that_fails_says_how(server: Server, seen: Seen) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS, otel_propagate=True) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        server.control.arm({"effect": "status", "status": 422, "operation": "forward_backward"})
        training.forward_backward(BATCHES[0], "cross_entropy")
        with pytest.raises(StepVoidError):
            training.optim_step(ADAM).result(WAIT_S)
    failed, void = seen.one("forward_backward"), seen.one("optim_step")
    assert attributes(failed)["error.type"] == "UnprocessableEntityError"
    assert attributes(void)["error.type"] == "StepVoidError"
    assert failed.status.status_code == void.status.status_code == StatusCode.ERROR
    request = seen.one("POST forward_backward")
    found = attributes(request)
    assert (found["http.response.status_code"], found["error.type"]) == (422, "422")
    assert (request.status.status_code, request.status.description) == (StatusCode.ERROR, None)


def test_a_request_that_is_sent_again_says_how_often(bench: Callable[..., Bench], seen: Seen) -> None:
    made = bench(
        answers(APIConnectionError("gone"), Answer(503, {}, b""), Answer(200, {}, b'{"request_id": "7"}')),
        tracing=OpenTelemetry(),
    )
    made.address.call(Fetch(CALL), timeout_s=WAIT_S)
    spans = [attributes(span) for span in seen.named("POST save_weights")]
    assert [span.get("http.request.resend_count") for span in spans] == [None, 1, 2]
    assert [span.get("error.type") for span in spans] == ["APIConnectionError", "503", None]


# Whose span is above ---------------------------------------------------------------------------------


def test_each_thread_and_each_task_has_its_own_span_above(
    server: Server, seen: Seen, tracer: trace.Tracer
) -> None:
    names = ["thread 0", "thread 1", "task 0", "task 1"]
    together = threading.Barrier(2)

    def in_thread(sampler: ta.SamplingClient, name: str) -> None:
        with tracer.start_as_current_span(name):
            together.wait(WAIT_S)
            sampler.sample(PROMPT, 1, DRAW).result(WAIT_S)

    async def in_task(sampler: ta.SamplingClient, name: str) -> None:
        with tracer.start_as_current_span(name):
            await asyncio.sleep(0)
            await sampler.sample_async(PROMPT, 1, DRAW)

    async def in_tasks(sampler: ta.SamplingClient) -> None:
        await asyncio.gather(*(in_task(sampler, name) for name in names[2:]))

    with client(server, None, otel_propagate=True) as service, ThreadPoolExecutor(2) as pool:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        list(pool.map(in_thread, [sampler] * 2, names[:2]))
        asyncio.run(in_tasks(sampler))
    above = {span.parent.span_id for span in seen.named("sample") if span.parent is not None}
    assert above == {context_of(seen.one(name)).span_id for name in names}
    assert len(seen.named("sample")) == len(names)


def test_what_was_asked_before_a_crash_of_its_actor_is_still_below_the_caller(
    server: Server, seen: Seen, tracer: trace.Tracer
) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS, otel_propagate=True) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        path = "service/session/training/training:1"
        (hanging,) = server.control.arm({"effect": "hang", "operation": "forward_backward"})
        with tracer.start_as_current_span("caller"):
            forward = training.forward_backward(BATCHES[0], "cross_entropy")
        while not server.control.fired(hanging):
            pass
        with expect(service._runtime.tree, ChildStarted, path=path, timeout_s=WAIT_S):
            crash(service.address(path))
        forward.result(WAIT_S)
    span = seen.one("forward_backward")
    assert span.parent == seen.one("caller").context
    sent = [one for one in seen.below(span) if one.name == "POST forward_backward"]
    assert len(sent) == 2
    assert {attributes(one).get("error.type") for one in sent} == {"CancelledError", None}
    restart = attributes(seen.one("actor.restart"))
    assert (restart["tinker_actors.path"], restart["tinker_actors.reason"]) == (path, "Error")
    recovery = seen.one("recovery")
    assert recovery.parent is None
    assert [link.context for link in recovery.links] == [span.context]
    assert [one.name for one in seen.below(recovery)] == ["POST get_info"]
    assert attributes(recovery)["tinker_actors.rung"] == "re-attach"


def test_what_was_under_way_at_a_crash_of_the_network_is_sent_again_below_the_caller(
    server: Server, seen: Seen, tracer: trace.Tracer
) -> None:
    with client(server, None, otel_propagate=True) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        (hanging,) = server.control.arm({"effect": "hang", "operation": "asample"})
        with tracer.start_as_current_span("caller"):
            future = sampler.sample(PROMPT, 1, DRAW)
        while not server.control.fired(hanging):
            pass
        crash(service.address("service/transport"))
        future.result(WAIT_S)
    span = seen.one("sample")
    assert span.parent == seen.one("caller").context
    sent = [one for one in seen.below(span) if one.name == "POST asample"]
    assert [attributes(one).get("error.type") for one in sent] == ["CancelledError", None]
    assert attributes(seen.one("actor.restart"))["tinker_actors.path"] == "service/transport"


def test_a_lost_model_is_a_span_of_recovery_with_its_replay(
    server: Server, run_dir: Path, seen: Seen
) -> None:
    with client(server, run_dir, recovery=NO_CHECKPOINTS, otel_propagate=True) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        step(training, 0)
        training.save_state("one").result(WAIT_S)
        step(training, 1)
        server.unload(training.model_id)
        step(training, 2)
    recovery, replay = seen.one("recovery"), seen.one("replay")
    found = attributes(recovery)
    assert found["tinker_actors.rung"] == "restore"
    assert found["tinker_actors.checkpoint"].endswith("/one")
    assert "there is no model" in found["tinker_actors.reason"]
    assert replay.parent == recovery.context
    assert attributes(replay)["tinker_actors.replayed"] == 2
    repeated = [one.name for one in seen.below(replay) if "retrieve_future" not in one.name]
    assert repeated == ["POST forward_backward", "POST optim_step"]
    assert "POST load_weights" in {one.name for one in seen.below(recovery)}
    assert recovery.status.status_code == replay.status.status_code == StatusCode.UNSET


def test_the_question_whether_a_model_is_there_belongs_to_what_has_no_result(
    server: Server, seen: Seen
) -> None:
    with client(server, None, recovery=NO_CHECKPOINTS, otel_propagate=True) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        server.control.arm({"effect": "expire_result", "operation": "retrieve_future", "of": "optim_step"})
        training.forward_backward(BATCHES[0], "cross_entropy")
        with pytest.raises(ta.ResultExpiredError):
            training.optim_step(ADAM).result(WAIT_S)
    span = seen.one("optim_step")
    assert "POST get_info" in [one.name for one in seen.below(span)]
    assert attributes(span)["error.type"] == "ResultExpiredError"


def test_a_run_that_halts_ends_its_recovery_with_the_error(server: Server, seen: Seen) -> None:
    nowhere = "tinker://other/weights/none"
    policy = ta.RecoveryPolicy(checkpoint_every_steps=0, checkpoint_strategy=nowhere)
    with client(server, None, recovery=policy, otel_propagate=True) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        server.unload(training.model_id)
        with pytest.raises(ta.RunHaltedError):
            training.forward_backward(BATCHES[0], "cross_entropy").result(WAIT_S)
    assert attributes(seen.one("recovery"))["error.type"] == "RunHaltedError"
    assert attributes(seen.one("forward_backward"))["error.type"] == "RunHaltedError"


def test_a_sample_that_is_given_up_ends_its_span(server: Server, seen: Seen) -> None:
    with client(server, None, otel_propagate=True) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        (hanging,) = server.control.arm({"effect": "hang", "operation": "asample"})
        future = sampler.sample(PROMPT, 1, DRAW)
        while not server.control.fired(hanging):
            pass
        assert future.cancel()
    assert attributes(seen.one("sample"))["error.type"] == "CancelledError"


# Headers ---------------------------------------------------------------------------------------------


def headers_of(bench: Callable[..., Bench], **kept: str) -> dict[str, str]:
    """What goes out with one request, asked for inside of a span and with baggage."""
    sent: list[dict[str, str]] = []

    def script(call: Call[Any], _base_url: str) -> Answer:
        sent.append(dict(call.headers))
        return Answer(200, {}, b'{"request_id": "7"}')

    tracing = OpenTelemetry(kept=kept)
    made = bench(script, tracing=tracing)
    made.address.call(Fetch(CALL, tracing.begin("asked", {})), timeout_s=WAIT_S)
    return sent[0]


def test_trace_context_and_baggage_go_out_with_every_request(
    bench: Callable[..., Bench], seen: Seen, tracer: trace.Tracer
) -> None:
    token = otel_context.attach(baggage.set_baggage("team", "reward"))
    with tracer.start_as_current_span("caller"):
        headers = headers_of(bench)
    otel_context.detach(token)
    request = context_of(seen.one("POST save_weights"))
    assert headers["traceparent"].startswith(f"00-{request.trace_id:032x}-{request.span_id:016x}-")
    assert headers["baggage"] == "team=reward"
    came = trace.get_current_span(extract_context(headers)).get_span_context()
    assert (came.trace_id, came.span_id, came.is_remote) == (request.trace_id, request.span_id, True)


def test_headers_of_the_programs_own_stay(bench: Callable[..., Bench], seen: Seen) -> None:
    token = otel_context.attach(baggage.set_baggage("team", "reward"))
    headers = headers_of(bench, traceparent="its own")
    otel_context.detach(token)
    assert not headers.keys() & {"traceparent", "tracestate"}
    assert headers["baggage"] == "team=reward"
    assert seen.one("POST save_weights") is not None


@pytest.mark.usefixtures("seen")
def test_headers_can_be_injected_and_extracted_by_hand(tracer: trace.Tracer) -> None:
    with tracer.start_as_current_span("caller") as span:
        headers = inject_headers({"X": "1"})
        kept = inject_headers({"Traceparent": "mine"})
    assert (headers["X"], set(headers)) == ("1", {"X", "traceparent"})
    assert kept == {"Traceparent": "mine"}
    came = trace.get_current_span(extract_context({"TraceParent": headers["traceparent"]}))
    assert came.get_span_context().span_id == span.get_span_context().span_id
    assert extract_context({}) == {}


# What is in no span ----------------------------------------------------------------------------------


def test_no_secret_and_no_content_is_in_a_span(server: Server, run_dir: Path, seen: Seen) -> None:
    secret = {"x-secret": "hidden-header"}
    with client(
        server, run_dir, otel_propagate=True, default_headers=secret, default_query={"q": "hidden-query"}
    ) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        step(training, 0)
        sampler = training.save_weights_and_get_sampling_client("s").result(WAIT_S)
        sampler.sample(PROMPT, 1, DRAW).result(WAIT_S)
        server.unload(training.model_id)
        step(training, 1)
    told = "".join(span.to_json() for span in seen.all())
    assert len(seen.all()) > 20
    for hidden in (KEY, "hidden-header", "hidden-query", "secret stop"):
        assert hidden not in told


# Off, or not to be had -------------------------------------------------------------------------------


def test_nothing_of_it_is_loaded_or_asked_while_it_is_off(server: Server) -> None:
    program = """
import sys
import tinker_actors as ta

with ta.ServiceClient(base_url=sys.argv[1], api_key="tml-test", transport="httpx") as service:
    service.create_sampling_client(base_model="local/tiny").result(60)
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, server.url], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_without_a_tracer_a_request_runs_in_the_context_of_the_loop(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinker_actors.actors import transport

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("there is no tracer to do this for")

    monkeypatch.setattr(transport, "below", forbidden)
    monkeypatch.setattr(transport, "traced", forbidden)
    made = bench(answers(Answer(200, {}, b'{"request_id": "7"}')))
    made.address.call(Fetch(CALL), timeout_s=WAIT_S)


@pytest.mark.parametrize("argument", [True, None])
def test_switched_on_without_the_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, argument: bool | None
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    variables = {} if argument else {"TINKER_ACTORS_OTEL_PROPAGATE": "1"}
    with pytest.raises(MissingExtraError, match=r"tinker-actors\[otel\]"):
        Settings.resolve(base_url="local", otel_propagate=argument, environment=variables)


@pytest.mark.parametrize(
    ("argument", "variable", "is_on"),
    [
        (None, "", False),
        (None, "Yes", True),
        (None, "0", False),
        (True, "0", True),
        (False, "on", False),
    ],
)
def test_the_argument_goes_before_the_variable(argument: bool | None, variable: str, is_on: bool) -> None:
    variables = {"TINKER_ACTORS_OTEL_PROPAGATE": variable}
    settings = Settings.resolve(base_url="local", otel_propagate=argument, environment=variables)
    assert settings.otel_propagate is is_on


@pytest.mark.parametrize(
    ("argument", "variable", "words"),
    [("yes", "", "otel_propagate must be True or False, got str"), (None, "maybe", "got 'maybe'")],
)
def test_what_is_neither_on_nor_off_is_refused(argument: Any, variable: str, words: str) -> None:
    variables = {"TINKER_ACTORS_OTEL_PROPAGATE": variable}
    with pytest.raises(ConfigError, match=words):
        Settings.resolve(base_url="local", otel_propagate=argument, environment=variables)


class Broken(SpanProcessor):
    """Of a program whose tracing fails."""

    def __init__(self, when: str) -> None:
        self._when = when

    def on_start(self, span: Span, parent_context: Any = None) -> None:  # noqa: ARG002 - the SDK's
        if self._when == "start":
            raise ValueError("broken")

    def on_end(self, span: ReadableSpan) -> None:  # noqa: ARG002 - the SDK's
        if self._when == "end":
            raise ValueError("broken")


@pytest.mark.parametrize("when", ["start", "end"])
def test_a_tracer_that_fails_takes_no_request_with_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken(when))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    with client(server, None, recovery=NO_CHECKPOINTS, otel_propagate=True) as service:
        step(service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S), 0)
    assert "otel.tracing_failed" in caplog.text
