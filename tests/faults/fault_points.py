"""What goes wrong inside of a run, called by run_server.py in the run's own process before it starts.

``where`` names the place, ``nth`` or ``step`` the time; then something happens there, once.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import resource
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any


def send(signals: list[str], group: bool = False, **when: Any) -> None:
    """Send these signals to the run itself, or to its group, which has its worker processes too."""

    def act() -> None:
        for name in signals:
            number = getattr(signal, name)
            if group:
                os.killpg(0, number)
            else:
                signal.raise_signal(number)

    _later(act, **when)


def send_twice(first: dict[str, Any], second: dict[str, Any] | None, marker: str, photo: str, hang: bool = False) -> None:
    """Send one signal and another one later; an interpreter that ends by itself makes ``marker``.

    ``hang``: nothing that the run says or writes on its way out comes to an end.
    """
    import atexit

    from rlox.loop import Interrupt
    from rlox.runs.directory import Run

    Interrupt.TOGETHER_S = 0.0
    atexit.register(Path(marker).touch)
    send(**first, photo=photo)
    if second is not None:
        send(**second)
    if hang:
        old = Run.status

        def status(self: Any, *args: Any, at_once: bool = False, **more: Any) -> None:
            if at_once:
                signal.sigwait([signal.SIGUSR2])
            old(self, *args, **more)

        Run.status = status  # type: ignore[method-assign]


def leave_at_once() -> None:
    """Take two signals for two requests, however soon the second one comes."""
    from rlox.loop import Interrupt

    Interrupt.TOGETHER_S = 0.0


def _later(act: Callable[[], object], where: str, photo: str | None = None, **when: int) -> None:
    """Call ``act`` at that place and time, after a photograph of what was saved."""

    def both() -> None:
        if photo is not None:
            _photograph(photo)
        act()

    _hook(where, both, **when)


def _photograph(photo: str) -> None:
    """Write down what the newest generation and the checkpoints of the run are now."""
    from fault_runs import last_saved

    Path(photo).write_text(json.dumps(last_saved(_algorithms[-1].run.path)))


def limit_files(size: int, **when: Any) -> None:
    """Let no file grow beyond ``size`` bytes from then on."""
    _later(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY)), **when)


def limit_descriptors(**when: Any) -> None:
    """Let nothing more be opened from then on."""

    def act() -> None:
        used = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with contextlib.suppress(OSError):
            while True:  # fill the gaps
                os.open(os.devnull, os.O_RDONLY)

    _later(act, **when)


def fill_disk(after: int, error: str = "ENOSPC", **when: Any) -> None:
    """Let the disk be full, so many bytes after that time."""
    from rlox import files

    left = [after]

    def act() -> None:
        old = os.fdopen

        def fdopen(fd: int, *args: Any, **kwargs: Any) -> Any:
            return _Full(old(fd, *args, **kwargs), left, getattr(errno, error))

        files.os = types.SimpleNamespace(**{**vars(os), "fdopen": fdopen})

    _later(act, **when)


def signal_on_full_disk(name: str, **when: Any) -> None:
    """Send a signal, and let the disk be full by then."""
    fill_disk(after=100, **when)
    send([name], **{**when, "photo": None})


class _Full:
    """A file on a disk that has so many bytes left."""

    def __init__(self, file: Any, left: list[int], error: int) -> None:
        self._file, self._left, self._error = file, left, error

    def write(self, data: Any) -> int:
        room = self._left[0]
        self._left[0] -= memoryview(data).nbytes
        if self._left[0] < 0:
            self._file.write(memoryview(data).cast("B")[: max(room, 0)])
            raise OSError(self._error, os.strerror(self._error))
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Full:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def refuse_logs(step: int, until: int) -> None:
    """Have no room for ``metrics.jsonl`` and event files between two steps, and for everything else."""
    old, full = os.write, [False]

    def write(fd: int, data: Any) -> int:
        name = os.readlink(f"/proc/self/fd/{fd}").rpartition("/")[2] if full[0] else ""
        if name == "metrics.jsonl" or ".tfevents." in name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return old(fd, data)

    os.write = write
    _hook("step", lambda: full.__setitem__(0, True), step=step)
    _hook("step", lambda: full.__setitem__(0, False), step=until)


def make_read_only(**when: Any) -> None:
    """Let nothing be created or opened for writing from then on."""
    old, only_read = os.open, [False]

    def opening(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if only_read[0] and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return old(path, flags, *args, **kwargs)

    os.open = opening
    _later(lambda: only_read.__setitem__(0, True), **when)


def poison_gradient(update: int, optimizer: str, value: float = float("nan")) -> None:
    """Put one bad value into one gradient of one update, between the backward pass and the optimizer's step."""
    from rlox.algorithms.sac import SACLearner
    from rlox.learner import Optimizer

    learners: list[Any] = []
    old_update, old_step = SACLearner.update, Optimizer.step

    def learn(self: Any, *args: Any) -> Any:
        learners[:] = [self]
        return old_update(self, *args)

    def step(self: Any, loss: Any) -> None:
        learner = learners[0]
        if learner.n_updates != update or self is not getattr(learner, optimizer):
            return old_step(self, loss)
        self.torch.zero_grad()
        loss.backward()
        self.torch.param_groups[0]["params"][0].grad.view(-1)[0] = value
        self.torch.step()

    SACLearner.update, Optimizer.step = learn, step


def kill(where: str, step: int = 0, nth: int = 1) -> None:
    """Die at once."""
    _hook(where, lambda: os.kill(os.getpid(), signal.SIGKILL), nth=nth, step=step)


def slow_down(seconds: float) -> None:
    """Take so long for each step of training."""
    import time

    from rlox.callbacks import CheckpointCallback

    old = CheckpointCallback.on_step

    def on_step(self: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return old(self, **kwargs)

    CheckpointCallback.on_step = on_step  # type: ignore[method-assign]


def turn_clock_back(step: int, by: float) -> None:
    """Set the clock of the wall back in mid-run."""
    import datetime
    import time

    shift, old = [0.0], time.time

    class Earlier(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.fromtimestamp(time.time(), tz)

    time.time = lambda: old() - shift[0]
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("rlox"):
            if getattr(module, "time", None) is old:
                module.time = time.time  # type: ignore[attr-defined]
            if getattr(module, "datetime", None) is datetime.datetime:
                module.datetime = Earlier  # type: ignore[attr-defined]
    _hook("step", lambda: shift.__setitem__(0, by), step=step)


def fail_evaluation(**when: Any) -> None:
    """Have the environment of an evaluation fail."""
    from rlox.envs import EnvFailure

    def act() -> None:
        raise EnvFailure("environment 0, episode 0, step 3: OSError: the simulator is gone", env=0)

    _hook("evaluation", act, **when)


def lose_events(step: int) -> None:
    """Delete the event files of the run in mid-run."""
    from rlox.callbacks import CheckpointCallback

    folder: list[Path] = []
    old = CheckpointCallback.on_training_start

    def start(self: Any, **kwargs: Any) -> Any:
        folder.append(kwargs["algo"].run.path)
        return old(self, **kwargs)

    CheckpointCallback.on_training_start = start

    def act() -> None:
        for path in folder[0].glob("events.out.tfevents.*"):
            path.unlink()

    _hook("step", act, step=step)


def break_wandb(after: int) -> None:
    """Be a W&B whose ``log`` raises from the n-th call on."""
    calls = [0]

    class Run:
        id = "one"

        def log(self, *args: Any, **kwargs: Any) -> None:
            calls[0] += 1
            if calls[0] > after:
                raise ConnectionError("the tracking server is gone")

        def finish(self, *args: Any, **kwargs: Any) -> None:
            raise ConnectionError("the tracking server is gone")

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: None

    module = types.ModuleType("wandb")
    module.init = lambda *args, **kwargs: Run()  # type: ignore[attr-defined]
    module.__getattr__ = lambda name: (lambda *args, **kwargs: None)  # type: ignore[method-assign]
    sys.modules["wandb"] = module


def _hook(where: str, act: Callable[[], object], nth: int = 1, step: int = 0) -> None:
    """Call ``act`` at the n-th time that a run comes to a place, at or after a step of training."""
    owner, name = _PLACES[where]()
    old, state = getattr(owner, name), {"n": 0, "step": 0}

    @functools.wraps(old)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        if _step() >= step:
            state["n"] += 1
            if state["n"] == nth:
                act()
        return old(*args, **kwargs)

    setattr(owner, name, hooked)


_algorithms: list[Any] = []


def _step() -> int:
    return max((algo.step for algo in _algorithms), default=0)


def _watch_steps() -> None:
    from rlox import loop

    old = loop.run_loop

    def run_loop(algo: Any, total: int) -> Any:
        _algorithms.append(algo)
        return old(algo, total)

    sys.modules["rlox.algorithm"].run_loop = run_loop  # type: ignore[attr-defined]


def _preparing() -> tuple[Any, str]:
    import rlox.runs

    return sys.modules[rlox.runs.train.__module__]._Session, "_build"


def _starting() -> tuple[Any, str]:
    from rlox.callbacks import CheckpointCallback

    return CheckpointCallback, "on_training_start"


def _in_step() -> tuple[Any, str]:
    from rlox.callbacks import CheckpointCallback

    return CheckpointCallback, "on_step"


def _updating() -> tuple[Any, str]:
    from rlox.algorithms.sac import SACLearner

    return SACLearner, "update"


def _resetting() -> tuple[Any, str]:
    from rlox.envs.slot import Slot

    return Slot, "reset"


def _evaluating() -> tuple[Any, str]:
    from rlox.callbacks import CallbackList

    return CallbackList, "on_eval"


def _writing() -> tuple[Any, str]:
    from rlox.checkpoint.generation import Generations

    return Generations, "_write"


def _listing() -> tuple[Any, str]:
    from rlox.checkpoint import listing

    return listing, "encode"


def _naming() -> tuple[Any, str]:
    from rlox.checkpoint import generation

    return generation, "atomic_write"


def _keeping_the_best() -> tuple[Any, str]:
    from rlox import checkpoint

    return checkpoint, "save"


def _publishing() -> tuple[Any, str]:
    import rlox.resume

    return rlox.resume, "link_atomically"


def _logging_a_save() -> tuple[Any, str]:
    from rlox.callbacks import checkpoint

    return checkpoint, "log_event"


def _concluding() -> tuple[Any, str]:
    import rlox.runs

    return sys.modules[rlox.runs.train.__module__]._Session, "_evaluate_again"


_PLACES: dict[str, Callable[[], tuple[Any, str]]] = {
    "preparing": _preparing,
    "starting": _starting,
    "step": _in_step,
    "update": _updating,
    "reset": _resetting,
    "evaluation": _evaluating,
    "save": _writing,
    "list of a save": _listing,
    "manifest of a save": _naming,
    "best model": _keeping_the_best,
    "publish": _publishing,
    "log of a save": _logging_a_save,
    "conclusion": _concluding,
}
_watch_steps()
