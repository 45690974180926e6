"""Requests and answers as data."""

from typing import Any

import pytest

from tinker_actors.errors import APIStatusError
from tinker_actors.wire.calls import Answer, Call, json_body

SECRET = "top-secret"  # noqa: S105 - nobody's
CALL: Call[Any] = Call(
    operation="load_weights",
    path="load_weights",
    body=json_body({"weights_access_token": SECRET, "tokens": [4711]}),
    headers={"x-api-key": SECRET},
    read=lambda answer: answer,
)


@pytest.mark.parametrize("shown", [CALL, Answer(200, {"x": SECRET}, b'{"jwt": "top-secret"}')])
def test_neither_a_body_nor_a_header_shows_in_a_representation(shown: object) -> None:
    assert SECRET not in repr(shown)
    assert "4711" not in str(shown)


@pytest.mark.parametrize(
    ("status", "message"),
    [(404, "the service answered 404: no; look"), (422, "the service answered 422: no")],
)
def test_a_hint_is_for_endpoints_that_are_not_there(status: int, message: str) -> None:
    with pytest.raises(APIStatusError) as caught:
        Answer(status, {}, b'{"detail": "no"}').success("look")
    assert str(caught.value) == message


def test_a_redirect_says_where_the_service_is_and_no_more() -> None:
    answer = Answer(308, {"location": "https://host.example/api?signature=top-secret"}, b"")
    with pytest.raises(APIStatusError, match=r"https://host\.example; set base_url") as caught:
        answer.success()
    assert SECRET not in str(caught.value)
