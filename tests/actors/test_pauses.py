"""One pause for all who have a server and a key in common."""

import gc
import os
import weakref

import pytest

from tinker_actors.actors import pauses
from tinker_actors.actors.pauses import SharedPause, shared_pause
from tinker_actors.config import Settings
from tinker_actors.supervision.clock import MonotonicClock
from tinker_actors.supervision.testing import VirtualClock

URL, KEY = "https://host/tinker", "tml-secret-of-mine"


def pause(url: str = URL, key: str = KEY) -> SharedPause:
    return shared_pause(Settings.resolve(base_url=url, api_key=key, environment={}), MonotonicClock())


def test_pause_is_as_long_as_the_longest_wish() -> None:
    one = SharedPause()
    assert [one.extend(10.0, 5.0), one.extend(11.0, 1.0), one.until] == [True, False, 15.0]
    assert [one.extend(15.0, 1.0), one.until] == [True, 16.0]


@pytest.mark.parametrize("url", [URL, "https://HOST:443/tinker/", "https://host/other"])
def test_same_server_and_key_have_one_pause(url: str) -> None:
    assert pause(url) is pause()


@pytest.mark.parametrize(
    ("url", "key"),
    [(URL, "tml-other"), ("https://other/tinker", KEY), ("https://host:444", KEY), ("http://host", KEY)],
)
def test_another_server_or_key_has_another_pause(url: str, key: str) -> None:
    one = pause()
    assert pause(url, key) is not one


def test_each_embedded_server_has_its_own() -> None:
    assert pause("local") is not pause("local")


def test_clients_on_different_virtual_clocks_share_nothing() -> None:
    settings = Settings.resolve(base_url=URL, api_key=KEY, environment={})
    assert shared_pause(settings, VirtualClock()) is not shared_pause(settings, VirtualClock())


def test_pause_that_nobody_holds_is_forgotten() -> None:
    one = weakref.ref(pause("https://nobody"))
    gc.collect()
    assert one() is None


def test_no_key_is_kept_in_clear() -> None:
    one = pause()
    names = repr(list(pauses._registry._pauses.items()))
    assert repr(one) in names
    assert "secret-of-mine" not in names


def test_forked_child_has_pauses_of_its_own() -> None:
    one = pause()
    one.extend(0.0, 1.0)
    with pauses._registry._lock:  # its holder is not there in the child
        child = os.fork()
        if child == 0:
            os._exit(int(pause() is one))
    assert os.waitpid(child, 0)[1] == 0
