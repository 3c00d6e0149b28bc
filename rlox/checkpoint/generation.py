"""Generations: states of a training in several files that are committed as one, so that there is always a whole one.

A folder holds the newest two generations. The parts of generation N are files of their own, or files of an earlier
generation that did not change; ``generation-<N>.json`` lists them with size and sha256, and ``manifest.json`` is a copy
of the newest list. A commit writes and syncs the new parts, the list and the folder, then replaces ``manifest.json``:
that one rename is the commit. Only then is deleted what neither N nor the generation before it names.

So a crash or power loss at any instant leaves the old generation or the new one, and damage to any file of the newest
leaves the one before it. Standard library alone; no torch.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ..errors import CheckpointError, CheckpointMismatchError, printable
from ..files import atomic_write, fsync_entry, fsync_folder, make_folder, remove_temporaries, write_error, write_new
from . import listing
from .archive import DIGEST_BYTES
from .parts import Part, is_part_file, part_file, read_part, regular_file, write_part

MANIFEST = "manifest.json"
MODEL = "model"  # the part whose own digest is kept as info["model_digest"]

_LIST = re.compile(r"generation-([0-9]{9})\.json")


@dataclass(frozen=True)
class Generation:
    """One whole state: every part was there and had its digest when this was handed out.

    Attributes
    ----------
    folder : Path
    number : int
        From 1 on, newer ones are higher.
    info : dict
        What was committed with it; ``model_digest`` is that of :func:`rlox.checkpoint.file_digest` of its model.
    parts : dict of Part
        By name.
    """

    folder: Path
    number: int
    info: dict[str, Any]
    parts: dict[str, Part]

    def path(self, name: str) -> Path:
        """Return the file of a part; CheckpointError when there is no such part."""
        return self.folder / self._part(name).file

    def read_into(self, name: str, out: Any) -> None:
        """Read a part into memory that has exactly its size.

        Parameters
        ----------
        name : str
        out : memoryview or array
            C-contiguous and writable.

        Raises
        ------
        CheckpointError
            No such part, another size, or damaged since it was verified; then ``out`` holds anything.
        """
        part, view = self._part(name), memoryview(out)
        if view.nbytes != part.size:
            raise CheckpointError(f"{printable(self.path(name))} has {part.size} bytes, {view.nbytes} are expected")
        read_part(self.folder, part, view.cast("B") if view.nbytes else view)

    def verify(self) -> None:
        """Read every part; CheckpointError names the first that is missing, of another size or of another digest."""
        for part in self.parts.values():
            read_part(self.folder, part)

    def _part(self, name: str) -> Part:
        if name not in self.parts:
            where = f"generation {self.number} in {printable(self.folder)}"
            raise CheckpointError(f"{where} has no part {printable(name, 80)}")
        return self.parts[name]


class Generations:
    """The generations in one folder.

    One process at a time commits: the one that holds the lock of the run.

    Parameters
    ----------
    folder : path-like
        Made by the first commit.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._known: Generation | None = None  # the last one that was committed or found here
        self._prepared = False  # whether the folder is there and durable, as far as this object knows

    def commit(
        self, info: Mapping[str, Any], parts: Mapping[str, Callable[[IO[bytes]], object] | None]
    ) -> Generation:
        """Make a new generation and return it once it is on disk.

        Parameters
        ----------
        info : mapping
            Anything that JSON gives back as it was; tuples become lists. ``model_digest`` is set here.
        parts : mapping
            What writes each part into an open binary file; None for a part that is as in the last generation that this
            object committed or found: the new one shares its file.

        Raises
        ------
        WriteError
            When the system refuses, naming the file and the sizes. The generations before are untouched.
        CheckpointError
            For a part that cannot be carried over or cannot be saved.
        """
        new: list[Path] = []
        text = b""
        if not os.path.isdir(self.folder):  # not made yet, or deleted: nothing that was known of it holds
            self._known, self._prepared = None, False
        try:
            before = self._known or self._found_quietly()
            made = {name: self._carried(name) for name, write in parts.items() if write is None}
            self._prepare(before)
            number = max(self._numbers(), default=0) + 1
            for name, write in parts.items():
                if write is not None:
                    made[name] = self._write(name, number, write, new)
            text = listing.encode(number, self._with_digest(info, made), made)
            _put(self.folder / _list_file(number), partial(_write, text), new)
            fsync_folder(self.folder)
            atomic_write(self.folder / MANIFEST, partial(_write, text))
        except BaseException as error:
            if not self._is_committed(text):
                _remove(new)
            refusal = _refusal(error)
            if refusal is not None:
                raise write_error(self.folder, refusal) from error
            raise
        self._known = Generation(self.folder, *listing.decode(text))
        self._delete_all_but([self._known, before])
        return self._known

    def newest(self) -> Generation | None:
        """Return the newest generation that is whole; None where none was ever committed.

        A RuntimeWarning names what is damaged where an older one has to be used.

        Raises
        ------
        CheckpointError
            There are generations, but none is whole.
        CheckpointMismatchError
            They were written by a newer version of rlox.
        """
        self._known = self._found(warn=True)
        return self._known

    def find(self, model_digest: str) -> Generation | None:
        """Return the generation whose model has this :func:`rlox.checkpoint.file_digest`; None where it is not kept.

        A RuntimeWarning names what is damaged where it might have been.
        """
        damage: list[str] = []
        for generation in self._candidates(damage):
            if generation.info.get("model_digest") == model_digest and _is_whole(generation, damage):
                self._known = generation
                break
        else:
            generation = None
        if damage:
            warnings.warn(f"{printable(self.folder)}: {_few(damage)}", RuntimeWarning, stacklevel=2)
        return generation

    def tidy(self) -> None:
        """Delete what a process left that was killed in a commit; only while nobody else commits.

        What cannot be read may be of use to somebody, so a folder whose lists are all damaged is left alone.
        """
        if not self.folder.is_dir():
            return
        try:
            fsync_folder(self.folder)  # what it shows as the newest is kept by a power loss before older ones are deleted
        except OSError as error:
            raise write_error(self.folder, error) from error
        remove_temporaries(self.folder)
        kept = list(islice(self._candidates([]), 2))
        if kept or not self._has_manifest():
            self._delete_all_but([*kept, self._known])

    def _found(self, *, warn: bool) -> Generation | None:
        damage: list[str] = []
        for generation in self._candidates(damage):
            if _is_whole(generation, damage):
                if damage and warn:
                    text = f"{printable(self.folder)}: {_few(damage)}; generation {generation.number} is used"
                    warnings.warn(text, RuntimeWarning, stacklevel=3)
                return generation
        if not self._has_manifest():
            return None  # whatever is there was never committed
        raise CheckpointError(f"no generation in {printable(self.folder)} is whole: {_few(damage)}")

    def _found_quietly(self) -> Generation | None:
        try:
            return self._found(warn=False)
        except CheckpointMismatchError:
            raise
        except CheckpointError:
            return None

    def _candidates(self, damage: list[str]) -> Iterator[Generation]:
        """Yield the generations with a readable list, not verified: the committed one, then older ones, newest first.

        Without a readable manifest there is no telling which was committed, so all count. What cannot be read goes to
        ``damage``.
        """
        committed = None
        if self._has_manifest():
            committed = self._listed(MANIFEST, damage)
            if committed is not None:
                yield committed
        for number in sorted(self._numbers(lists=True), reverse=True):
            if committed is None or number < committed.number:
                generation = self._listed(_list_file(number), damage)
                if generation is not None and generation.number == number:
                    yield generation
                elif generation is not None:
                    damage.append(f"{_list_file(number)} lists generation {generation.number}")

    def _listed(self, name: str, damage: list[str]) -> Generation | None:
        try:
            return Generation(self.folder, *listing.read(self.folder / name))
        except CheckpointMismatchError:
            raise  # a newer rlox has been here: nothing of it is damaged
        except CheckpointError as error:
            damage.append(error.message)
            return None

    def _has_manifest(self) -> bool:
        try:
            os.lstat(self.folder / MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True  # it may be there: reading it says why it cannot be read
        return True

    def _numbers(self, *, lists: bool = False) -> Iterator[int]:
        """Yield the numbers of the generations that the files in the folder were written for."""
        try:
            names = os.listdir(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise CheckpointError(f"cannot read {printable(self.folder)}: {error.strerror}") from error
        for name in names:
            match = _LIST.fullmatch(name)
            number = int(match[1]) if match else None if lists else is_part_file(name)
            if number is not None:
                yield number

    def _prepare(self, before: Generation | None) -> None:
        """Make certain, once, what a process that was killed may have left half done."""
        if self._prepared:
            return
        if not self.folder.is_dir():
            make_folder(self.folder)
        else:
            fsync_entry(self.folder)
            fsync_folder(self.folder)
        if before is not None and self._listed(MANIFEST, []) is None:  # it was killed in its first commit
            text = listing.encode(before.number, before.info, before.parts)
            for name in (_list_file(before.number), MANIFEST):
                atomic_write(self.folder / name, partial(_write, text))
        self._prepared = True

    def _carried(self, name: str) -> Part:
        """Return the part of the last known generation, after a look whether its file is there."""
        if self._known is None:
            raise CheckpointError(f"part {name} is unchanged, but no generation in {printable(self.folder)} is known")
        part, path = self._known._part(name), self._known.path(name)
        with regular_file(path) as (_, size):
            if size != part.size:
                raise CheckpointError(f"{printable(path)} has {size} bytes, must have {part.size}")
        return part

    def _write(self, name: str, number: int, write: Callable[[IO[bytes]], object], new: list[Path]) -> Part:
        path = self.folder / part_file(name, number)
        try:
            part = write_part(path, name, write)
        except CheckpointError as error:
            raise CheckpointError(f"cannot save {printable(path)}: {error.message}", value=str(path)) from error
        new.append(path)
        return part

    def _with_digest(self, info: Mapping[str, Any], parts: Mapping[str, Part]) -> dict[str, Any]:
        if MODEL not in parts:
            return dict(info)
        with open(self.folder / parts[MODEL].file, "rb") as file:
            file.seek(max(parts[MODEL].size - DIGEST_BYTES, 0))
            return {**info, "model_digest": file.read(DIGEST_BYTES).hex()}

    def _is_committed(self, text: bytes) -> bool:
        """Return whether ``manifest.json`` is this list already, so that its parts must stay."""
        try:
            return bool(text) and (self.folder / MANIFEST).read_bytes() == text
        except FileNotFoundError:
            return False
        except OSError:
            return True  # maybe: what stays without need is deleted later

    def _delete_all_but(self, generations: Iterable[Generation | None]) -> None:
        kept = set()
        for generation in generations:
            if generation is not None:
                kept |= {_list_file(generation.number), *(p.file for p in generation.parts.values())}
        with contextlib.suppress(OSError):
            names = [n for n in os.listdir(self.folder) if _LIST.fullmatch(n) or is_part_file(n) is not None]
            _remove(self.folder / name for name in names if name not in kept)


def folder_of(path: str | os.PathLike[str]) -> Path:
    """Return the folder of the generations whose model has this path.

    For a file in the ``checkpoints`` of a run directory it is the run's ``resume``, else one beside the file, of the
    same name with the ending ``.resume``.
    """
    path = Path(path)
    parent = Path(os.path.realpath(path.parent))  # ./checkpoints may be a link into a run
    run = parent.parent
    if parent.name == "checkpoints" and any((run / name).exists() for name in ("meta.json", "run.lock")):
        return run / "resume"
    return path.parent / f"{path.name if path.suffix == '.resume' else path.stem}.resume"


def _list_file(number: int) -> str:
    return f"generation-{number:09d}.json"


def _write(data: bytes, file: IO[bytes]) -> None:
    file.write(data)


def _put(path: Path, write: Callable[[IO[bytes]], object], new: list[Path]) -> None:
    """Write a new file and note it as ours; one that was there already is not."""
    write_new(path, write)
    new.append(path)


def _refusal(error: BaseException) -> OSError | None:
    """Return what the system said where it could not write, or not even look at what is there."""
    if isinstance(error, CheckpointError) and not isinstance(error.__cause__, FileNotFoundError):
        error = error.__cause__ or error
    return error if isinstance(error, OSError) else None


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _is_whole(generation: Generation, damage: list[str]) -> bool:
    try:
        generation.verify()
    except CheckpointError as error:
        damage.append(error.message)
        return False
    return True


def _few(damage: list[str]) -> str:
    more = len(damage) - 3
    return "; ".join(damage[:3]) + (f" and {more} more" if more > 0 else "")
