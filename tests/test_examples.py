"""The examples do what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import TOKEN, FakeHub

EXAMPLES = Path(__file__).parent.parent / "examples"


def printed(name: str, *arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **variables},
    )
    assert done.stderr == ""
    return done.stdout


def test_a_run_goes_on_while_its_reward_model_crashes() -> None:
    lines = printed("reward_model_actor.py", "16")
    means = [float(mean) for mean in re.findall(r"step \d+: mean reward ([\d.]+)", lines)]
    assert len(means) == 16
    assert re.findall(r"restarted \(restart (\d)\)", lines) == ["1", "2", "3"]
    assert lines.count("asking again after: the reward model ran out of memory") == 3
    assert sum(means[-4:]) > sum(means[:4])


def test_a_run_goes_through_an_outage() -> None:
    lines = printed("outage.py", "3")
    assert re.findall(r"step (\d) is taken", lines) == ["1", "2", "3", "4"]
    assert set(re.findall(r"circuit of (\w+) opened", lines)) == {"optim_step"}
    assert "circuit of optim_step closed" in lines
    (last,) = re.findall(r"4 steps taken; closed circuits: (.*)", lines)
    assert "optim_step" in last


def test_a_loop_over_a_platform_goes_on_where_it_ended() -> None:
    lines = printed("training_platform.py")
    assert re.findall(r"step (\d+):", lines) == ["0", "6", "12", "18"]
    assert re.findall(r"saved (.*)", lines) == ["after-12", "after-24"]
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", lines)]
    assert losses[-1] < losses[0] / 2


def test_an_adapter_is_fetched_to_disk(tmp_path: Path) -> None:
    lines = printed("download_checkpoint.py", str(tmp_path))
    (folder,) = tmp_path.iterdir()
    size = (folder / "adapter_model.safetensors").stat().st_size
    assert f"adapter_model.safetensors: {size} bytes\n" in lines
    assert "adapter_config.json" in lines


def test_an_adapter_is_put_on_the_hub() -> None:
    with FakeHub() as hub:
        lines = printed(
            "push_adapter.py",
            "me/fox",
            HF_ENDPOINT=hub.url,
            HF_TOKEN=TOKEN,
            HF_HUB_DISABLE_XET="1",
            HF_HUB_DISABLE_PROGRESS_BARS="1",
        )
        assert lines.startswith(f"me/fox at main: {hub.url}/me/fox/commit/")
        assert "adapter_model.safetensors" in hub.files("me/fox")


def test_checkpoints_are_listed_shared_deleted_and_gone_on_from() -> None:
    lines = printed("manage_checkpoints.py")
    assert "run of local/tiny, rank 8: sound\n" in lines
    assert len(re.findall(r"^(?:training|sampler) \w+: \d+ bytes$", lines, re.MULTILINE)) == 3
    assert "kept: training late, public, deleted in a day\n" in lines
    assert "kept: training early" not in lines
    assert "early cannot be gone on from: NotFoundError\n" in lines
    assert "the same loss in both runs: yes\n" in lines


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("sample_stream", "streaming"),
        ("otel_propagate=True", "tracing"),
        ("forward_backward_custom", "custom_loss"),
        ("regularizers=", "custom_loss"),
        ("apply_chat_template", "chat_templates"),
        ("get_tokenizer", "evaluate"),
        ("download_checkpoint", "download_checkpoint"),
        ("push_checkpoint_adapter", "push_adapter"),
        ("ProcessPoolExecutor", "worker_pool"),
        ("training.forward(", "evaluate"),
        ("TrainingPlatform", "training_platform"),
        ("iter_user_checkpoints", "manage_checkpoints"),
    ],
)
def test_each_part_of_the_surface_has_an_example(what: str, name: str) -> None:
    assert what in (EXAMPLES / f"{name}.py").read_text()


def test_every_example_is_run_by_a_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    assert [path.name for path in EXAMPLES.glob("*.py") if path.name not in tests] == []


def test_a_model_is_judged_without_a_gradient() -> None:
    found = re.findall(
        r"step \d+: ([\d.]+) nats a token in training, ([\d.]+) held out", printed("evaluate.py", "30")
    )
    trained, held_out = [float(one) for one, _ in found], [float(one) for _, one in found]
    assert len(found) == 3
    assert trained == sorted(trained, reverse=True)
    assert held_out[-1] > trained[-1]


def test_workers_of_a_pool_sample_in_one_session() -> None:
    lines = printed("worker_pool.py", "2")
    assert lines.count(" -> ") == 8
    assert "as in this process: yes; sessions: 1\n" in lines


def test_a_loss_of_ones_own_falls_and_stays_near_where_it_began() -> None:
    lines = printed("custom_loss.py", "12")
    found = re.findall(r"focal loss ([\d.]+) a token, .* ([\d.]+) to stay near", lines)
    losses, distances = [float(loss) for loss, _ in found], [float(distance) for _, distance in found]
    assert len(found) == 12
    assert losses[-1] < losses[0] / 2
    assert distances[0] == 0.0 < distances[-1]


def test_a_run_that_is_killed_five_times_does_what_an_undisturbed_one_does() -> None:
    lines = printed("crash_resilient.py")
    assert lines.count("killed ") == 5
    assert "optimizer steps that the server executed: 12 in peace, 12 under fire\n" in lines
    assert "the same work in the same order: yes\n" in lines
    assert len(re.findall(r"checkpoint [\w-]+: sha256 [0-9a-f]{64}, as in peace\n", lines)) == 4


def test_tokens_are_streamed_and_given_up() -> None:
    lines = printed("streaming.py")
    assert "\nended by length after 16 tokens\n" in lines
    assert "\nleft after 5 tokens\n" in lines
    (lengths,) = re.findall(r"side by side: \[(\d+), (\d+), (\d+)\]", lines)
    assert all(1 <= int(length) <= 24 for length in lengths)


def test_a_model_learns_to_chat() -> None:
    lines = printed("chat_templates.py")
    (size, length) = map(int, re.findall(r"(\d+) bytes are (\d+) tokens", lines)[0])
    assert length < size / 2
    assert "and back: user: capital of Perú?\n" in lines
    assert "'user: capital of Peru?\\nassistant: Lima<|end|>'\n" in lines
    first, last = (float(loss) for loss in re.findall(r"loss ([\d.]+)", lines))
    assert last < first / 4
    assert "France: Paris\n" in lines


def test_a_traced_run_is_one_tree_of_spans() -> None:
    lines = printed("tracing.py").splitlines()
    begin = lines.index("step 1")
    assert lines[begin + 1] == "  forward_backward"
    assert lines[begin + 2].startswith("    POST forward_backward (")
    assert "  optim_step" in lines[begin:]
    assert "actor.restart (service/session/training/training:1)" in lines
    assert "recovery (re-attach)" in lines
    assert any(line.startswith("  sample (") for line in lines)


def test_tracing_without_opentelemetry_says_what_to_install() -> None:
    program = f"""
import runpy, sys
sys.modules["opentelemetry"] = None
runpy.run_path({str(EXAMPLES / "tracing.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'pip install "tinker-actors[otel]" opentelemetry-sdk' in done.stderr
