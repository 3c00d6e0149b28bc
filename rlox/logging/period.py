"""Something that happens every so many steps: it fires when a multiple of the period is crossed, wherever steps land."""

from __future__ import annotations

from ..errors import ConfigError


class Period:
    """A period in steps.

    With several environments a step count jumps, so ``step % every == 0`` may never hold. This compares how many
    whole periods lie before the step seen last and before this one. All state is that one number.

    Parameters
    ----------
    every : int
        Steps; 0 never fires.
    last : int
        The step seen last.

    >>> period = Period(10)
    >>> [step for step in range(4, 60, 4) if period.crossed(step)]
    [12, 20, 32, 40, 52]
    """

    __slots__ = ("every", "last")

    def __init__(self, every: int, last: int = 0) -> None:
        self.every = every
        self.last = last

    def crossed(self, step: int) -> bool:
        """Return whether a multiple was crossed since the last call; a step that went back starts over from there."""
        last, self.last = self.last, step
        return self.every > 0 and step // self.every > last // self.every

    @property
    def next_due(self) -> int:
        """The first step at which :meth:`crossed` will be true, for ``every`` ≥ 1."""
        return (self.last // self.every + 1) * self.every


def check_period(value: int, name: str, *, minimum: int = 0) -> int:
    """Return a count of steps or episodes as an int, or raise ConfigError when it is none or below ``minimum``."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ConfigError(f"{name} is {value!r}, must be an integer of at least {minimum}", param=name, value=value)
    number = int(value.__index__())
    if number < minimum:
        raise ConfigError(f"{name} is {number}, must be at least {minimum}", param=name, value=value)
    return number
