"""Curves drawn with characters: Braille dots and shaded bands, or plain ASCII where the terminal has nothing else.

Each of several curves carries its letter along the line, so that they can be told apart without colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

MIN_WIDTH = 30
# Okabe and Ito's colours as near as a terminal of 256 has them, told apart with any colour vision.
_COLORS = (32, 166, 36, 214, 175, 74, 227, 245)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a Braille character, by row and column
_BRAILLE = 0x2800
_UNICODE = {"corner": "└", "side": "│", "tick": "┤", "bottom": "─", "mark": "┬", "band": "░"}
_ASCII = {"corner": "+", "side": "|", "tick": "+", "bottom": "-", "mark": "+", "band": ":"}


@dataclass(frozen=True)
class Line:
    """One curve: points from left to right, and a band around them that is NaN where there is none."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class _Frame:
    """Where the numbers are on a canvas of ``width`` by ``height`` characters."""

    left: float
    right: float
    bottom: float
    top: float
    width: int
    height: int

    def x_of(self, column: float, dots: int) -> float:
        """Return the value in the middle of a column of dots."""
        return self.left + (column + 0.5) / (self.width * dots) * (self.right - self.left)

    def column(self, x: float, dots: int = 1) -> int:
        share = (x - self.left) / (self.right - self.left)
        return min(max(int(share * self.width * dots), 0), self.width * dots - 1)

    def row(self, y: float, dots: int = 1) -> int:
        """Return the row from above."""
        share = (self.top - y) / (self.top - self.bottom)
        return min(max(int(share * self.height * dots), 0), self.height * dots - 1)


class _Canvas:
    """Characters with a colour each; what is drawn later lies on top."""

    def __init__(self, width: int, height: int) -> None:
        self.chars = [[" "] * width for _ in range(height)]
        self.colors: list[list[int | None]] = [[None] * width for _ in range(height)]

    def put(self, row: int, column: int, char: str, color: int | None) -> None:
        self.chars[row][column] = char
        self.colors[row][column] = color

    def text(self, row: int) -> str:
        cells = groupby(zip(self.chars[row], self.colors[row], strict=True), key=lambda cell: cell[1])
        parts = (("".join(char for char, _ in run), color) for color, run in cells)
        return "".join(text if color is None else _colored(text, color) for text, color in parts)


def draw(lines: Sequence[Line], *, width: int, height: int, x_label: str, unicode: bool = True, color: bool = False) -> list[str]:
    """Return the rows of a plot with its axes.

    Parameters
    ----------
    lines : sequence of Line
        At least one has a point that is finite.
    width : int
        Columns of the whole, ≥ 30.
    height : int
        Rows of the curves, ≥ 4.
    x_label : str
    unicode, color : bool
        Whether the terminal shows Braille, and colours.
    """
    signs = _UNICODE if unicode else _ASCII
    bottom, top = _extent([v for line in lines for v in (*line.y, *line.low, *line.high)])
    y_ticks = _ticks(bottom, top, max(2, height // 3))
    gutter = max(len(_number(v, y_ticks)) for v in y_ticks)
    left, right = _extent([x for line in lines for x in line.x], margin=0.0)
    frame = _Frame(left, right, bottom, top, width - gutter - 1, height)
    canvas = _Canvas(frame.width, height)
    for i, line in enumerate(lines):
        _draw_band(canvas, frame, line, signs["band"], _color(i) if color else None)
    for i, line in enumerate(lines):
        _draw_line(canvas, frame, line, letter_of(i, len(lines)), unicode, _color(i) if color else None)
    if len(lines) > 1:
        for i, line in enumerate(lines):
            _draw_letters(canvas, frame, line, i, len(lines), _color(i) if color else None)
    labels = {frame.row(v): _number(v, y_ticks) for v in y_ticks}
    rows = [
        f"{labels.get(r, ''):>{gutter}}{signs['tick' if r in labels else 'side']}{canvas.text(r)}".rstrip()
        for r in range(height)
    ]
    return [*rows, *_x_axis(frame, gutter, signs, x_label)]


def legend_mark(i: int, n: int, color: bool) -> str:
    """Return what stands before the name of a curve in a legend."""
    mark = letter_of(i, n) if n > 1 else " "
    return _colored(mark, _color(i)) if color and n > 1 else mark


def letter_of(i: int, n: int) -> str:
    """Return the letter of a curve, a star for the only one."""
    return _LETTERS[i % len(_LETTERS)] if n > 1 else "*"


def _draw_band(canvas: _Canvas, frame: _Frame, line: Line, sign: str, color: int | None) -> None:
    if not line.low:
        return
    for column in range(frame.width):
        x = frame.x_of(column, 1)
        low, high = _at(line.x, line.low, x), _at(line.x, line.high, x)
        if low is not None and high is not None:
            for row in range(frame.row(high), frame.row(low) + 1):
                canvas.put(row, column, sign, color)


def _draw_line(canvas: _Canvas, frame: _Frame, line: Line, letter: str, unicode: bool, color: int | None) -> None:
    """Draw a curve as Braille dots, in ASCII with its letter."""
    across, down = (2, 4) if unicode else (1, 1)
    dots: dict[tuple[int, int], int] = {}
    for column, row in _trace(frame, line, across, down):
        cell = row // down, column // across
        dots[cell] = dots.get(cell, 0) | _DOTS[row % 4][column % 2]
    alone = len(line.x) == 1
    for (row, column), bits in dots.items():
        canvas.put(row, column, letter if alone or not unicode else chr(_BRAILLE | bits), color)


def _trace(frame: _Frame, line: Line, across: int, down: int) -> Iterator[tuple[int, int]]:
    """Yield (column, row) of every dot of a curve, steep parts filled in."""
    before: int | None = None
    for column in range(frame.width * across):
        y = _at(line.x, line.y, frame.x_of(column, across))
        if y is None:
            before = None
            continue
        row = frame.row(y, down)
        start = row if before is None else before + (row > before) - (row < before)
        for r in range(min(start, row), max(start, row) + 1):
            yield column, r
        before = row
    for x, y in zip(line.x, line.y, strict=True):  # a point between two columns, or without a neighbour
        if math.isfinite(y):
            yield frame.column(x, across), frame.row(y, down)


def _draw_letters(canvas: _Canvas, frame: _Frame, line: Line, i: int, n: int, color: int | None) -> None:
    """Put the letter of a curve on it: now and then, each curve at columns of its own, and at its end."""
    known = [x for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    if not known:
        return
    end = frame.column(known[-1])
    every = max(12, 2 * n)
    first = frame.column(known[0]) + (every * (2 * i + 1)) // (2 * n)
    for column in [*range(first, max(end - 3, first), every), end]:
        y = _at(line.x, line.y, known[-1] if column == end else frame.x_of(column, 1))
        if y is not None:
            row = frame.row(y)
            taken = column == end and canvas.chars[row][column] in _LETTERS  # another curve ends here too
            canvas.put(row, max(column - i, 0) if taken else column, letter_of(i, n), color)


def _x_axis(frame: _Frame, gutter: int, signs: dict[str, str], label: str) -> list[str]:
    """Return the line below the curves, its numbers, and what they are."""
    ticks = _ticks(frame.left, frame.right, max(2, frame.width // 12))
    line, numbers = [signs["bottom"]] * frame.width, [" "] * frame.width
    free = 0
    for value in ticks:
        text, column = _number(value, ticks), frame.column(value)
        begin = min(max(column - len(text) // 2, 0), frame.width - len(text))
        if begin >= free and text:
            line[column] = signs["mark"]
            numbers[begin : begin + len(text)] = text
            free = begin + len(text) + 1
    pad = " " * (gutter + 1)
    return [
        f"{' ' * gutter}{signs['corner']}{''.join(line)}",
        f"{pad}{''.join(numbers)}".rstrip(),
        f"{pad}{label[: frame.width].center(frame.width)}".rstrip(),
    ]


def _at(xs: Sequence[float], ys: Sequence[float], x: float) -> float | None:
    """Return the value at x on the straight lines between the points; None outside of them and where there is none."""
    if not xs or x < xs[0] or x > xs[-1]:
        return None
    low, high = 0, len(xs) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if xs[middle] <= x else (low, middle)
    if xs[high] == xs[low]:
        y = ys[low]
    else:
        share = (x - xs[low]) / (xs[high] - xs[low])
        y = ys[low] * (1 - share) + ys[high] * share if 0 < share < 1 else ys[high] if share >= 1 else ys[low]
    return y if math.isfinite(y) else None


def _extent(values: Sequence[float], margin: float = 0.02) -> tuple[float, float]:
    """Return an interval around all finite values that has a length."""
    known = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(known), max(known)
    if low == high:
        reach = abs(low) / 2 or 0.5
        return low - reach, high + reach
    return low - margin * (high - low), high + margin * (high - low)


def _ticks(low: float, high: float, n: int) -> list[float]:
    """Return round numbers in an interval, about n of them."""
    power = 10.0 ** math.floor(math.log10((high - low) / n))
    step = min((f * power for f in (1, 2, 2.5, 5, 10)), key=lambda s: abs((high - low) / s - n))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)] or [low]


def _number(value: float, ticks: Sequence[float]) -> str:
    """Return a tick's number, thousands as k, M or G, with as many digits as tell it from the next."""
    largest = max(map(abs, ticks))
    units = ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))
    scale, unit = next(((scale, unit) for least, scale, unit in units if largest >= least), (1.0, ""))
    step = (ticks[1] - ticks[0] if len(ticks) > 1 else largest or 1.0) / scale
    digits = max(0, 1 - math.floor(math.log10(step)))
    if digits > 9 or largest / scale >= 1e9:
        return f"{value:.3g}"
    text = f"{value / scale:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text}{unit}" if text not in ("0", "-0") else "0"


def _color(i: int) -> int:
    return _COLORS[i % len(_COLORS)]


def _colored(text: str, color: int) -> str:
    return f"\x1b[38;5;{color}m{text}\x1b[0m"
