"""Save and load checkpoints; look at them and check them without torch."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import IO, Any

from .. import __version__
from ..errors import CheckpointError, CheckpointNotFoundError, printable
from ..files import atomic_write, available_memory, human_bytes
from . import archive, opcodes
from . import manifest as manifests
from .foreign import kind_of


def save(path: str | os.PathLike[str], state: Any, manifest: dict[str, Any]) -> Path:
    """Write a checkpoint so that there is always a whole one, and return its path.

    At every instant ``path`` is the old file or the new one, also after a crash or power loss. The new one has passed
    the checks of :func:`verify` before it gets the name. Equal states and manifests give equal bytes.

    Parameters
    ----------
    path : path-like
        Parents are created.
    state : nested dict, list, tuple
        Of tensors, arrays (they come back as tensors), str, int of at most 2039 bits, float, bool and None; NumPy
        scalars come back as Python's. Keys are str or int. Tensors are stored detached and as if in main memory; those
        that share one buffer and use all of it share it again, a slice of a larger buffer is stored alone.
    manifest : dict
        What can be read without torch: anything that JSON gives back as it was (tuples become lists). ``schema``,
        ``format``, ``rlox``, ``torch`` and ``digests`` are set here.

    Raises
    ------
    WriteError
        When the system refuses: the old file is untouched.
    CheckpointError
        For a state or manifest that a checkpoint cannot hold, naming the place.
    """
    write = writer(state, manifest)
    try:
        return atomic_write(path, write)
    except CheckpointError as error:
        raise CheckpointError(f"cannot save {printable(path)}: {error.message}", value=str(path)) from error


def writer(state: Any, manifest: dict[str, Any]) -> Callable[[IO[bytes]], None]:
    """Return a function that writes a checkpoint into an open file, as :func:`save` does.

    Parameters
    ----------
    state, manifest
        As for :func:`save`. What is wrong with the manifest is said here, before anything is written; the state is
        read when the function is called.
    """
    import torch

    fields = {
        "schema": manifests.SCHEMA,
        "format": manifests.FORMAT,
        "rlox": __version__,
        "torch": str(torch.__version__),
        **{key: value for key, value in manifest.items() if key not in manifests.RESERVED},
    }
    manifests.encode(fields)

    def write(file: IO[bytes]) -> None:
        from . import tensors

        tensors.write(file, state)
        _finish(file, fields)

    return write


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the sha256 that a checkpoint holds of itself, in hex; it is read, not checked.

    Raises
    ------
    CheckpointNotFoundError, CheckpointError
        When there is none of that name; when it is no checkpoint.
    """
    with archive.opened(path) as file:
        return archive.stored_digest(file).hex()


def load(path: str | os.PathLike[str], *, allow_nonfinite: bool = False) -> tuple[Any, dict[str, Any]]:
    """Check a checkpoint and return its state, tensors in main memory, and its manifest.

    Nothing in the file is run or imported, nothing beyond what it stores is allocated. No option turns a check off.

    Parameters
    ----------
    path : path-like
    allow_nonfinite : bool
        Also return tensors with NaN or infinity.

    Raises
    ------
    CheckpointNotFoundError, CheckpointMismatchError, CheckpointError
        As :func:`verify`; CheckpointError also for a tensor that is not finite, naming it, and for one that does not
        fit into memory.
    """
    from . import tensors
    from .limits import check_size

    with archive.opened(path) as file:
        contents = archive.inspect(file)
        specs = (s for _, s in opcodes.leaves(contents.state) if isinstance(s, opcodes.TensorSpec))
        check_size(contents.manifest, sum(prod(s.shape) for s in specs))
        needed, free = contents.size, available_memory()
        if needed > free:
            raise CheckpointError(f"needs {human_bytes(needed)} of memory, {human_bytes(free)} are free")
        state = tensors.read(file)
        tensors.check_same(state, contents.state)
        if not allow_nonfinite:
            tensors.check_finite(state)
    return state, contents.manifest


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest of a checkpoint that passes every check of :func:`verify`; no torch."""
    return _inspect(path).manifest


def verify(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Run every check that needs no torch, and return a report.

    The checks, each refusing before the next begins: a regular file and its digest; the zip directory and each
    member's checksum; the manifest and each member's digest; the opcodes and names in the pickle; the size of each
    tensor against its storage.

    Returns
    -------
    dict
        ``path``, ``bytes``, ``digest`` (sha256 of all but the digest itself), ``format``, ``checks`` (what was checked,
        in words), ``members`` (``name``, ``bytes``, ``sha256``), ``n_tensors``, ``tensor_bytes``.

    Raises
    ------
    CheckpointNotFoundError
        When there is none of that name.
    CheckpointMismatchError
        For a format newer than this version of rlox reads.
    CheckpointError
        For anything else that is damaged, unsafe or not a checkpoint, saying what it looks like.
    """
    contents = _inspect(path)
    specs = [spec for _, spec in opcodes.leaves(contents.state) if isinstance(spec, opcodes.TensorSpec)]
    return {
        "path": str(path),
        "bytes": contents.size,
        "digest": contents.digest,
        "format": contents.manifest["format"],
        "checks": ["file digest", "zip directory", "manifest and member digests", "opcodes and names", "tensor sizes"],
        "members": [{"name": m.name, "bytes": m.size, "sha256": m.sha256} for m in contents.members],
        "n_tensors": len(specs),
        "tensor_bytes": sum(spec.nbytes for spec in specs),
    }


def describe_tensors(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return name, dtype, shape and bytes of each tensor of a checkpoint that passes :func:`verify`; no torch."""
    return [
        {"name": name, "dtype": spec.dtype, "shape": list(spec.shape), "bytes": spec.nbytes}
        for name, spec in opcodes.leaves(_inspect(path).state)
        if isinstance(spec, opcodes.TensorSpec)
    ]


def kind_of_file(path: str | os.PathLike[str]) -> str:
    """Return in words what a file looks like: ``an rlox checkpoint``, ``an HDF5 file``, ``text``, ``a folder`` …"""
    try:
        with archive.opened(path) as file:
            try:
                archive.inspect(file)
            except CheckpointError:
                return kind_of(file).words
            return "an rlox checkpoint"
    except CheckpointNotFoundError:
        return "nothing"
    except CheckpointError as error:
        words = error.message.removeprefix(f"{printable(path)}").lstrip(":").strip()
        return words.removeprefix("is ").split(", not a", 1)[0]


def _inspect(path: str | os.PathLike[str]) -> archive.Contents:
    with archive.opened(path) as file:
        return archive.inspect(file)


def _finish(file: IO[bytes], fields: dict[str, Any]) -> None:
    """Append the manifest and the digest to a torch zip, and run the checks of a reader on it."""
    try:
        with zipfile.ZipFile(file, "a") as zipped:
            folder = zipped.namelist()[0].split("/", 1)[0]
            digests = {member.name: member.sha256 for member in archive.digests(zipped, folder)}
            zipped.writestr(
                zipfile.ZipInfo(f"{folder}/{manifests.MEMBER}"), manifests.encode(fields | {"digests": digests})
            )
            zipped.comment = bytes(archive.DIGEST_BYTES)
    except zipfile.BadZipFile as error:
        raise OSError(errno.EIO, f"what was written does not verify: {error}") from error
    size = file.seek(0, os.SEEK_END)
    digest = archive.hash_file(file, size - archive.DIGEST_BYTES)
    file.seek(size - archive.DIGEST_BYTES)
    file.write(digest)
    file.flush()
    archive.inspect(file)
