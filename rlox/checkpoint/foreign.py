"""Words for a file that is not a checkpoint, or a damaged one: what it looks like, and what it would run.

Nothing here decides whether a file is safe. It only looks, with limits, so that the refusal says something useful.
"""

from __future__ import annotations

import os
import pickletools
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from . import manifest as manifests
from .opcodes import unsafe_names

_LOOK = 2**20
_MAX_DIRECTORY = 8 * 2**20
_MAX_NAMES = 3
_HDF5 = b"\x89HDF\r\n\x1a\n"
_TORCH_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
_MAGICS = {
    b"\x93NUMPY": "a NumPy array (.npy)",
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstandard file",
    b"7z\xbc\xaf": "a 7z archive",
    b"\x7fELF": "a program or library (ELF)",
    b"\x89PNG": "a PNG image",
    b"GGUF": "a GGUF model",
    b"PK\x05\x06": "an empty zip archive",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file looks like, and the names of code that opening it carelessly would run."""

    words: str
    unsafe: tuple[str, ...] = ()
    damaged: bool = False

    def refusal(self) -> str:
        """Return the predicate of an error message: ``unsafe content: …`` or ``is …, not an rlox checkpoint``."""
        if self.unsafe:
            return f"unsafe content: {', '.join(self.unsafe)} (it is {self.words})"
        if self.damaged:
            return f"is {self.words}"
        return f"is {self.words}, not an rlox checkpoint"


def kind_of(file: IO[bytes]) -> Kind:
    """Return what an open file, which is not an intact checkpoint, looks like."""
    file.seek(0)
    head = file.read(_LOOK)
    size = os.fstat(file.fileno()).st_size
    if head.startswith(b"PK\x03\x04"):
        return _zip(file, size, head)
    if any(head[at : at + 8] == _HDF5 for at in (0, 512, 1024, 2048)):
        return Kind("an HDF5 file")
    if head[257:262] == b"ustar":
        return _tar(file)
    for magic, words in _MAGICS.items():
        if head.startswith(magic):
            return Kind(words)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return Kind("a safetensors file")
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        words = "a PyTorch file of the format before 1.6" if _TORCH_LEGACY in head[:16] else "a Python pickle"
        return Kind(words, _names(_pickles(head)))
    return _text(head)


def damaged_part(file: IO[bytes]) -> str:
    """Return the part of a damaged checkpoint whose checksum is wrong, in words."""
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED:
                    return "its zip directory"
                with archive.open(info) as part:
                    try:
                        while part.read(_LOOK):
                            continue
                    except zipfile.BadZipFile:
                        return info.filename.split("/", 1)[-1]
    except Exception:
        # A damaged directory breaks zipfile in many ways, and each of them means the same.
        return "its zip directory"
    return "the space between its parts"


def _zip(file: IO[bytes], size: int, head: bytes) -> Kind:
    try:
        if _directory_bytes(file, size) > _MAX_DIRECTORY:
            return Kind("a zip archive with a huge directory")
        with zipfile.ZipFile(file) as archive:
            return _zip_content(archive)
    except Exception:
        # Whatever zipfile trips over, the words are the same.
        if b"data.pkl" not in head[:100]:
            return Kind("a zip archive that is cut off or damaged", damaged=True)
        return Kind("a cut off or damaged rlox checkpoint (or other PyTorch file)", damaged=True)


def _zip_content(archive: zipfile.ZipFile) -> Kind:
    names = archive.namelist()
    parts = {name.split("/", 1)[-1] for name in names}
    pickled = next((name for name in names if name.endswith("/data.pkl")), None)
    if "_stable_baselines3_version" in names or {"data", "policy.pth"} <= set(names):
        return Kind("a Stable-Baselines3 model (zip)")
    if "constants.pkl" in parts:
        return Kind("a TorchScript archive", ("TorchScript code",))
    if pickled is not None:
        with archive.open(pickled) as part:
            unsafe = _names([part.read(_LOOK)])
        if manifests.MEMBER in parts:
            return Kind("a damaged rlox checkpoint: its end is not where it should be", unsafe, damaged=True)
        return Kind("a PyTorch file that rlox did not write", unsafe)
    if names and all(name.endswith(".npy") for name in names):
        return Kind("NumPy arrays (.npz)")
    return Kind("a zip archive")


def _directory_bytes(file: IO[bytes], size: int) -> int:
    """Return the largest length of a zip directory that an end record in the last 64 KiB could mean."""
    file.seek(max(size - 2**16 - 22, 0))
    tail = file.read()
    starts = [len(tail) - 22, tail.rfind(b"PK\x05\x06")]
    return max(
        (int.from_bytes(tail[at + 12 : at + 16], "little") for at in starts if tail[at : at + 2] == b"PK"), default=0
    )


def _tar(file: IO[bytes]) -> Kind:
    parts: list[bytes] = []
    try:
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member, _ in zip(archive, range(16), strict=False):
                content = archive.extractfile(member) if member.isreg() else None
                if content is not None:
                    parts.extend(_pickles(content.read(_LOOK)))
    except Exception:
        # A damaged tar is still a tar.
        return Kind("a tar archive", _names(parts))
    return Kind("a tar archive, perhaps of an old PyTorch", _names(parts))


def _text(head: bytes) -> Kind:
    parts = list(_pickles(head))
    if parts and len(parts[0]) > 1:
        return Kind("a Python pickle", _names(parts))
    try:
        text = head[:4096].decode("utf-8")
    except UnicodeDecodeError as error:
        text = head[: error.start].decode("utf-8") if error.start > 4090 else "\0"
    if "\0" in text:
        return Kind("a file of an unknown kind")
    if text.startswith("version https://git-lfs"):
        return Kind("a Git LFS pointer: the file itself was not downloaded")
    return Kind("text")


def _pickles(data: bytes) -> Iterator[bytes]:
    """Yield the pickles that stand one after another at the start of ``data``, the last one perhaps cut off."""
    at = 0
    for _ in range(16):
        end = None
        try:
            for opcode, _, position in pickletools.genops(data[at:]):
                if opcode.name == "STOP" and position is not None:
                    end = at + position + 1
        except (ValueError, OverflowError):
            if data[at : at + 1] == b"\x80" and data[at + 1 : at + 2] <= b"\x05":
                yield data[at:]
            return
        if end is None:
            return
        yield data[at:end]
        at = end


def _names(pickles: Iterator[bytes] | list[bytes]) -> tuple[str, ...]:
    found = list(dict.fromkeys(name for pickled in pickles for name in unsafe_names(pickled)))
    return tuple(found[:_MAX_NAMES])
