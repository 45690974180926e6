"""Files to fetch by signed URLs: whole, unaltered, in time, and by whoever has the URL."""

import io
import tarfile
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from embedded import NOON, Embedded, WallClock
from safetensors.numpy import load

import tinker_actors as ta

WAIT_S = 60
LIFE_S = 3600
FILES = {"adapter_config.json", "adapter_model.safetensors"}


def save(caller: Any, kind: str, model_id: str, seq_id: int = 1, **more: Any) -> Any:
    return caller.do(kind, {"model_id": model_id, "seq_id": seq_id, "path": "a", **more})


def urls_of(rest: ta.RestClient, path: str) -> dict[str, str]:
    return rest.get_external_weights_urls(path).result(WAIT_S).urls


@pytest.fixture
def path(talker: Any) -> str:
    """An export."""
    return str(save(talker, "save_weights_external", talker.model())["path"])


def test_an_export_says_its_size_and_is_fetched_without_a_key(talker: Any, rest: ta.RestClient) -> None:
    saved = save(talker, "save_weights_external", talker.model())
    external = rest.get_external_weights_urls(saved["path"]).result(WAIT_S)
    assert external.expires == datetime.fromtimestamp(NOON + LIFE_S, UTC)
    assert external.urls.keys() == FILES
    fetched = {name: httpx.get(url) for name, url in external.urls.items()}
    assert {response.status_code for response in fetched.values()} == {200}
    assert sum(len(response.content) for response in fetched.values()) == saved["size_bytes"]
    assert all(
        int(response.headers["content-length"]) == len(response.content) for response in fetched.values()
    )
    assert load(fetched["adapter_model.safetensors"].content)


def test_an_export_holds_what_sampler_weights_hold(
    embedded: Embedded, talker: Any, rest: ta.RestClient
) -> None:
    model_id = talker.model()
    talker.forward_backward(model_id, 1)
    talker.optim_step(model_id, 2)
    external = save(talker, "save_weights_external", model_id, 3)["path"]
    sampler = save(talker, "save_weights_for_sampler", model_id, 4)["path"]
    directory = embedded.data / "checkpoints" / sampler.removeprefix("tinker://")
    for name, url in urls_of(rest, external).items():
        assert httpx.get(url).content == (directory / name).read_bytes()


def test_a_url_that_was_altered_opens_nothing(rest: ta.RestClient, path: str) -> None:
    urls = list(urls_of(rest, path).values())
    for position in range(0, 200, 7):
        parts = urls[0].split("/")
        token = parts[4]
        place = position % (len(token) - 1)
        parts[4] = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        assert httpx.get("/".join(parts)).status_code == 403
    mixed = [*urls[0].split("/")[:5], urls[1].split("/")[5]]
    assert httpx.get("/".join(mixed)).status_code == 403


def test_a_url_expires(rest: ta.RestClient, path: str, clock: WallClock) -> None:
    (url, _) = urls_of(rest, path).values()
    clock.now += LIFE_S - 1
    assert httpx.get(url).status_code == 200
    clock.now += 1
    response = httpx.get(url)
    assert response.status_code == 403
    assert "expired" in response.json()["detail"]


def test_a_url_is_worth_nothing_once_its_checkpoint_is_gone_or_another(
    talker: Any, rest: ta.RestClient, path: str
) -> None:
    (url, _) = urls_of(rest, path).values()
    rest.delete_checkpoint_from_tinker_path(path).result(WAIT_S)
    assert httpx.get(url).status_code == 404
    assert save(talker, "save_weights_external", path.split("/")[2], 2)["path"] == path
    assert httpx.get(url).status_code == 404
    (again, _) = urls_of(rest, path).values()
    assert httpx.get(again).status_code == 200


def test_a_url_is_no_key(embedded: Embedded, rest: ta.RestClient, path: str) -> None:
    token = next(iter(urls_of(rest, path).values())).split("/")[4]
    guarded = embedded.service.signer
    with pytest.raises(Exception, match="something else"):
        guarded.read("api", token)
    api = guarded.sign("api", {}, LIFE_S)
    assert httpx.get(f"{embedded.url}/files/{api}/adapter_config.json").status_code == 403


def test_an_export_is_listed_and_cannot_be_loaded(talker: Any, rest: ta.RestClient, path: str) -> None:
    (checkpoint,) = rest.list_checkpoints(path.split("/")[2]).result(WAIT_S).checkpoints
    assert (checkpoint.checkpoint_type, checkpoint.checkpoint_id) == ("external", "external_weights/a")
    document = {"session_id": talker.session(), "model_seq_id": 0, "path": path, "optimizer": False}
    assert talker.post("load_weights", document).status_code == 400
    assert talker.post("weights_info", {"tinker_path": path}).status_code == 400


def test_an_export_expires_like_any_checkpoint(talker: Any, rest: ta.RestClient, clock: WallClock) -> None:
    saved = save(talker, "save_weights_external", talker.model(), ttl_seconds=3600)
    clock.now += 3600
    with pytest.raises(ta.NotFoundError):
        urls_of(rest, saved["path"])


@pytest.mark.parametrize(
    ("more", "status", "wanted"),
    [
        ({"age_encryption_recipients": ["age1xyz"]}, 400, "unencrypted"),
        ({"path": "../a"}, 400, "checkpoint names"),
        ({"path": None}, 422, "path"),
        ({"ttl_seconds": 5}, 422, "ttl_seconds"),
    ],
)
def test_exports_that_cannot_be_made_are_refused_and_take_no_place(
    caller: Any, more: dict[str, Any], status: int, wanted: str
) -> None:
    model_id = caller.model()
    response = caller.post("save_weights_external", {"model_id": model_id, "seq_id": 1, "path": "a", **more})
    assert response.status_code == status
    assert wanted in response.json()["detail"]
    no_recipients = {"model_id": model_id, "seq_id": 1, "path": "a", "age_encryption_recipients": []}
    assert "path" in caller.do("save_weights_external", no_recipients)


def test_only_exports_have_urls_and_only_the_others_an_archive(caller: Any) -> None:
    model_id = caller.model()
    save(caller, "save_weights_external", model_id, 1)
    save(caller, "save_weights", model_id, 2)
    place = f"training_runs/{model_id}/checkpoints"
    assert caller.http.get(f"{place}/weights/a/external_weights_urls").status_code == 400
    assert caller.http.get(f"{place}/external_weights/a/archive").status_code == 400
    assert caller.http.get(f"{place}/weights/b/archive").status_code == 404
    assert caller.http.get(f"{place}/external_weights/b/external_weights_urls").status_code == 404


@pytest.mark.parametrize(
    ("kind", "of"), [("save_weights", "weights"), ("save_weights_for_sampler", "sampler_weights")]
)
def test_an_archive_is_redirected_to_and_holds_what_peft_reads(
    talker: Any, rest: ta.RestClient, kind: str, of: str
) -> None:
    model_id = talker.model()
    path = save(talker, kind, model_id)["path"]
    response = talker.http.get(f"training_runs/{model_id}/checkpoints/{of}/a/archive")
    assert (response.status_code, response.content) == (302, b"")
    place = rest.get_checkpoint_archive_url_from_tinker_path(path).result(WAIT_S)
    assert place.expires == datetime.fromtimestamp(NOON, UTC) + timedelta(seconds=LIFE_S)
    with tarfile.open(fileobj=io.BytesIO(httpx.get(place.url).content)) as archive:
        assert set(archive.getnames()) == {*FILES, "checkpoint_complete"}
        parameters = archive.extractfile("adapter_model.safetensors")
        assert parameters is not None
        assert load(parameters.read())


def test_a_trace_tells_what_was_executed(talker: Any, rest: ta.RestClient) -> None:
    session_id = talker.session()
    model_id = talker.model(session_id)
    talker.poll(talker.optim_step(model_id, 1).json()["request_id"])
    url = rest.export_session_trace(session_id).result(WAIT_S)
    events = httpx.get(url).json()["traceEvents"]
    assert {event["pid"] for event in events} == {session_id}
    assert [event["name"] for event in events if event["ph"] == "i"] == ["create_model", "optim_step"]
    with pytest.raises(ta.NotFoundError):
        rest.export_session_trace("nobody").result(WAIT_S)
