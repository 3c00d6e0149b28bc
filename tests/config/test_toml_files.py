"""The TOML of configs: what is read, refused and written."""

from __future__ import annotations

import os
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlox.config.toml import dumps, read_toml
from rlox.errors import ConfigError, NotFoundError

SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab. é\"'"), inner, max_size=3)
)


@given(st.dictionaries(st.sampled_from(["run", "algo"]), st.dictionaries(st.text("ab_-. é"), VALUES, max_size=4)))
def test_what_is_written_reads_back_equal(tables):
    written = dumps(tables, comments=("one line",))
    assert tomllib.loads(written) == {name: values for name, values in tables.items() if values}


def test_the_line_of_a_key_is_known(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('# top\n[run]\nsteps = 5\n\n["Pendulum-v1".algo]\n"learning_rate" = 1e-3\n')
    document = read_toml(path)
    assert document.where("run", "steps") == "a.toml:3"
    assert document.where("Pendulum-v1", "algo", "learning_rate") == "a.toml:6"
    assert document.where("run", "gone") == "a.toml:2"
    assert document.where("gone") == "a.toml"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"[run]\nsteps = \n", "line 2, column 9"),
        (b"\x89HDF\r\n\x1a\n\xff\xfe", "is not a text file"),
        (b"x = " + b"[" * 100_000, "nested too deeply"),
        (b"x = " + b"9" * 5000, "is not valid TOML"),
        (b"a: !!python/object/apply:os.system ['touch canary']\n", "line 1"),
        (b"# " + b"x" * 1_000_001, "must be at most 1000000"),
    ],
)
def test_what_is_not_toml_is_refused_in_one_line(tmp_path, monkeypatch, content, said):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_toml(path)
    assert said in error.value.message
    assert "\n" not in error.value.message
    assert os.listdir(tmp_path) == ["bad.toml"]


def test_a_huge_file_is_refused_unread(tmp_path):
    path = tmp_path / "huge.toml"
    with path.open("wb") as f:
        f.truncate(10**9)
    with pytest.raises(ConfigError, match="has 1000000000 bytes"):
        read_toml(path)


def test_a_yaml_file_gets_a_hint(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("algo:\n  gamma: 0.9\n")
    with pytest.raises(ConfigError) as error:
        read_toml(path)
    assert "configs are TOML" in (error.value.hint or "")


@pytest.mark.parametrize("name", ["missing.toml", ".", "a\0b", "x" * 300])
def test_a_file_that_is_not_there_is_not_found(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError):
        read_toml(name)


def test_a_pipe_is_not_opened(tmp_path):
    path = tmp_path / "pipe.toml"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="not a plain file"):
        read_toml(path)
