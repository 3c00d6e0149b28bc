"""Damaged and hostile generations: always found, never followed out of the folder, the one before is used with a warning."""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from committed import commit, commit_all, contents, model_digest, names, newest, newest_despite, put, state_of

from rlox.checkpoint import listing, parts
from rlox.checkpoint.generation import Generations
from rlox.checkpoint.parts import Part
from rlox.errors import CheckpointError, CheckpointMismatchError

NEW = ["model-000000003", "state-000000003"]  # what belongs to the newest generation alone
SHARED = ["rows.0000-000000002", "rows.0001-000000001"]
LISTS = ["manifest.json", "generation-000000003.json", "generation-000000002.json"]


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generations")
    commit_all(folder, 1, 2, 3)
    assert names(folder) == sorted([*LISTS, *NEW, "model-000000002", "state-000000002", *SHARED])
    return folder


@pytest.fixture
def folder(tmp_path: Path, whole_folder: Path) -> Path:
    """A folder with the second and the third state."""
    return Path(shutil.copytree(whole_folder, tmp_path / "resume"))


def expect(folder: Path, name: str) -> None:
    """Check what is made of a folder in which one file is damaged."""
    if name in SHARED:
        with pytest.raises(CheckpointError, match=name) as caught:
            newest(folder)
        assert caught.value.exit_code == 4 and type(caught.value) is CheckpointError
        return
    n, warned = newest_despite(folder)
    if name in NEW:
        assert n == 2 and len(warned) == 1 and name in warned[0] and "generation 2 is used" in warned[0]
    elif name == "manifest.json":
        assert n == 3 and len(warned) == 1 and name in warned[0] and "generation 3 is used" in warned[0]
    else:
        assert n == 3 and warned == []


def flip(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize("name", [*NEW, *SHARED, *LISTS])
def test_a_flipped_bit_is_found_in_every_file(folder: Path, name: str) -> None:
    random_, size = random.Random(0), (folder / name).stat().st_size
    whole = (folder / name).read_bytes()
    for at in [0, size - 1, *(random_.randrange(size) for _ in range(28))]:
        flip(folder / name, at, random_.randrange(8))
        expect(folder, name)
        (folder / name).write_bytes(whole)
    assert newest(folder) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NEW, *SHARED, *LISTS])
def test_every_flipped_bit_is_found_in_every_file(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for at in range(8 * len(whole)):
        flip(folder / name, at // 8, at % 8)
        expect(folder, name)
        (folder / name).write_bytes(whole)


@pytest.mark.parametrize("name", [*NEW, *SHARED, *LISTS])
@pytest.mark.parametrize("junk", [b"\0", b"\n", b"}", b"x" * 5000])
def test_appended_bytes_are_found_in_every_file(folder: Path, name: str, junk: bytes) -> None:
    with open(folder / name, "ab") as file:
        file.write(junk)
    expect(folder, name)


@pytest.mark.parametrize("name", [*NEW, *SHARED, *LISTS])
def test_a_file_cut_at_any_length_is_found(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for n in {0, 1, len(whole) - 1, *range(0, len(whole), 97)}:
        (folder / name).write_bytes(whole[:n])
        expect(folder, name)
    (folder / name).unlink()
    if name == "manifest.json":
        assert newest(folder) == 3  # as after a kill in the very first commit: nothing is known to be damaged
    else:
        expect(folder, name)


def test_parts_that_changed_places_are_found(folder: Path) -> None:
    files = [*NEW, "model-000000002", "state-000000002", *SHARED]
    for i, a in enumerate(files):
        for b in files[:i]:
            other = folder.with_name("copy")
            shutil.copytree(folder, other)
            os.rename(other / a, other / "x")
            os.rename(other / b, other / a)
            os.rename(other / "x", other / b)
            if {a, b} & set(SHARED) or {a[-1], b[-1]} == {"2", "3"}:  # something in both generations
                with pytest.raises(CheckpointError, match=f"{a}|{b}"):
                    newest(other)
            elif a in NEW:
                assert newest_despite(other)[0] == 2
            else:
                assert newest(other) == 3
            shutil.rmtree(other)


def test_a_part_of_an_older_generation_under_a_newer_name_is_found(folder: Path) -> None:
    shutil.copyfile(folder / "model-000000002", folder / "model-000000003")
    expect(folder, "model-000000003")


def test_a_list_under_the_number_of_another_generation_is_not_used(folder: Path) -> None:
    shutil.copyfile(folder / "generation-000000002.json", folder / "generation-000000003.json")
    (folder / "manifest.json").write_bytes(b"")
    n, warned = newest_despite(folder)
    assert n == 2 and "generation-000000003.json lists generation 2" in warned[0]


def test_when_nothing_is_whole_the_error_names_the_damage(folder: Path) -> None:
    for name in (*NEW, "state-000000002"):
        flip(folder / name, 5, 0)
    with pytest.raises(CheckpointError, match=r"no generation in .*resume is whole: model-000000003 .*; state-000000002"):
        newest(folder)
    for name in LISTS:
        (folder / name).write_bytes(b"[]")
    with pytest.raises(CheckpointError, match=r"is whole: manifest\.json is no list of a generation"):
        newest(folder)


def test_a_model_whose_generation_is_damaged_is_said_to_be_alone(folder: Path) -> None:
    flip(folder / "state-000000003", 0, 0)
    store = Generations(folder)
    with pytest.warns(RuntimeWarning, match="state-000000003 is damaged"):
        assert store.find(model_digest(3)) is None
    found = store.find(model_digest(2))
    assert found is not None and state_of(found) == 2


def test_a_save_after_a_fall_back_keeps_what_is_whole(folder: Path) -> None:
    flip(folder / "state-000000003", 0, 0)
    store = Generations(folder)
    with pytest.warns(RuntimeWarning):
        assert store.newest() is not None
    generation = commit(store, 3, after=2)
    assert generation.number == 4 and newest(folder) == 3
    assert not (folder / "state-000000003").exists()
    flip(folder / "state-000000004", 0, 0)
    assert newest_despite(folder)[0] == 2


def test_a_save_into_a_damaged_folder_of_another_process_keeps_what_is_whole(folder: Path) -> None:
    flip(folder / "state-000000003", 0, 0)
    commit(Generations(folder), 5, after=None)
    assert newest(folder) == 5
    flip(folder / "state-000000004", 0, 0)
    assert newest_despite(folder)[0] == 2


def test_a_save_into_a_folder_where_nothing_is_whole_starts_anew(folder: Path) -> None:
    for name in LISTS:
        (folder / name).write_bytes(b"x")
    commit(Generations(folder), 5, after=None)
    assert newest(folder) == 5 and len(names(folder)) == 6


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    real = path.with_name("real")
    real.write_bytes(SAVED[path.name])
    path.symlink_to(real)


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_socket(path: Path) -> None:
    os.mknod(path, 0o140644)


SAVED: dict[str, bytes] = {}


@pytest.mark.parametrize("make", [make_fifo, make_link, make_dangling_link, make_loop, make_socket, Path.mkdir])
@pytest.mark.parametrize("name", ["model-000000003", "rows.0001-000000001", "manifest.json", "generation-000000002.json"])
def test_only_regular_files_are_read(folder: Path, name: str, make: Callable[[Path], None]) -> None:
    SAVED[name] = (folder / name).read_bytes()
    (folder / name).unlink()
    make(folder / name)
    expect(folder, name)


def test_a_file_that_the_disk_cannot_read_counts_as_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def failing(path: Any, flags: int, mode: int = 0o777) -> int:
        if str(path).endswith("model-000000003"):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, flags, mode)

    monkeypatch.setattr(parts.os, "open", failing)
    n, warned = newest_despite(folder)
    assert n == 2 and "model-000000003 cannot be read: Input/output error" in warned[0]


def fields_of(folder: Path) -> dict[str, Any]:
    fields = json.loads((folder / "manifest.json").read_text())
    del fields["sha256"]
    return dict(fields)


def with_part(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields["parts"]["model"].update(changes)


def with_field(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields.update(changes)


HOSTILE: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (with_part(file="../secret"), "unsafe content: part model is in the file ../secret"),
    (with_part(file="/etc/passwd"), "unsafe content"),
    (with_part(file="x/model-000000003"), "unsafe content"),
    (with_part(file="model-000000003/../../secret"), "unsafe content"),
    (with_part(file="state-000000003"), "unsafe content"),
    (with_part(file="model-000000004"), "unsafe content"),
    (with_part(file="model-000000000"), "unsafe content"),
    (with_part(file="manifest.json"), "unsafe content"),
    (with_part(file="model-000000003\n"), "unsafe content"),
    (with_part(file="model-٠٠٠٠٠٠٠٠٣"), "unsafe content"),
    (with_part(file=None), "unsafe content"),
    (with_part(size=2**62), "has 4611686018427387904 bytes, at most"),
    (with_part(size=10**4000), "at most"),
    (with_part(size=2**39), "model-000000003 has 480 bytes, must have 549755813888"),
    (with_part(size=-1), "part model has -1 bytes"),
    (with_part(size=True), "part model has True bytes"),
    (with_part(size=480.0), "part model has 480.0 bytes"),
    (with_part(sha256="0" * 64), "digest mismatch"),
    (with_part(sha256="A" * 64), "part model has no digest"),
    (with_part(sha256=None), "part model has no digest"),
    (with_part(mode="0777"), "no proper entry for part model"),
    (lambda fields: fields["parts"]["model"].pop("size"), "no proper entry"),
    (lambda fields: fields["parts"].update({"../x": fields["parts"]["model"]}), "unsafe content: part ../x"),
    (lambda fields: fields["parts"].update({"\x1b[2J": []}), r"no proper entry for part \\x1b\[2J"),
    (with_field(parts=[]), "no info or no parts"),
    (with_field(info=None), "no info or no parts"),
    (with_field(number=0), "has the number 0"),
    (with_field(number=True), "has the number True"),
    (with_field(number="3"), "has the number 3"),
    (with_field(number=10**9), "has the number 1000000000"),
    (with_field(schema="rlox.checkpoint"), "is no list of a generation"),
]


@pytest.mark.parametrize(("change", "words"), HOSTILE)
def test_a_hostile_manifest_is_refused_and_the_list_is_used(
    folder: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    (folder.parent / "secret").write_bytes(contents(3)["model"])
    fields = fields_of(folder)
    change(fields)
    (folder / "manifest.json").write_bytes(listing._sealed(fields))
    with pytest.warns(RuntimeWarning, match=words) as caught:
        generation = Generations(folder).newest()
    assert generation is not None and state_of(generation) in (2, 3)
    assert all(len(str(w.message)) < 600 and str(w.message).isprintable() for w in caught)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\0" * 900, b"{}", b"[]", b"null", b"3", b'"x"', b"\xff\xfe{}", b"{" * 10, b"NaN",
        b"[" * 100_000, b'{"a":' * 100_000, b'{"schema": "rlox.generation", "schema": "rlox.generation"}',
        b'{"schema": "rlox.generation"}', b'{"schema": "rlox.generation", "number": ' + b"9" * 5000 + b"}",
        b'{"schema": "rlox.generation", "x": ' + b"[" * 63 + b"]" * 63 + b"}", b" " * (4 * 2**20 + 1),
        b'{"schema": "rlox.generation", "x": 1e999}', b'{"schema": "rlox.generation", "x": "\\ud800"}',
    ],
)  # fmt: skip
def test_a_manifest_that_is_no_list_is_refused_and_the_list_is_used(folder: Path, text: bytes) -> None:
    (folder / "manifest.json").write_bytes(text)
    n, warned = newest_despite(folder)
    assert n == 3 and len(warned) == 1 and "manifest.json" in warned[0]


def test_a_huge_manifest_is_not_read(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 2**40)
    n, warned = newest_despite(folder)
    assert n == 3 and "has 1099511627776 bytes, at most 4194304 are allowed" in warned[0]


def test_a_folder_of_a_newer_version_is_left_alone(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(listing._sealed({**fields_of(folder), "format": 2, "rlox": "9.9"}))
    before = names(folder)
    for use in (Generations.newest, Generations.tidy, lambda s: s.find(model_digest(3)), lambda s: commit(s, 4, after=None)):
        with pytest.raises(CheckpointMismatchError, match=r"manifest\.json has format version 2, this rlox reads 1") as caught:
            use(Generations(folder))
        assert caught.value.exit_code == 5 and "9.9" in str(caught.value.hint)
    assert names(folder) == before


def test_every_flipped_bit_of_a_list_is_found() -> None:
    part = Part("rows.0012", "rows.0012-000000004", 7, "0a" * 32)
    text = listing.encode(12, {"é": [0.1, -3, None, True, "x\n"]}, {"rows.0012": part})
    assert listing.decode(text) == (12, {"é": [0.1, -3, None, True, "x\n"]}, {"rows.0012": part})
    for at in range(8 * len(text)):
        flipped = bytearray(text)
        flipped[at // 8] ^= 1 << at % 8
        with pytest.raises(CheckpointError) as caught:
            listing.decode(bytes(flipped))
        assert type(caught.value) is CheckpointError


def test_sealed_nonsense_raises_nothing_but_checkpoint_errors(folder: Path) -> None:
    random_, whole = random.Random(0), fields_of(folder)
    values = [None, True, -1, 0, 3, 2**70, 0.5, "", "model", "../x", "a" * 300, [], {}, [[]], {"file": "x"}, "\x1b\ud800"]

    def places(value: Any) -> list[tuple[Any, Any]]:
        inside = [(value, key) for key in (value if isinstance(value, dict) else range(len(value)))]
        return inside + [p for v, k in inside if isinstance(v[k], dict | list) for p in places(v[k])]

    refused = 0
    for _ in range(400):
        fields = copy.deepcopy(whole)
        for _ in range(random_.randint(1, 3)):
            where, key = random_.choice(places(fields))
            if random_.random() < 0.2 and isinstance(where, dict):
                where[random_.choice(["", "..", "sha256", "model", "x" * 99])] = where.pop(key)
            else:
                where[key] = copy.deepcopy(random_.choice(values))
        (folder / "manifest.json").write_bytes(listing._sealed(fields))
        with contextlib.suppress(CheckpointError):
            generation = next(iter(Generations(folder)._candidates([])), None)
            assert generation is not None
            for part in generation.parts.values():
                assert os.path.dirname(os.path.normpath(folder / part.file)) == str(folder)
        try:
            listing.read(folder / "manifest.json")
        except CheckpointError as error:
            refused += 1
            assert str(error).isprintable()
    assert refused > 200


def test_hundreds_of_lists_are_no_trouble(folder: Path) -> None:
    for n in range(100, 400):
        (folder / f"generation-{n:09d}.json").write_bytes(b"x")
    (folder / "manifest.json").write_bytes(b"")
    n, warned = newest_despite(folder)
    assert n == 3 and "and 298 more; generation 3 is used" in warned[0] and len(warned[0]) < 600


def test_numbers_of_generations_end(tmp_path: Path) -> None:
    store = commit_all(tmp_path, 1)
    (tmp_path / "state-999999999").touch()
    with pytest.raises(CheckpointError, match="at most 999999999 are possible"):
        store.commit({}, {"state": put(b"x")})
    store.tidy()
    assert commit(store, 2, after=1).number == 2
