"""The tree of errors, and text from strangers made printable."""

from __future__ import annotations

import traceback

import pytest

from rlox import errors
from rlox.errors import RloxError, closest, printable

CODES = {
    "RloxError": 1,
    "ConfigError": 2,
    "NotFoundError": 3,
    "EnvError": 7,
    "EnvNotFoundError": 3,
    "SpaceError": 5,
    "DatasetError": 4,
    "DatasetNotFoundError": 3,
    "DatasetMismatchError": 5,
    "CheckpointError": 4,
    "CheckpointNotFoundError": 3,
    "CheckpointMismatchError": 5,
    "RunError": 4,
    "WriteError": 6,
    "DivergedError": 7,
    "MissingDependencyError": 8,
    "CheckError": 9,
}


def tree() -> dict[str, type]:
    return {k: v for k, v in vars(errors).items() if isinstance(v, type) and issubclass(v, RloxError)}


def test_every_error_has_the_exit_code_of_the_table():
    assert {name: cls.exit_code for name, cls in tree().items()} == CODES


def test_the_docstring_draws_every_error_with_its_code():
    lines = errors.__doc__.splitlines()
    for name, code in CODES.items():
        drawn = [line.split() for line in lines if name in line.split()]
        assert len(drawn) == 1, name
        assert str(code) in drawn[0], name


def test_a_config_error_is_also_a_value_error():
    with pytest.raises(ValueError, match="gamma"):
        raise errors.ConfigError("gamma is 2, must be in [0, 1]")


def test_an_error_carries_hint_param_value_and_suggestions():
    error = RloxError("message", hint="do this", param="--x", value=3, suggestions=iter(["a", "b"]))
    assert (str(error), error.message, error.hint, error.param, error.value) == ("message", "message", "do this", "--x", 3)
    assert error.suggestions == ("a", "b")


def test_a_traceback_shows_the_hint_once_and_the_text_of_the_error_does_not():
    error = errors.ConfigError("tau is 2, must be at most 1", hint="lower it")
    assert str(error) == "tau is 2, must be at most 1"
    assert "".join(traceback.format_exception(error)).splitlines()[-2:] == [
        "rlox.errors.ConfigError: tau is 2, must be at most 1",
        "hint: lower it",
    ]
    assert not hasattr(errors.ConfigError("x"), "__notes__")


def test_closest_finds_near_names_best_first_whatever_the_case():
    assert closest("LEARNING_RAT", ["learning_rate", "learning_starts", "gamma"])[0] == "learning_rate"
    assert closest("xyz", ["learning_rate", "gamma"]) == []
    assert len(closest("ab", ["ab1", "ab2", "ab3", "ab4"], n=2)) == 2


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain é 漢 🎲", "plain é 漢 🎲"),
        ("a\tb", "a\tb"),
        ("a\nb\rc", "a\\nb\\rc"),
        ("\x1b[31mred\x07\x7f", "\\x1b[31mred\\x07\\x7f"),
        ("\x85\x9b", "\\x85\\x9b"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("\u200f\u061c", "\\u200f\\u061c"),
        ("one\u2028two\u2029", "one\\u2028two\\u2029"),
        ("\ud800", "\\ud800"),
        (b"\xffok", "\\xffok"),
        (3.5, "3.5"),
    ],
)
def test_printable_escapes_what_could_move_the_cursor_or_hide(raw, shown):
    assert printable(raw) == shown


def test_printable_text_is_one_line_and_can_be_encoded():
    everything = "".join(map(chr, range(0x3000))) + "\ud83d"
    shown = printable(everything, limit=10**6)
    assert shown.splitlines() == [shown]
    shown.encode("utf-8")


def test_printable_cuts_long_text_and_names_its_length():
    assert printable("x" * 300) == "x" * 200 + "… (300 characters)"
    assert printable("x" * 200) == "x" * 200
