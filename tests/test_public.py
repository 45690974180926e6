"""What a user sees of the package before it does anything."""

import subprocess
import sys
import warnings

import pytest

import tinker_actors as ta
from tinker_actors import errors, types
from tinker_actors.errors import APIStatusError, RequestFailedError, RunHaltedError, TinkerActorsError


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
        "httpx",
        "structlog",
        "tokenizers",
        "google.protobuf",
        "click",
        "pykka",
        "msgspec",
        "torch",
    ]
    program = f"import sys, tinker_actors; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "error",
    [
        APIStatusError.of(429, {"detail": "slow down"}, retry_after_s=2.0),
        RequestFailedError("no", category="user", request_id="7"),
        RunHaltedError("stuck", run="1", resume="again"),
    ],
)
def test_errors_survive_pickle(error: TinkerActorsError) -> None:
    import pickle

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(copy), copy.args, vars(copy)) == (type(error), error.args, vars(error))


def test_unknown_arguments_are_warned_of_not_refused() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        ta.ServiceClient(base_url="http://127.0.0.1:9", api_key="tml-x", new_option=1).close().result()
    assert "new_option" in str(seen[0].message)
