"""`supervision.md` draws the tree as it is built."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import WAIT_S

import tinker_actors as ta
from tinker_actors.actors import liveness
from tinker_actors.actors.session import AGAIN_S
from tinker_actors.actors.tree import service_spec
from tinker_actors.api.sessions import HEARTBEAT_TIMEOUT_S
from tinker_actors.api.setup import ClientConfig
from tinker_actors.supervision import (
    BreakerSettings,
    ChildInfo,
    ChildSpec,
    Kind,
    Supervisor,
    TreeNode,
    WhichChildren,
)
from tinker_actors.wire.calls import Pool
from tinker_actors.wire.http import MAX_IN_FLIGHT

PAGE = Path(__file__).parent.parent / "supervision.md"


class Line(NamedTuple):
    """One actor in the drawing."""

    depth: int
    name: str
    note: str


def drawn() -> list[Line]:
    drawing = PAGE.read_text().split("```text\n")[1].split("```")[0]
    lines = [re.fullmatch(r"([ │├└─]*)(\S+) {2,}(.*)", line) for line in drawing.splitlines()]
    return [Line(len(match[1]) // 4, match[2], match[3]) for match in lines if match is not None]


def built(node: TreeNode, depth: int = 0) -> Iterator[tuple[int, str]]:
    yield depth, node.id
    # Each operation that was called has a breaker; one of them stands for all.
    for child in node.children[:1] if node.id == "breakers" else node.children:
        yield from built(child, depth + 1)


@pytest.fixture(scope="module")
def service() -> Iterator[ta.ServiceClient]:
    with ta.ServiceClient(base_url="local") as service:
        service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        yield service
        del sampler  # one that nobody holds has no actor


def nodes(node: TreeNode) -> Iterator[TreeNode]:
    yield node
    for child in node.children:
        yield from nodes(child)


def children(service: ta.ServiceClient, node: TreeNode) -> Iterator[ChildInfo]:
    if node.kind is Kind.SUPERVISOR:
        yield from service.address(node.path).call(WhichChildren())
        for child in node.children:
            yield from children(service, child)


def test_the_drawing_has_the_actors_that_there_are_in_their_order(service: ta.ServiceClient) -> None:
    assert [(line.depth, line.name) for line in drawn()] == list(built(service.tree()))


def test_the_drawing_says_how_workers_are_restarted(service: ta.ServiceClient) -> None:
    found = list(children(service, service.tree()))
    notes = {line.name: line.note for line in drawn()}
    # By now it has all those that were found: none ever leaves.
    breakers = service.tree().find("service/breakers")
    assert breakers is not None
    notes |= {child.id: notes[breakers.children[0].id] for child in breakers.children}
    for child in found:
        if child.kind is Kind.WORKER:
            assert notes[child.id].startswith(f"{child.restart};")


def supervisors(spec: ChildSpec) -> Iterator[tuple[str, Supervisor]]:
    """Those of the tree that is built, never started."""
    actor = spec.start()
    if isinstance(actor, Supervisor):
        yield spec.id, actor
        for child in actor.specs:
            if child.kind is Kind.SUPERVISOR:
                yield from supervisors(child)


def test_the_drawing_says_how_supervisors_restart(service: ta.ServiceClient) -> None:
    notes = {line.name: line.note for line in drawn()}
    found = dict(supervisors(service_spec(service._runtime.published)))
    assert set(found) == {node.id for node in nodes(service.tree()) if node.kind is Kind.SUPERVISOR}
    for name, actor in found.items():
        flags = actor.flags
        kind = "dynamic" if flags.is_dynamic else flags.strategy
        assert notes[name] == f"{kind}, {flags.max_restarts} restarts in {flags.within_s:g} s"


def defaults(section: str) -> list[str]:
    """The second column of the table of defaults in a section."""
    text = PAGE.read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    rows = text.split("| setting | default |\n|---|---|\n")[1].split("\n\n")[0].splitlines()
    return [row.strip("|").split("|")[1].strip() for row in rows]


def test_the_page_has_the_defaults_of_the_breakers() -> None:
    fields = dataclasses.fields(BreakerSettings)
    assert defaults("Circuit breakers") == [str(field.default) for field in fields]


def test_the_page_has_the_defaults_of_the_limits() -> None:
    limits = ta.SamplingLimits()
    assert defaults("Limits") == [str(getattr(limits, name)) for name in limits.__struct_fields__]
    rows = PAGE.read_text().split("## Limits\n")[1].split("|---|---|\n")[1].split("\n\n")[0].splitlines()
    assert [row.split("`")[1] for row in rows] == list(limits.__struct_fields__)
    assert f"carry {MAX_IN_FLIGHT[Pool.SAMPLE]} of them" in rows[1]


def test_the_page_has_what_the_service_says_of_limits_where_it_says_nothing() -> None:
    flags = ClientConfig()
    assert flags.sample_dispatch_bytes_semaphore_size == 10 * 2**20
    assert flags.fwdbwd_dispatch_bytes_semaphore_size == 50 * 10**6
    assert flags.inflight_response_bytes_semaphore_size == 50 * 2**20
    assert flags.sample_max_concurrent_requests == 2_000


def test_the_page_has_the_defaults_of_the_session() -> None:
    limits = [
        liveness.BEAT_S,
        HEARTBEAT_TIMEOUT_S,
        AGAIN_S,
        liveness.LATE_S,
        liveness.AT_RISK_S,
        liveness.LOST_S,
    ]
    assert [row.split(",")[0] for row in defaults("The session and its beats")] == [
        f"{limit:g} s" for limit in limits
    ]


def test_the_page_has_the_defaults_of_the_recovery_policy() -> None:
    names = (
        "checkpoint_every_steps",
        "checkpoint_every_s",
        "max_journal_bytes",
        "keep_checkpoints",
        "max_attempts",
        "backoff_s",
        "max_backoff_s",
        "poll_interval_s",
        "divergence_nats",
        "max_skipped",
    )
    policy = ta.RecoveryPolicy()
    units = {"max_journal_bytes": (2**20, " MiB")}
    wanted = []
    for name in names:
        size, unit = units.get(name, (1, " s" if name.endswith("_s") else ""))
        wanted.append(f"{getattr(policy, name) / size:g}{unit}")
    assert defaults("Checkpoints of the runtime's own") == wanted


def test_the_example_prints_what_the_page_says() -> None:
    section = PAGE.read_text().partition("\n## Supervise an actor of your own\n")[2]
    example = section.split("```python\n")[1]
    program, rest = example.split("```", 1)
    output = rest.split("```text\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (output, "")
