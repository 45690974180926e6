"""What a server says about itself."""

from typing import Any

import msgspec
import pytest

from tinker_actors.api.setup import NO_FLAGS, ClientConfig, DynamicConfig, client_config, has_no_flags
from tinker_actors.errors import APIStatusError
from tinker_actors.wire.calls import Answer

JSON = {"content-type": "application/json"}


def test_flags_that_are_not_given_have_the_values_of_the_official_sdk() -> None:
    assert msgspec.structs.asdict(client_config().read(Answer(200, JSON, b"{}"))) == {
        "pjwt_auth_enabled": False,
        "credential_default_source": "api_key",
        "proto_compress_fwdbwd": False,
        "parallel_fwdbwd_chunks": True,
        "fwdbwd_max_chunk_len": 1024,
        "fwdbwd_max_chunk_bytes_count": 5_000_000,
        "fwdbwd_dispatch_bytes_semaphore_size": 50_000_000,
        "sample_max_concurrent_requests": 2000,
        "sample_dispatch_bytes_semaphore_size": 10 * 1024 * 1024,
        "inflight_response_bytes_semaphore_size": 50 * 1024 * 1024,
        "billing_exception_max_pause_duration_sec": 3600.0,
    }
    dynamic = {
        "refresh_interval_sec": 300.0,
        "sample_cancel_enabled": False,
        "sample_cancel_max_batch_size": 64,
    }
    assert msgspec.structs.asdict(DynamicConfig()) == dynamic


def test_flags_that_nobody_here_knows_are_passed_over() -> None:
    body = b'{"use_pyqwest_transport": false, "fwdbwd_max_chunk_len": 7, "of_next_year": [1]}'
    assert client_config().read(Answer(200, JSON, body)) == ClientConfig(fwdbwd_max_chunk_len=7)


@pytest.mark.parametrize(("status", "is_so"), [(404, True), (405, True), (401, False), (500, False)])
def test_a_server_without_the_endpoint_has_no_flags(status: int, is_so: bool) -> None:
    error: Any = APIStatusError.of(status, None)
    assert has_no_flags(error) is is_so
    assert ClientConfig() == NO_FLAGS
