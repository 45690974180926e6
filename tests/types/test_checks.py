"""What messages show of values."""

from typing import Any

import pytest

from tinker_actors.errors import ValidationError
from tinker_actors.types.checks import flag, one_of, secret, shown, text, whole


class Unrepresentable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    "value", ["x" * 10**6, list(range(10**5)), {"a": "b" * 10**5}, 10**500, b"x" * 10**5]
)
def test_a_message_is_short_whatever_came(value: Any) -> None:
    assert len(shown(value)) < 500


def test_a_value_without_a_form_to_show_is_still_refused_in_words() -> None:
    with pytest.raises(ValidationError, match="must be a whole number"):
        whole("rank", Unrepresentable(), least=1)


def test_short_values_are_shown_as_they_are() -> None:
    assert [shown(value) for value in ("local/tiny", 7, None, [1, 2], "\ud800")] == [
        "'local/tiny'",
        "7",
        "None",
        "[1, 2]",
        "'\\ud800'",
    ]


@pytest.mark.parametrize("value", ["\u00e9t\u00e9-token", b"token", ["token"], "", None])
def test_a_secret_that_cannot_be_sent_is_refused_unseen(value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        secret("weights_access_token", value)
    assert "token" not in str(caught.value).replace("weights_access_token", "")


def test_text_that_no_bytes_can_hold_is_refused() -> None:
    with pytest.raises(ValidationError, match="UTF-8"):
        text("loss_fn", "\ud800")


def test_a_choice_names_what_there_is_to_choose() -> None:
    with pytest.raises(ValidationError, match='kind must be "snapshot" or "inflight", got 5'):
        one_of("kind", 5, "snapshot", "inflight")


@pytest.mark.parametrize(("value", "expected"), [(True, True), (0, False), (1, True)])
def test_flags_may_be_numbers(value: Any, expected: bool) -> None:
    assert flag("overwrite", value) is expected
