"""Adapters as files that PEFT reads: what a checkpoint for sampling is, and what is exported.

```text
adapter_config.json          rank, scale, modules, base model
adapter_model.safetensors    the parameters; its metadata also say what the server knows of the adapter
```
"""

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy.typing as npt
from safetensors.numpy import save

from tinker_actors.local.engine.peft import adapter_config, to_peft
from tinker_actors.local.specs import AdapterSpec, as_json

__all__ = ["CONFIG", "FACTS", "FILES", "PARAMETERS", "adapter_files", "archive_of"]

CONFIG = "adapter_config.json"
PARAMETERS = "adapter_model.safetensors"
FILES = (CONFIG, PARAMETERS)
MARKER = "checkpoint_complete"
"""A file at the end of an archive, by which old clients know that it is whole."""
FACTS = "tinker_actors"
"""Key of the facts in a file's metadata: one entry, because safetensors writes several in no fixed order."""


def adapter_files(spec: AdapterSpec, parameters: Mapping[str, npt.NDArray[Any]]) -> dict[str, bytes]:
    """The files of an adapter; equal adapters give equal bytes.

    Args:
        spec: what it is made from; all of it goes into the metadata.
        parameters: as `Adapter.parameters`.
    """
    fields = spec.common()
    del fields["seed"]
    arrays = to_peft(parameters)
    config = msgspec.json.format(as_json(adapter_config(**fields)), indent=2) + b"\n"
    content: bytes = save(
        {name: arrays[name] for name in sorted(arrays)}, metadata={FACTS: as_json(spec).decode()}
    )
    return {CONFIG: config, PARAMETERS: content}


def archive_of(files: Mapping[str, bytes | Path]) -> bytes:
    """Files as a gzipped tar, with the marker that it is whole at its end; equal files give equal bytes."""
    buffer = io.BytesIO()
    # Random numbers do not get smaller, so little time is spent on it.
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w") as archive,
    ):
        for name, source in {**files, MARKER: b""}.items():
            content = source if isinstance(source, bytes) else source.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
