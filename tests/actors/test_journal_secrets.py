"""What is on the disk of a run: no key and no token, wherever a caller put one."""

from pathlib import Path

import pytest
from harness import BATCHES, KEY, WAIT_S, Server, client, step

import tinker_actors as ta

TOKEN = "tml-token-of-somebody-else"  # noqa: S105 - opens nothing


def test_no_key_and_no_token_reaches_the_run_directory(server: Server, tmp_path: Path) -> None:
    with client(server, None) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        step(training, 0)
        path = training.save_state("base").result(WAIT_S).path
    run_dir = tmp_path / "run"
    with client(server, run_dir) as service:
        training = service.create_training_client_from_state(path, weights_access_token=TOKEN).result(WAIT_S)
        step(training, 0)
        with pytest.raises(ta.BadRequestError):
            training.forward_backward(BATCHES[0], "no_such_loss").result(WAIT_S)
        during = written(run_dir)
    for content in (during, written(run_dir)):
        assert path.encode() in content
        assert KEY.encode() not in content
        assert TOKEN.encode() not in content


def written(run_dir: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(run_dir.rglob("*")) if file.is_file())
