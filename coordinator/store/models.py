"""Global models on disk: ``DIGEST/`` folders of fedmentor.models, written and read block by block.

The files are ordinary safetensors with one more property: tensors lie in the order of the spec without gaps, so the data section is
the flat vector that travels. fedmentor.models.load_model reads them; it needs three times the model in memory, this module a block.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from coordinator.averaging import BLOCK_WORDS
from fedmentor.disk import sync_path
from fedmentor.errors import BrokenStore, DigestMismatch, ModelError, WrongArchitecture
from fedmentor.federation import CHUNK_BYTES
from fedmentor.ids import Digest
from fedmentor.models import RECORD_FILE, TENSORS_FILE, ModelRecord, load_record, write_atomically
from fedmentor.tensors import FloatVector, Spec, model_digest_of_blocks, spec_size, vector_bytes

PARAMETER_BYTES = 4


class StoredModel:
    """One model of a ModelStore; a coordinator.averaging.ParameterSource."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        """Open a folder that ModelStore wrote.

        Raises:
            BrokenStore: it is not there.
        """
        self._path = folder / TENSORS_FILE
        self._spec = spec
        self._size = spec_size(spec)
        try:
            with self._path.open("rb") as file:
                self._start = 8 + int.from_bytes(file.read(8), "little")
        except OSError as error:
            raise BrokenStore(f"a stored model cannot be read: {error.strerror}") from error

    @property
    def size_bytes(self) -> int:
        """Bytes of the flat vector."""
        return self._size * PARAMETER_BYTES

    def parameters(self, start: int, stop: int) -> FloatVector:
        """See ParameterSource."""
        return np.frombuffer(self._read(start * PARAMETER_BYTES, (stop - start) * PARAMETER_BYTES), "<f4")

    def check(self, digest: Digest) -> None:
        """Read it whole and compare.

        Raises:
            BrokenStore: it is not the model that the digest names: damaged on disk.
        """
        blocks = (self.parameters(start, min(start + BLOCK_WORDS, self._size)) for start in range(0, self._size, BLOCK_WORDS))
        if model_digest_of_blocks(blocks, self._spec) != digest:
            raise BrokenStore(
                "a stored model is damaged on disk",
                cure=f"put a good copy into models/{digest} of the state folder, then start again",
            )

    def chunks(self, offset: int) -> Iterator[bytes]:
        """The flat vector's little-endian bytes from ``offset`` on, in pieces of at most CHUNK_BYTES."""
        for start in range(offset, self.size_bytes, CHUNK_BYTES):
            yield self._read(start, min(CHUNK_BYTES, self.size_bytes - start))

    def _read(self, start: int, count: int) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._start + start)
                data = file.read(count)
        except OSError as error:
            raise BrokenStore(f"a stored model cannot be read: {error.strerror}") from error
        if len(data) != count:
            raise BrokenStore("a stored model is shorter than it was")
        return data


class ModelStore:
    """The models of one run."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        self._folder = folder
        self._spec = spec
        folder.mkdir(parents=True, exist_ok=True)

    def open(self, digest: Digest) -> StoredModel:
        """A stored model.

        Raises:
            BrokenStore: not here.
        """
        return StoredModel(self._folder / digest, self._spec)

    def record(self, digest: Digest) -> ModelRecord:
        """Provenance of a stored model.

        Raises:
            ModelError: not here.
        """
        return load_record(self._folder / digest)

    def write(
        self, blocks: Iterable[FloatVector], record: Callable[[Digest], ModelRecord], expected: Digest | None = None
    ) -> Digest:
        """Keep a model that comes in consecutive blocks; writing the same one again changes nothing.

        Args:
            record: makes the provenance, given the digest.
            expected: the digest that it must have, where that is known before.

        Raises:
            DigestMismatch: it is another model than expected; nothing is left behind.
            BrokenStore: the disk refused; nothing is left behind.
        """
        try:
            draft = Path(tempfile.mkdtemp(dir=self._folder, prefix=".draft-"))
            try:
                digest = self._write_tensors(draft / TENSORS_FILE, blocks)
                if expected not in (None, digest):
                    raise DigestMismatch("the model is not the expected one", cure="give the run's own model")
                write_atomically(draft / RECORD_FILE, (record(digest).model_dump_json(indent=2) + "\n").encode())
                self._move_in(draft, digest)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        except OSError as error:
            raise BrokenStore(
                f"the store of models failed: {error.strerror}", cure="check the disk of the state folder, then start again"
            ) from error
        return digest

    def import_folder(self, source: Path, expected: Digest) -> None:
        """Copy a model folder from elsewhere.

        Raises:
            ModelError: not a model, or a value is not finite.
            WrongArchitecture: not the run's tensors.
            DigestMismatch: not the expected model.
        """
        record = load_record(source)
        if record.digest != expected:
            raise DigestMismatch(f"the model in {source} is not the one that the run starts from", cure="give the run's own model")
        path = source / TENSORS_FILE
        try:
            self.write(_tensor_blocks(path, self._spec), lambda _: record, expected)
        except SafetensorError as error:
            raise ModelError(f"{path} cannot be read as safetensors", cure="make or copy the model again") from error

    def keep_only(self, named: Collection[Digest]) -> None:
        """Remove every other model. Nobody may be reading one: only models that are named are served.

        Raises:
            BrokenStore: the disk refused.
        """
        try:
            for folder in self._folder.iterdir():
                if folder.name not in named and not folder.name.startswith("."):
                    shutil.rmtree(folder)
        except OSError as error:
            raise BrokenStore(f"the store of models failed: {error.strerror}") from error

    def clean(self) -> None:
        """Remove drafts that a crash left."""
        for draft in self._folder.glob(".draft-*"):
            shutil.rmtree(draft)

    def _write_tensors(self, path: Path, blocks: Iterable[FloatVector]) -> Digest:
        with path.open("wb") as file:
            file.write(safetensors_header(self._spec))

            def written() -> Iterator[FloatVector]:
                for block in blocks:
                    file.write(vector_bytes(block))
                    yield block

            digest = model_digest_of_blocks(written(), self._spec)
            file.flush()
            os.fsync(file.fileno())
        return digest

    def _move_in(self, draft: Path, digest: Digest) -> None:
        if not (self._folder / digest).exists():
            draft.replace(self._folder / digest)
        sync_path(self._folder)


def safetensors_header(spec: Spec) -> bytes:
    """The head of a safetensors file whose float32 tensors follow in the order of the spec.

    The library's own writer wants all tensors in memory at once. Format: 8 bytes little-endian length, then JSON padded with
    spaces to a multiple of 8 (https://huggingface.co/docs/safetensors, "Format").
    """
    entries, start = {}, 0
    for tensor in spec:
        stop = start + tensor.size * PARAMETER_BYTES
        entries[tensor.name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _tensor_blocks(path: Path, spec: Spec) -> Iterator[FloatVector]:
    if not path.is_file():
        raise ModelError(f"{path} does not exist", cure="give a folder with model.safetensors and model.json")
    with safe_open(path, framework="numpy") as file:
        names = {tensor.name for tensor in spec}
        if set(file.keys()) != names:
            odd = min(set(file.keys()) ^ names)
            raise WrongArchitecture(f"tensor {odd!r} is missing or unknown", cure="use a model file of this architecture")
        for tensor in spec:
            values = file.get_tensor(tensor.name)
            if values.dtype != np.float32 or values.shape != tensor.shape:
                raise WrongArchitecture(f"tensor {tensor.name!r} is {values.dtype} {values.shape}, expected float32 {tensor.shape}")
            if not np.isfinite(values).all():
                raise ModelError(f"tensor {tensor.name!r} has values that are not finite")
            flat = values.reshape(-1)
            for start in range(0, flat.size, BLOCK_WORDS):
                yield flat[start : start + BLOCK_WORDS]
