"""A disk that is full for a while, on a server in this process."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tinker_actors.local import executor, ledger, records
from tinker_actors.local.app import make_app
from tinker_actors.local.data_dir import DataDirectory
from tinker_actors.local.engine.training import Trainer
from tinker_actors.local.faults.plan import Effect, Fault, FaultPlan
from tinker_actors.local.options import Options
from tinker_actors.local.service import Service
from tinker_actors.local.step_log import FaultFired, read

FREE = 1_000_000
"""Pages a database may have that is not full."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    data = DataDirectory(tmp_path / "s")
    data.open(lock_patience_s=0)
    service = Service(Options(data=tmp_path / "s", snapshot_every=2), data)
    service.start()
    yield service
    service.stop()
    data.close()


def limit_pages(service: Service, most: int) -> None:
    service.store.ask(lambda db: db.execute(f"PRAGMA max_page_count={most}").fetchone())


def calling(service: Service, calls: Callable[["Poster"], Awaitable[None]]) -> None:
    async def run() -> None:
        transport = httpx.ASGITransport(make_app(service))
        headers = {"X-API-Key": "tml-x"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://server/api/v1", headers=headers
        ) as http:
            await calls(Poster(http))

    asyncio.run(run())


class Poster:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def post(self, path: str, /, **document: Any) -> Any:
        response = await self._http.post(path, json=document)
        return {"status": response.status_code, **response.json()}

    async def model(self) -> str:
        session = (await self.post("create_session"))["session_id"]
        lora = {"rank": 1, "seed": 1}
        made = await self.post(
            "create_model", session_id=session, model_seq_id=0, base_model="local/tiny", lora_config=lora
        )
        await self.post("retrieve_future", request_id=made["request_id"])
        return str(made["model_id"])

    async def optim_step(self, model_id: str, seq_id: int, padding: int = 0) -> Any:
        return await self.post(
            "optim_step", model_id=model_id, seq_id=seq_id, adam_params={}, unknown="x" * padding
        )


def test_a_request_that_cannot_be_kept_is_refused_and_uses_up_no_place(service: Service) -> None:
    async def calls(poster: Poster) -> None:
        model_id = await poster.model()
        limit_pages(service, 1)
        refused = await poster.optim_step(model_id, 1, padding=1_000_000)
        assert (refused["status"], "full" in refused["detail"]) == (507, True)
        assert (await poster.post("get_info", model_id=model_id))["status"] == 200
        limit_pages(service, FREE)
        accepted = await poster.optim_step(model_id, 1)
        assert "metrics" in await poster.post("retrieve_future", request_id=accepted["request_id"])

    calling(service, calls)


def test_results_that_cannot_be_kept_are_given_out_once_they_can(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(executor, "RETRY_S", 0.01)
    failing = FullTwice(service)

    async def calls(poster: Poster) -> None:
        model_id = await poster.model()
        monkeypatch.setattr(ledger, "finish", failing)
        handles = [await poster.optim_step(model_id, seq_id) for seq_id in (1, 2, 3)]
        for handle in handles:
            assert "metrics" in await poster.post("retrieve_future", request_id=handle["request_id"])

    calling(service, calls)
    assert failing.failures >= 2
    assert "results_not_stored" in capsys.readouterr().err


class FullTwice:
    """`ledger.finish` on a disk that has no room at first."""

    def __init__(self, service: Service) -> None:
        self._finish = ledger.finish
        self._service = service
        self.failures = 0

    def __call__(self, db: Any, ticket: Any, result: Any) -> None:
        if self.failures < 2:
            self.failures += 1
            db.execute("PRAGMA max_page_count=1")
            db.execute("INSERT INTO sessions VALUES ('x', 0, zeroblob(1000000), NULL)")
        self._finish(db, ticket, result)


@pytest.mark.parametrize("effect", ["corrupt_run", "lose_checkpoint", "spoil_checkpoint", "cool_optimizer"])
def test_what_a_fault_cannot_damage_stays_and_the_request_is_answered(
    service: Service, monkeypatch: pytest.MonkeyPatch, effect: Effect
) -> None:
    def full_store(*_arguments: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    def full_disk(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    async def calls(poster: Poster) -> None:
        model_id = await poster.model()
        saved = await poster.post("save_weights", model_id=model_id, seq_id=1, path="a")
        path = (await poster.post("retrieve_future", request_id=saved["request_id"]))["path"]
        service.switches.arm(FaultPlan(faults=[Fault(effect=effect, name="damage", path=path)]))
        with monkeypatch.context() as patch:
            patch.setattr(records, "corrupt_run", full_store)
            patch.setattr(records, "forget_checkpoint", full_store)
            for name in ("save", "spoil", "remove"):
                patch.setattr(service.checkpoints, name, full_disk)
            assert (await poster.post("get_info", model_id=model_id))["status"] == 200
        assert (await poster.post("weights_info", tinker_path=path))["status"] == 200

    calling(service, calls)
    fired = [entry for entry in read(service.options.data) if isinstance(entry, FaultFired)]
    assert [(entry.effect, entry.target) for entry in fired] == [(effect, "")]


def test_a_checkpoint_that_cannot_be_written_fails_and_the_model_goes_on(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    async def calls(poster: Poster) -> None:
        model_id = await poster.model()
        with monkeypatch.context() as patch:
            patch.setattr(service.checkpoints, "save", full)
            saved = await poster.post("save_weights", model_id=model_id, seq_id=1, path="a")
            result = await poster.post("retrieve_future", request_id=saved["request_id"])
        assert result["category"] == "server"
        assert "No space left" in result["error"]
        again = await poster.post("save_weights", model_id=model_id, seq_id=2, path="a")
        assert "path" in await poster.post("retrieve_future", request_id=again["request_id"])

    calling(service, calls)


def test_an_operation_that_breaks_leaves_the_model_as_it_was(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.optim_step

    def breaking(trainer: Trainer, **_settings: Any) -> Any:
        trainer.adapter.flat[...] = 7
        raise ArithmeticError("broken")

    async def calls(poster: Poster) -> None:
        model_id = await poster.model()
        norms = []
        for seq_id in (1, 2, 3):
            monkeypatch.setattr(Trainer, "optim_step", breaking if seq_id == 2 else step)
            handle = await poster.optim_step(model_id, seq_id)
            norms.append(await poster.post("retrieve_future", request_id=handle["request_id"]))
        assert norms[1]["category"] == "server"
        assert norms[2] == norms[0]
        saved = await poster.post("save_weights", model_id=model_id, seq_id=4, path="a")
        assert "path" in await poster.post("retrieve_future", request_id=saved["request_id"])

    calling(service, calls)
    (file,) = (service.options.data / "checkpoints").glob("*/weights/a/*")
    assert np.float32(7).tobytes() * 4 not in file.read_bytes()
