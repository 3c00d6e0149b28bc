"""What a dataset path holds, told by its content and never by its name. Standard library only."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path

from rlox.errors import DatasetError, DatasetNotFoundError, closest, printable

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
D4RL_KEYS = ("observations", "actions", "rewards", "terminals")

_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive (npz, or a checkpoint)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x93NUMPY", "a NumPy .npy file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\x80\x02", "a pickle (rlox never reads pickles)"),
    (b"\x80\x03", "a pickle (rlox never reads pickles)"),
    (b"\x80\x04", "a pickle (rlox never reads pickles)"),
    (b"\x80\x05", "a pickle (rlox never reads pickles)"),
)
_HINT = "rlox reads D4RL HDF5 files: observations, actions, rewards, terminals"


def check_is_hdf5(path: str | os.PathLike[str]) -> os.stat_result:
    """Return the file's status when ``path`` is a regular file with an HDF5 signature.

    Raises
    ------
    DatasetNotFoundError
        Nothing is there.
    DatasetError
        A folder, an empty file, or content of another kind, which the message names.
    """
    name = printable(path)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise _folder_error(Path(path))
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{name} is neither a file nor a folder", value=str(path))
        with open(path, "rb") as file:
            head = file.read(4096)
            found = HDF5_SIGNATURE == head[:8] or _signature_after_user_block(file, status.st_size)
    except FileNotFoundError as error:
        raise _absent(Path(path)) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DatasetError(f"cannot read {name}: {printable(reason)}", value=str(path)) from error
    if not found:
        raise DatasetError(f"{name} is {describe_head(head)}, not an HDF5 file", hint=_HINT, value=str(path))
    return status


def _signature_after_user_block(file: object, size: int) -> bool:
    """HDF5 allows the signature at 512, 1024, 2048, … when a user block comes first."""
    offset = 512
    while offset + 8 <= size:
        file.seek(offset)  # type: ignore[attr-defined]
        if file.read(8) == HDF5_SIGNATURE:  # type: ignore[attr-defined]
            return True
        offset *= 2
    return False


def _absent(path: Path) -> DatasetNotFoundError:
    """Return the error for a file that is not there, with near names beside it or the way to make one."""
    try:
        beside = {entry.stem: str(entry) for entry in path.parent.iterdir() if entry.suffix in (".h5", ".hdf5")}
    except (OSError, ValueError):
        beside = {}
    near = [beside[stem] for stem in closest(path.stem, beside)]
    make = f"rlox dataset collect --env Pendulum-v1 --policy random --steps 10000 -o {path}"
    hint = f"there is `{printable(near[0])}`" if near else f"to make one: `{printable(make)}`"
    return DatasetNotFoundError(f"dataset {printable(path)} does not exist", hint=hint, value=str(path), suggestions=near)


def _folder_error(path: Path) -> DatasetError:
    for metadata in (path / "metadata.json", path / "data" / "metadata.json"):
        if metadata.is_file():
            return DatasetError(f"{printable(path)} looks like a Minari dataset, which cannot be read", hint=_HINT)
    return DatasetError(f"{printable(path)} is a folder, not a dataset file", hint=_HINT, value=str(path))


def describe_head(head: bytes) -> str:
    """Say in words what a file that starts with ``head`` looks like."""
    if not head:
        return "empty"
    for signature, words in _SIGNATURES:
        if head.startswith(signature):
            return words
    if head[257:262] == b"ustar":
        return "a tar archive"
    if HDF5_SIGNATURE.startswith(head[:8]) or head[1:4] == b"HDF":
        return "a damaged HDF5 file (its signature is broken)"
    try:
        head[:1024].decode("ascii")
    except UnicodeDecodeError:
        return f"of an unknown kind (first bytes {head[:8].hex(' ')})"
    return "text" if b"\0" not in head[:1024] else f"of an unknown kind (first bytes {head[:8].hex(' ')})"


def layout_of(root: Collection[str]) -> str:
    """Return the layout that the names in the root of an HDF5 file show.

    Returns
    -------
    str
        ``d4rl``, ``d3rlpy-2``, ``d3rlpy-1``, ``minari`` or ``unknown``.
    """
    names = set(root)
    if {"columns", "num_episodes", "version"} <= names:
        return "d3rlpy-2"
    if "episode_0" in names:
        return "minari"
    if set(D4RL_KEYS) <= names:
        return "d3rlpy-1" if names & {"episode_terminals", "discrete_action"} else "d4rl"
    return "unknown"
