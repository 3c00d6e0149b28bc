"""Curves drawn with characters: what is where, at any width, with and without Unicode and colours."""

from __future__ import annotations

import math
import re

import pytest

from rlox.cli._plot import Line, draw, legend_mark, letter_of

UP = Line("up", [0, 5000, 10000], [-100.0, -50.0, 0.0])
DOWN = Line("down", [0, 5000, 10000], [0.0, -50.0, -100.0])
BAND = Line("band", [0, 10000], [5.0, 5.0], [0.0, 2.0], [10.0, 8.0])


def plot(*lines, width=40, height=9, **options):
    return draw(lines, width=width, height=height, x_label="environment steps", **options)


def body(rows):
    """The rows of the curves, without the axis on the left."""
    return [re.split(r"[|+│┤]", row, maxsplit=1)[1] for row in rows[:-3]]


def test_a_rising_curve_goes_from_below_left_to_above_right():
    assert plot(UP, unicode=False) == [
        "   0+                                ***",
        "    |                            ****",
        "    |                        ****",
        "    |                    ****",
        " -50+               *****",
        "    |           ****",
        "    |       ****",
        "    |   ****",
        "-100+***",
        "    ++----------------+----------------+",
        "     0               5k              10k",
        "              environment steps",
    ]


def test_in_ascii_there_is_nothing_else():
    assert all(row.isascii() for row in plot(UP, BAND, unicode=False))


def test_with_unicode_curves_are_braille_and_bands_are_shaded():
    text = "\n".join(plot(BAND))
    assert any(0x2800 < ord(c) < 0x2900 for c in text) and "░" in text and "└" in text


@pytest.mark.parametrize("width", [30, 40, 80, 200])
@pytest.mark.parametrize("unicode", [True, False])
def test_no_row_is_wider_than_the_terminal(width, unicode):
    for lines in ((UP,), (UP, DOWN, BAND), (Line("", [1e9, 2e9], [1e-9, 3e-9]),)):
        assert max(map(len, plot(*lines, width=width, unicode=unicode))) <= width


def test_several_curves_carry_their_letters():
    text = "".join(body(plot(UP, DOWN, width=80)))
    assert text.count("A") >= 2 and text.count("B") >= 2
    assert "A" not in "".join(body(plot(UP, width=80)))


def test_each_curve_ends_with_its_letter_even_where_two_end_together():
    same = Line("same", UP.x, UP.y)
    top = "".join(body(plot(UP, same, width=80, height=6)))
    assert "A" in top and "B" in top


def test_the_band_lies_between_its_ends():
    rows = body(plot(BAND, height=11, unicode=False))
    assert rows[0].startswith(":") and rows[-1].startswith(":")
    ends = [len(row.rstrip()) for row in rows]
    assert ends[:5] == sorted(ends[:5]) and ends[0] < ends[1] < ends[5]  # it narrows to the right


def test_colours_are_there_only_when_asked_for():
    assert "\x1b" not in "".join(plot(UP, DOWN))
    colored = "".join(plot(UP, DOWN, color=True))
    assert "\x1b[38;5;32m" in colored and "\x1b[38;5;166m" in colored
    assert legend_mark(1, 2, True) == "\x1b[38;5;166mB\x1b[0m" and legend_mark(1, 2, False) == "B"


def test_without_colours_the_drawing_is_the_same():
    plain, colored = plot(UP, DOWN, BAND), plot(UP, DOWN, BAND, color=True)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", row) for row in colored] == plain


@pytest.mark.parametrize(
    "line",
    [
        Line("one point", [5.0], [3.0]),
        Line("constant", [0.0, 1.0], [2.0, 2.0]),
        Line("zero", [0.0, 0.0], [0.0, 0.0]),
        Line("gap", [0, 1, 2, 3], [1.0, math.nan, 2.0, 3.0]),
        Line("huge", [0, 1], [-1e300, 1e300]),
        Line("tiny", [1e6, 1e6 + 1e-3], [1.0, 1.0 + 1e-12]),
        Line("no band at its start", [0, 1, 2], [1.0, 2.0, 3.0], [math.nan, 1.0, 2.0], [math.nan, 3.0, 4.0]),
    ],
    ids=lambda line: line.label,
)
@pytest.mark.parametrize("unicode", [True, False])
def test_odd_curves_are_drawn_too(line, unicode):
    rows = plot(line, unicode=unicode)
    assert len(rows) == 9 + 3 and sum(len(row.strip(" │|┤+")) > 0 for row in rows[:-3]) >= 1


def test_a_single_point_can_be_seen():
    assert "".join(body(plot(Line("", [5.0], [3.0]), unicode=False))).count("*") == 1
    assert "*" in "".join(plot(Line("", [5.0], [3.0])))


def test_a_gap_stays_empty():
    rows = body(plot(Line("", [0, 1, 2, 3], [1.0, 1.0, math.nan, 1.0]), unicode=False))
    line = next(row for row in rows if "*" in row)
    assert "*   " in line and line.rstrip().endswith("*")


@pytest.mark.parametrize(
    "left, right, shown",
    [(0, 20000, ["0", "10k", "20k"]), (0, 1e6, ["0", "0.5M", "1M"]), (0, 1, ["0", "0.5", "1"]), (0, 6e9, ["0", "2G", "6G"])],
)
def test_numbers_on_the_axis_are_round_and_short(left, right, shown):
    words = plot(Line("", [left, right], [0.0, 1.0]), width=44)[-2].split()
    assert set(shown) <= set(words)


def test_letters_run_on():
    assert [letter_of(i, 60) for i in (0, 25, 26, 51, 52)] == ["A", "Z", "a", "z", "A"]
    assert letter_of(0, 1) == "*"
