"""Our requests and the official SDK's are equal, field by field, but for differences that are listed with reasons.

The SDK runs in an environment of its own, whose Python `TINKER_SDK_PYTHON` names.
"""

import itertools
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import Server
from recorder import Profile, Recorded, Recorder

FLOW = Path(__file__).parent / "flow.py"
SDK_PYTHON = os.environ.get("TINKER_SDK_PYTHON", "")
FLOW_WAIT_S = 240.0
BACKGROUND = ("session_heartbeat", "telemetry")
"""Requests that belong to no step."""
FLAGS = {
    "pjwt_auth_enabled": True,
    "proto_compress_fwdbwd": True,
    "parallel_fwdbwd_chunks": False,
    "fwdbwd_max_chunk_len": 2,
}
SETTINGS = {
    "CLOUDFLARE_ACCESS_CLIENT_ID": "access-id",
    "CLOUDFLARE_ACCESS_CLIENT_SECRET": "access-secret",
    "TINKER_PROJECT_ID": "project-1",
    "TINKER_TAGS": "nightly",
}

pytestmark = [
    pytest.mark.sdk,
    pytest.mark.skipif(
        not SDK_PYTHON, reason="TINKER_SDK_PYTHON names no Python with the official SDK (extra `sdk`)"
    ),
]

# What may differ, "step: request part field: how", `*` for anything, and why. An entry that matches nothing fails.

ALLOWED = {
    "*: * header user-agent: *": "names the client",
    "*: * header x-stainless-*: only official *": "names the client, and tells what its HTTP layer does",
    "*: * header x-sdk-*: only official *": "names the client's method",
    "*: client/* header connection: only official *": "HTTP/1.1 keeps connections anyway",
    "*: * header content-length: *": "follows from the body",
    "*: * header host: *": "each flow has a server of its own",
    "*: * header x-idempotency-key: only official *": "random for each attempt; what repeats a request is its seq_id",
    "copy weights: copy_weights header x-idempotency-key: ours *, official *": "random for each copy",
    "*: retrieve_future(*) header accept: ours 'application/x-protobuf, application/json', official 'application/x-protobuf'": "JSON results of older servers are read, too",
    "*: retrieve_future(*) header x-tinker-create-promise-roundtrip-time: ours *, official *": "a measurement",
    "*: forward_backward body data[].loss_fn_inputs.*.shape: only ours *": "the shape of a vector may be told",
    "create model: get_server_capabilities: only ours": "a base model that is not on offer is refused by name",
    "train with another optimizer: get_server_capabilities: only ours": "as above",
    "background: telemetry: only official": "ours tells the service of the program where that is switched on",
    "open rest client: client/*: only official": "ours asks for flags when the first request needs them",
    "list what is kept: client/*: only ours": "as above",
}

SERVER_LACKS = {
    "train on an image: BadRequestError: *only encoded text*": "local/tiny sees no images",
    "sample after images: BadRequestError: *only encoded text*": "as above",
    "ask for exported files: NotFoundError: *": "nothing was exported",
}
"""Steps of the flow that the official SDK cannot take on the embedded server, and why."""


@dataclass(frozen=True)
class Run:
    """One library through one flow."""

    requests: list[Recorded]
    failures: dict[str, str]
    """By step."""


def environment(home: Path, settings: dict[str, str]) -> dict[str, str]:
    """Ours without what could change the flow."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("TINKER", "CLOUDFLARE"))
    }
    return {**kept, **settings, "HOME": str(home)}


def start(python: str, *arguments: str, env: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [Path(python).absolute(), FLOW, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=env["HOME"],
    )


def failures(process: "subprocess.Popen[str]") -> dict[str, str]:
    """By step, once the flow is through."""
    with process:
        try:
            out, complaints = process.communicate(timeout=FLOW_WAIT_S)
        finally:
            process.kill()
    steps = [json.loads(line) for line in out.splitlines() if line.startswith('{"step"')]
    assert steps, complaints
    assert steps[-1]["step"] == "close", complaints
    return {step["step"]: step["failure"] for step in steps if step["failure"] is not None}


def run_both(flow: str, profile: Profile, env: dict[str, str]) -> tuple[Run, Run]:
    """Ours and the official one, side by side, each against a recorder of its own."""
    with Recorder(profile) as ours, Recorder(profile) as official:
        pairs = [(sys.executable, "tinker_actors", ours), (SDK_PYTHON, "tinker", official)]
        processes = [
            start(python, module, recorder.url, f"--flow={flow}", f"--steps={recorder.url}/step", env=env)
            for python, module, recorder in pairs
        ]
        failed = [failures(process) for process in processes]
        return Run(ours.requests, failed[0]), Run(official.requests, failed[1])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Run, Run]]:
    home = tmp_path_factory.mktemp("home")
    return [
        run_both("whole", Profile(), environment(home, {})),
        run_both("flagged", Profile(flags=FLAGS, announces_sizes=True), environment(home, SETTINGS)),
        run_both("hosted", Profile(), environment(home, {})),
    ]


@pytest.fixture(scope="module")
def differences(runs: list[tuple[Run, Run]]) -> list[str]:
    return sorted({difference for ours, official in runs for difference in compare(ours, official)})


# Comparing ---------------------------------------------------------------------------------------------


def compare(ours: Run, official: Run) -> Iterator[str]:
    """Every difference, in words; steps that ours cannot do are one difference each."""
    our_steps, their_steps = by_step(ours.requests), by_step(official.requests)
    for step, failure in ours.failures.items():
        yield f"{step}: ours fails: {failure}"
    for step in sorted({*our_steps, *their_steps} - {*ours.failures}):
        mine, theirs = our_steps[step], their_steps[step]
        if step != "":
            arrivals = order(mine), order(theirs)
            if sorted(arrivals[0]) == sorted(arrivals[1]) and arrivals[0] != arrivals[1]:
                yield f"{step}: order of arrival: ours {arrivals[0]}, official {arrivals[1]}"
        named, known = by_name(mine), by_name(theirs)
        for name in sorted({*named, *known}):
            yield from compare_requests(f"{step or 'background'}: {name[0]}", named[name], known[name])


def compare_requests(where: str, ours: list[Recorded], official: list[Recorded]) -> Iterator[str]:
    if len(ours) != len(official):
        counts = (f"{len(ours)} of ours, {len(official)} official") if ours and official else ""
        yield f"{where}: {counts or ('only ours' if ours else 'only official')}"
    for mine, theirs in zip(ours, official, strict=False):
        for part in ("method", "query"):
            yield from differ(f"{where} {part} ", getattr(mine, part), getattr(theirs, part))
        yield from differ(f"{where} header ", mine.headers, theirs.headers)
        yield from differ(f"{where} body ", mine.document, theirs.document)


def differ(where: str, ours: Any, official: Any) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(official, dict):
        for name in sorted({*ours, *official}):
            inner = f"{where}.{name}" if where[-1] != " " else f"{where}{name}"
            if name not in official:
                yield f"{inner}: only ours {ours[name]!r}"
            elif name not in ours:
                yield f"{inner}: only official {official[name]!r}"
            else:
                yield from differ(inner, ours[name], official[name])
    elif isinstance(ours, list) and isinstance(official, list) and len(ours) == len(official):
        for mine, theirs in zip(ours, official, strict=True):
            yield from differ(f"{where}[]", mine, theirs)
    elif type(ours) is not type(official) or ours != official:
        yield f"{where}: ours {ours!r}, official {official!r}"


def by_step(requests: list[Recorded]) -> dict[str, list[Recorded]]:
    """In the order of arrival; of what comes in the background, the first of its kind, under ""."""
    steps: dict[str, list[Recorded]] = defaultdict(list)
    for request in requests:
        if request.path not in BACKGROUND:
            steps[request.step].append(request)
        elif request.path not in {known.path for known in steps[""]}:
            steps[""].append(request)
    return steps


def by_name(requests: list[Recorded]) -> dict[tuple[str, str], list[Recorded]]:
    """By endpoint and what tells requests to it apart, for chunks and polls arrive in any order."""
    named: dict[tuple[str, str], list[Recorded]] = defaultdict(list)
    for request in requests:
        document = request.document if isinstance(request.document, dict) else {}
        kind = request.headers.get("x-tinker-request-type", "")
        endpoint = f"{request.path}({kind})" if kind else request.path
        named[endpoint, str(document.get("seq_id", document.get("request_id", "")))].append(request)
    return named


def order(requests: list[Recorded]) -> list[str]:
    """What arrived after what, in which chunks that go out together are in the order of their ids.

    Polls go on beside, so they are left out.
    """
    arrived = [request for request in requests if request.path != "retrieve_future"]
    told: list[str] = []
    for path, group in itertools.groupby(arrived, key=lambda request: request.path):
        ids = [(request.document or {}).get("seq_id", "") for request in group]
        if path == "forward_backward":
            ids = [*sorted(ids[:-1]), ids[-1]]
        told.extend(f"{path} {seq_id}".strip() for seq_id in ids)
    return told


def matches(entry: str, difference: str) -> bool:
    return (
        re.fullmatch(".*".join(re.escape(part) for part in entry.split("*")), difference, re.DOTALL)
        is not None
    )


def unlisted(told: list[str], entries: dict[str, str]) -> list[str]:
    return [one for one in told if not any(matches(entry, one) for entry in entries)]


def unused(entries: dict[str, str], told: list[str]) -> list[str]:
    return [entry for entry in entries if not any(matches(entry, one) for one in told)]


# The tests ---------------------------------------------------------------------------------------------


def test_the_recorder_satisfies_the_official_sdk_in_every_step(runs: list[tuple[Run, Run]]) -> None:
    assert [official.failures for _, official in runs] == [{}, {}, {}]


def test_every_difference_to_the_official_sdk_is_listed_with_its_reason(differences: list[str]) -> None:
    new = unlisted(differences, ALLOWED)
    assert new == [], "\n".join(new)


def test_every_listed_difference_still_occurs(differences: list[str]) -> None:
    assert unused(ALLOWED, differences) == []


def test_the_official_sdk_takes_every_step_on_the_embedded_server_but_those_listed(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        failed = failures(start(SDK_PYTHON, "tinker", server.url, env=environment(tmp_path, {})))
    told = [f"{step}: {failure}" for step, failure in failed.items()]
    new = unlisted(told, SERVER_LACKS)
    assert new == [], "\n".join(new)
    old = unused(SERVER_LACKS, told)
    assert old == [], "\n".join(old)
