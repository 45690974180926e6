"""What a user sees of the package before it does anything."""

import pickle
import subprocess
import sys
import warnings

import pytest

import tinker_actors as ta
from tinker_actors import errors, types
from tinker_actors.errors import APIStatusError, TinkerActorsError


def test_every_public_name_is_there() -> None:
    assert [name for name in ta.__all__ if getattr(ta, name, None) is None] == []
    assert ta.__all__ == sorted({*ta._HOME, *errors.__all__, "types"})


def test_every_type_is_reached_through_the_package() -> None:
    program = "import tinker_actors as ta; print(ta.types.Datum is ta.Datum)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True"


def test_what_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = ta.Nothing


def test_every_error_is_public_and_in_the_drawing() -> None:
    for name in errors.__all__:
        assert name in ta.__all__
        assert name in (errors.__doc__ or "")


def test_every_type_is_listed() -> None:
    assert types.__all__ == sorted(types.__all__)


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = [
        "numpy",
        "httpcore",
        "httpx",
        "structlog",
        "tokenizers",
        "google.protobuf",
        "click",
        "pykka",
        "msgspec",
        "torch",
        "opentelemetry",
        "prometheus_client",
    ]
    program = f"import sys, tinker_actors; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_client_that_only_waits_loads_no_arrays_and_no_second_transport() -> None:
    program = """
import sys, tinker_actors as ta
with ta.ServiceClient(base_url="http://127.0.0.1:9", api_key="tml-key"):
    print([name for name in ("numpy", "httpcore", "structlog", "tokenizers", "google.protobuf") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def example_of(kind: type[TinkerActorsError]) -> TinkerActorsError:
    """An error with a fact for each argument that its class takes."""
    facts = {
        "status": 429,
        "body": {"detail": "slow down"},
        "retry_after_s": 2.0,
        "should_retry": False,
        "category": "user",
        "request_id": "7",
        "run": "1",
        "resume": "again",
        "attempts": 3,
        "step": 7,
        "executed": True,
        "tokens": 5,
        "extra": "chat",
        "answer": "not_found",
        "first_cause": ValueError("it began here"),
    }
    code = getattr(kind.__init__, "__code__", None)
    names = () if code is None else code.co_varnames
    return kind("no", **{name: value for name, value in facts.items() if name in names})


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_survive_pickle_with_all_their_facts(name: str) -> None:
    error = example_of(getattr(errors, name))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(copy), copy.args, str(copy)) == (type(error), error.args, str(error))
    assert {key: repr(fact) for key, fact in vars(copy).items()} == {
        key: repr(fact) for key, fact in vars(error).items()
    }


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (402, "BillingError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (409, "ConflictError"),
        (410, "FutureExpiredError"),
        (422, "UnprocessableEntityError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
        (599, "InternalServerError"),
        (418, "APIStatusError"),
    ],
)
def test_each_status_has_the_class_of_the_official_sdk(status: int, name: str) -> None:
    assert type(APIStatusError.of(status, None)).__name__ == name


@pytest.mark.parametrize(
    ("status", "body", "category"),
    [
        (400, None, "user"),
        (404, {"category": "odd"}, "user"),
        (400, {"category": "SERVER"}, "server"),
        (408, None, "server"),
        (410, None, "server"),
        (429, None, "server"),
        (503, {"category": "user"}, "user"),
        (503, None, "server"),
        (301, None, "unknown"),
    ],
)
def test_a_refusal_says_who_must_act(status: int, body: object, category: str) -> None:
    assert APIStatusError.of(status, body).category == category


def test_errors_have_the_bases_and_attributes_of_the_official_sdk() -> None:
    error = APIStatusError.of(404, {"detail": "gone"})
    assert (error.status_code, error.message) == (404, "the service answered 404: gone")
    for kind in (ta.APIConnectionError, ta.APITimeoutError, APIStatusError, ta.APIResponseValidationError):
        assert issubclass(kind, ta.APIError)
    assert not issubclass(ta.RequestFailedError, ta.APIError)
    assert ta.TinkerError is TinkerActorsError


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"detail": "gone"}, "gone"),
        ({"message": "gone"}, "gone"),
        ({"error": "gone"}, "gone"),
        ("gone", "gone"),
        (
            {"detail": [{"loc": ["body", "seq_id"], "msg": "no integer", "input": {"tokens": [4711]}}]},
            "body.seq_id: no integer",
        ),
        ({"detail": [{"loc": 7, "msg": "no"}, {"msg": None}]}, "no; None"),
        ({"detail": []}, ""),
        ("<!DOCTYPE html><html>", "a page for browsers"),
        ("x" * 501, "x" * 500 + "..."),
    ],
)
def test_a_refusal_has_the_services_words_and_nothing_that_was_sent(body: object, words: str) -> None:
    assert str(APIStatusError.of(422, body)) == f"the service answered 422: {words}"


def test_unknown_arguments_are_warned_of_not_refused() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        ta.ServiceClient(base_url="http://127.0.0.1:9", api_key="tml-x", new_option=1).close().result()
    assert "new_option" in str(seen[0].message)
