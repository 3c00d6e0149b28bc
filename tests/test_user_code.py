"""Code that the user names: modules of the working folder, and files with their neighbours."""

from __future__ import annotations

import os
import sys

import pytest

from rlox.errors import EnvError, NotFoundError
from rlox.user_code import UserCodeError, import_file, import_module


def test_a_module_of_the_working_folder_is_found_and_the_path_is_left_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside_the_user.py").write_text("x = 3")
    before = list(sys.path)
    assert import_module("beside_the_user").x == 3
    assert sys.path == before
    del sys.modules["beside_the_user"]


def test_a_file_finds_its_neighbours_and_is_imported_once(tmp_path):
    (tmp_path / "the_neighbour.py").write_text("y = 4")
    (tmp_path / "the_file.py").write_text("from the_neighbour import y")
    first = import_file(str(tmp_path / "the_file.py"))
    assert first.y == 4 and import_file(str(tmp_path / "the_file.py")) is first
    del sys.modules["the_neighbour"], sys.modules[first.__name__]


@pytest.mark.parametrize("name", ["no_such_module", "no_such_package.inner", "", ".relative"])
def test_a_module_that_is_not_there_is_code_3(name):
    with pytest.raises(NotFoundError, match="no module") as caught:
        import_module(name, param="--import")
    assert (caught.value.exit_code, caught.value.param) == (3, "--import")


@pytest.mark.parametrize("path", ["nowhere.py", "a" * 300 + ".py", "nul\0.py"], ids=["absent", "long", "nul"])
def test_a_file_that_is_not_there_is_code_3(path):
    with pytest.raises(NotFoundError, match="does not exist"):
        import_file(path)


@pytest.mark.parametrize("code", ["1 / 0", "import no_such_dependency", "def f(:", "raise ValueError('no')"])
def test_code_that_raises_is_code_7_in_the_kind_that_was_asked_for(tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it_raises.py").write_text(code)
    for load, what in ((import_module, "it_raises"), (import_file, "it_raises.py")):
        with pytest.raises(UserCodeError, match=f"importing {what} failed: ") as caught:
            load(what)
        assert caught.value.exit_code == 7
        with pytest.raises(EnvError):
            load(what, failed=EnvError)
    assert not [name for name in sys.modules if name.endswith("it_raises_py")]


def test_a_working_folder_that_is_gone_is_no_reason_to_fail(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    os.rmdir(tmp_path / "gone")
    with pytest.raises(NotFoundError, match="no module 'no_such_module'"):
        import_module("no_such_module")
