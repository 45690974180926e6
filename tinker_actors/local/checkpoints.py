"""Named checkpoints and snapshots: safetensors files whose bytes depend on nothing but the model's state.

Training state is one file, so that it can be replaced in one step. Weights for sampling and exports are
directories that PEFT reads, see `adapters`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors import safe_open as open_safetensors
from safetensors.numpy import load_file, save

from tinker_actors.errors import ValidationError
from tinker_actors.local.adapters import FACTS, FILES, PARAMETERS, adapter_files
from tinker_actors.local.engine.peft import from_peft
from tinker_actors.local.engine.training import Trainer
from tinker_actors.local.files import put_directory, put_directory_file, put_file, take_away
from tinker_actors.local.specs import AdapterSpec, ModelSpec, as_json
from tinker_actors.types import CheckpointKind, CheckpointPath

__all__ = ["STATE", "Checkpoints", "Facts", "adapter_arrays", "encode", "encode_named"]

Arrays = Mapping[str, npt.NDArray[Any]]
ADAPTER = "adapter."
STATE = "checkpoint.safetensors"
"""The one file of training state."""


class Facts(AdapterSpec, frozen=True, kw_only=True):
    """What a file says of the adapter in it."""

    step: int
    """Optimizer steps taken."""

    @classmethod
    def of(cls, spec: AdapterSpec, step: int) -> "Facts":
        """The facts of a model after `step` optimizer steps."""
        return cls(**spec.common(), step=step)

    def spec(self, source: str, user_metadata: Mapping[str, Any], *, optimizer: bool) -> ModelSpec:
        """The spec of a model that starts from this checkpoint."""
        return ModelSpec(**self.common(), source=source, optimizer=optimizer, user_metadata=user_metadata)


def encode(spec: ModelSpec, trainer: Trainer, *, optimizer: bool = True, gradient: bool = False) -> bytes:
    """A model's state as a file: equal states give equal bytes."""
    arrays = trainer.state(include_gradient=gradient)
    if not optimizer:
        arrays = {name: array for name, array in arrays.items() if name.startswith(ADAPTER)}
    facts = as_json(Facts.of(spec, trainer.steps)).decode()
    content: bytes = save({name: arrays[name] for name in sorted(arrays)}, metadata={FACTS: facts})
    return content


def encode_named(kind: CheckpointKind, spec: ModelSpec, trainer: Trainer) -> dict[str, bytes]:
    """A model's state as the files of a checkpoint; equal states give equal bytes."""
    if kind == "weights":
        return {STATE: encode(spec, trainer)}
    return adapter_files(Facts.of(spec, trainer.steps), trainer.adapter.parameters)


def adapter_arrays(arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    """The adapter's parameters out of a file, by the adapter's names."""
    return {name.removeprefix(ADAPTER): array for name, array in arrays.items() if name.startswith(ADAPTER)}


def _load(file: Path) -> Arrays:
    arrays: Arrays = load_file(file)
    return arrays


def _read_facts(file: Path) -> Facts:
    with open_safetensors(file, framework="numpy") as opened:
        return msgspec.json.decode(opened.metadata()[FACTS], type=Facts)


def _main_file(kind: CheckpointKind) -> str:
    """The file that holds the facts."""
    return STATE if kind == "weights" else PARAMETERS


class Checkpoints:
    """The files under a server's directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._scratch = root / "tmp"

    def save(self, path: CheckpointPath, files: Mapping[str, bytes]) -> None:
        """Write a named checkpoint, completely or not at all."""
        if files.keys() == {STATE}:
            put_directory_file(self._named(path), STATE, files[STATE], self._scratch)
        else:
            put_directory(self._named(path), files, self._scratch)

    def copy(self, source: CheckpointPath, target: CheckpointPath) -> None:
        """Keep a named checkpoint under another name as well; both share what is on the disk.

        Raises:
            ValidationError: there is no such checkpoint.
        """
        files = {file.name: file for file in self._file(source).parent.iterdir()}
        put_directory(self._named(target), files, self._scratch)

    def remove(self, path: CheckpointPath) -> None:
        """Remove a named checkpoint, if it is there."""
        take_away(self._named(path), self._scratch)

    def found(self) -> Iterator[CheckpointPath]:
        """The named checkpoints that lie on the disk."""
        for kind in get_args(CheckpointKind):
            for directory in (self._root / "checkpoints").glob(f"*/{kind}/*"):
                yield CheckpointPath(directory.parent.parent.name, kind, directory.name)

    def is_there(self, path: CheckpointPath) -> bool:
        """Whether a named checkpoint lies on the disk."""
        return (self._named(path) / _main_file(path.kind)).is_file()

    def spoil(self, path: CheckpointPath) -> None:
        """Cut a named checkpoint in half, as a broken disk might.

        Raises:
            ValidationError: there is no such checkpoint.
        """
        file = self._file(path)
        content = file.read_bytes()
        put_file(file, content[: len(content) // 2], self._scratch)

    def facts(self, path: CheckpointPath) -> Facts:
        """What a named checkpoint says of itself.

        Raises:
            ValidationError: there is no such checkpoint, or it cannot be read.
        """
        file = self._file(path)
        try:
            return _read_facts(file)
        except (SafetensorError, OSError, msgspec.MsgspecError, KeyError, TypeError) as error:
            raise ValidationError(f"checkpoint {path} cannot be read: {error}") from error

    def arrays(self, path: CheckpointPath) -> Arrays:
        """The arrays of a named checkpoint, by the names of `Trainer.state`.

        Raises:
            ValidationError: there is no such checkpoint, or it cannot be read.
        """
        file = self._file(path)
        try:
            if path.kind == "weights":
                return _load(file)
            return {ADAPTER + name: array for name, array in from_peft(_load(file)).items()}
        except (SafetensorError, OSError) as error:
            raise ValidationError(f"checkpoint {path} cannot be read: {error}") from error

    def exported(self, path: CheckpointPath) -> Mapping[str, bytes | Path]:
        """A named checkpoint as the files that PEFT reads.

        Raises:
            ValidationError: there is no such checkpoint, or it cannot be read.
        """
        if path.kind != "weights":
            return {name: self._file(path).with_name(name) for name in FILES}
        files: dict[str, bytes | Path] = {
            **adapter_files(self.facts(path), adapter_arrays(self.arrays(path)))
        }
        return files

    def _file(self, path: CheckpointPath) -> Path:
        file = self._named(path) / _main_file(path.kind)
        if not file.is_file():
            raise ValidationError(f"there is no checkpoint {path}")
        return file

    def _named(self, path: CheckpointPath) -> Path:
        return self._root / "checkpoints" / path.training_run_id / path.kind / path.name

    # Weights saved without a name

    def save_sampler(self, sampling_session_id: str, content: bytes) -> None:
        """Write the weights of an ephemeral save."""
        put_file(self._sampler(sampling_session_id), content, self._scratch)

    def sampler_arrays(self, sampling_session_id: str) -> Arrays:
        """The weights of an ephemeral save."""
        return _load(self._sampler(sampling_session_id))

    def sampler_facts(self, sampling_session_id: str) -> Facts:
        """What the weights of an ephemeral save say of themselves."""
        return _read_facts(self._sampler(sampling_session_id))

    def remove_sampler(self, sampling_session_id: str) -> None:
        """Remove the weights of an ephemeral save, if they are there."""
        self._sampler(sampling_session_id).unlink(missing_ok=True)

    def _sampler(self, sampling_session_id: str) -> Path:
        return self._root / "samplers" / f"{sampling_session_id}.safetensors"

    # Snapshots

    def snapshot(self, model_id: str, seq_id: int) -> Path:
        """Where the snapshot of a model after `seq_id` lies."""
        return self.snapshots(model_id) / f"{seq_id}.safetensors"

    def snapshots(self, model_id: str) -> Path:
        """The directory of a model's snapshots."""
        return self._root / "models" / model_id

    def save_snapshot(self, model_id: str, seq_id: int, content: bytes) -> None:
        """Write the snapshot of a model after `seq_id`."""
        put_directory_file(self.snapshots(model_id), f"{seq_id}.safetensors", content, self._scratch)

    def load_snapshot(self, model_id: str, seq_id: int) -> Arrays:
        """The snapshot of a model after `seq_id`."""
        return _load(self.snapshot(model_id, seq_id))

    def drop_snapshots(self, model_id: str, keep: int) -> None:
        """Remove the snapshots of a model but the one after `keep`."""
        for file in self.snapshots(model_id).glob("*.safetensors"):
            if file.name != f"{keep}.safetensors":
                file.unlink(missing_ok=True)
