"""Environments in worker processes, one each, over pipes.

The parent sends a command and the action's bytes; the worker answers with the bytes of an outcome, or with a report of
what went wrong. Nothing but bytes and JSON crosses a pipe after the start. A worker imports no torch, ignores the
signals that a terminal or a scheduler sends to the whole group, and leaves when its parent does.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..errors import ConfigError, EnvError, RloxError
from ..signals import EXIT_CODES
from .failure import EnvFailure, WorkerTraceback
from .global_random import drawn_since, global_state
from .packing import MAX_BYTES, pack, unpack
from .slot import EpisodePlan, Outcome, Slot
from .source import EnvSource, close_quietly
from .spaces import ActionSpace, Float32, ObsSpace
from .unfinished import Own, Unfinished
from .vector import SeededVectorEnv

START_TIMEOUT_S = 120.0  # an interpreter and the environment's imports, on a busy machine
CLOSE_TIMEOUT_S = 5.0
SLICES = 4  # of a timeout
MAX_TIMEOUT_S = 1e6  # poll() takes milliseconds in 32 bits
SIGNALS = tuple(EXIT_CODES)
PR_SET_PDEATHSIG = 1  # linux/prctl.h
HEADER = struct.Struct("<dBB")  # reward, flags, whether a reset observation follows
TERMINATED, TRUNCATED = 1, 2
RESET, STEP, OWN, RESTORE, CLOSE = b"r", b"s", b"o", b"p", b"c"
MAX_STATE = 2 * MAX_BYTES  # an environment's own state, and the actions of its episode
RESULT, FAILED = b"o", b"e"


class AsyncVectorEnv(SeededVectorEnv):
    """N environments in N worker processes; the results are those of SyncVectorEnv, bit for bit.

    Parameters
    ----------
    source : EnvSource
    plan : EpisodePlan
    timeout_s : float
        Seconds that a worker has for one answer; then it is killed and EnvFailure raised.
    """

    def __init__(self, source: EnvSource, plan: EpisodePlan, timeout_s: float) -> None:
        super().__init__(source.spaces(), plan)
        if not source.picklable:
            raise ConfigError(
                f"{source} cannot be sent to worker processes",
                hint="pass a named class or function of a module or script, or an id; or use vec 'sync'",
                param="vec",
            )
        self._timeout_s = timeout_s
        self._pipes: list[Connection] = []
        self._workers: list[BaseProcess] = []
        self._poll = select.poll()
        self._index_of: dict[int, int] = {}
        self._finalizer = Finalize(self, _shut_down, (self._pipes, self._workers), exitpriority=10)
        try:
            self._start(source)
        except BaseException:
            self.close()
            raise

    def _start(self, source: EnvSource) -> None:
        context = get_context("spawn")
        in_main = threading.current_thread() is threading.main_thread()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # inherited: no signal before they are ignored
        try:
            resource_tracker.ensure_running()  # if it starts now, it outlives the group's signals too
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # and it unblocked some of them
            for i in range(self.n_envs):
                ours, theirs = context.Pipe()
                args = (theirs, source, i, self.plan, in_main)
                worker = context.Process(target=_work, args=args, name=f"rlox-env-{i}")
                try:
                    worker.start()
                finally:
                    theirs.close()
                self._pipes.append(ours)
                self._workers.append(worker)
                self._index_of[ours.fileno()] = i
                self._poll.register(ours.fileno(), select.POLLIN)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        expected = [repr(self.observation_space), repr(self.action_space)]
        for i, answer in enumerate(self._gather(range(self.n_envs), max(self._timeout_s, START_TIMEOUT_S), "start")):
            spaces = json.loads(answer)
            if spaces != expected:
                raise EnvError(f"environment {i} has spaces {spaces}, the first one made has {expected}")

    def _reset_all(self) -> list[Float32]:
        for i in range(self.n_envs):
            self._send(i, RESET)
        return [self._floats(answer) for answer in self._gather(range(self.n_envs), self._timeout_s, "reset")]

    def _step_all(self, actions: NDArray[Any], next_obs: Float32) -> Sequence[Outcome | None]:
        playing = [i for i in range(self.n_envs) if self._playing[i]]
        for i in playing:
            self._send(i, STEP + actions[i].tobytes())
        outcomes: list[Outcome | None] = [None] * self.n_envs
        for i, answer in zip(playing, self._gather(playing, self._timeout_s, "step"), strict=True):
            outcomes[i] = self._outcome(answer, next_obs[i])
        return outcomes

    def _own_all(self) -> list[tuple[Own, str | None]]:
        for i in range(self.n_envs):
            self._send(i, OWN)
        answers = self._gather(range(self.n_envs), self._timeout_s, "state_dict")
        return [unpack(answer, MAX_STATE) for answer in answers]

    def _restore_all(self, saved: list[Unfinished]) -> list[tuple[Float32, str | None, str | None]]:
        for i, one in enumerate(saved):
            self._send(i, RESTORE + pack(dict(one), MAX_STATE))
        longest = max(one["length"] for one in saved)
        allowed = min(self._timeout_s * (longest + 2), MAX_TIMEOUT_S)  # what its steps may take one by one
        return [unpack(answer) for answer in self._gather(range(self.n_envs), allowed, "load_state_dict")]

    def _outcome(self, answer: bytes, next_obs: Float32) -> Outcome:
        reward, flags, starts = HEADER.unpack_from(answer)
        dim = self.obs_space.dim
        floats = np.frombuffer(answer, np.float32, offset=HEADER.size)
        next_obs[:] = floats[:dim]
        return Outcome(reward, bool(flags & TERMINATED), bool(flags & TRUNCATED), floats[dim:] if starts else None)

    def _floats(self, answer: bytes) -> Float32:
        return np.frombuffer(answer, np.float32).copy()

    def _send(self, i: int, message: bytes) -> None:
        if not self._pipes:
            raise EnvError("the worker processes of this vector environment are closed")
        try:
            self._pipes[i].send_bytes(message)
        except OSError:
            raise self._died(i) from None

    def _gather(self, who: Sequence[int], timeout_s: float, call: str) -> list[bytes]:
        """Receive one answer from each of these workers, whichever comes first."""
        try:
            return self._receive(who, timeout_s, call)
        except BaseException as error:
            if not isinstance(error, Exception):  # a signal tears this out of its wait: whoever hangs is not waited for
                for worker in self._workers:
                    worker.kill()
            raise

    def _receive(self, who: Sequence[int], timeout_s: float, call: str) -> list[bytes]:
        answers: dict[int, bytes] = {}
        # Waiting is counted slice by slice: processes that were stopped and continued are not taken for ones that hang.
        waited, slice_s = 0.0, timeout_s / SLICES
        while len(answers) < len(who):
            since = time.monotonic()
            ready = self._poll.poll(slice_s * 1000)
            waited += min(time.monotonic() - since, slice_s)
            if not ready:
                if waited > timeout_s - slice_s / 2:
                    raise self._hangs(next(i for i in who if i not in answers), timeout_s, call)
                continue
            for fd, _ in ready:
                i = self._index_of[fd]
                try:
                    message = self._pipes[i].recv_bytes()
                except (EOFError, OSError):
                    raise self._died(i) from None
                if message[:1] == FAILED:
                    raise self._failure(i, message[1:])
                answers[i] = message[1:]
        return [answers[i] for i in who]

    def _failure(self, i: int, report: bytes) -> RloxError:
        told = json.loads(report)
        self.close()
        error: RloxError
        if told["type"] == EnvFailure.__name__:
            error = EnvFailure(told["message"], env=i, details=told["traceback"], hint=told["hint"])
        else:
            error = getattr(errors, told["type"])(told["message"], hint=told["hint"])
        error.__cause__ = WorkerTraceback(told["traceback"])
        return error

    def _hangs(self, i: int, timeout_s: float, call: str) -> EnvFailure:
        where = self._where(i)
        self._workers[i].kill()
        self.close()
        return EnvFailure(
            f"{where}: {call} gave no answer within {timeout_s:g} s, its worker was killed",
            env=i,
            hint="raise `--env-timeout` if the environment is only slow",
        )

    def _died(self, i: int) -> EnvFailure:
        where = self._where(i)
        self._workers[i].join(CLOSE_TIMEOUT_S)
        code = self._workers[i].exitcode
        self.close()
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        hint = "a script that starts worker processes needs `if __name__ == '__main__':`" if code == 1 else None
        return EnvFailure(f"{where}: its worker process died ({how})", env=i, hint=hint)

    def _where(self, i: int) -> str:
        return f"environment {i}, episode {self._episodes[i]}, step {self.lengths[i]}"

    def close(self) -> None:
        self._started = False
        self._finalizer()
        self._index_of.clear()


def _shut_down(pipes: list[Connection], workers: list[BaseProcess]) -> None:
    """Tell the workers to leave, wait a little, kill who stays."""
    for pipe in pipes:
        with suppress(OSError):
            pipe.send_bytes(CLOSE)
        pipe.close()
    deadline = time.monotonic() + CLOSE_TIMEOUT_S
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
        if worker.is_alive():
            worker.kill()
            worker.join()
        worker.close()
    pipes.clear()
    workers.clear()


# ---- in the worker ----


def _work(pipe: Connection, source: EnvSource, index: int, plan: EpisodePlan, dies_with_parent: bool) -> None:
    """Serve one environment until the pipe closes or the parent leaves."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if dies_with_parent:
        _die_with_parent()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            _serve(pipe, source, index, plan)
        except Exception as error:
            pipe.send_bytes(FAILED + _report(error))


def _leave_with_parent() -> None:
    """End this process when the parent is gone, also while the environment is busy."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(0)


def _die_with_parent() -> None:
    """Have Linux kill this process when its parent ends: also where a call never lets another thread of it run.

    Linux means the thread that started this process, so this is for those that the main thread started.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # a C library without prctl: the thread alone must do
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it ended before
        os._exit(0)


def _serve(pipe: Connection, source: EnvSource, index: int, plan: EpisodePlan) -> None:
    env = source.make()
    before = global_state()  # nobody else draws in this process
    try:
        obs_space, act_space = ObsSpace(env.observation_space), ActionSpace(env.action_space)
        slot = Slot(env, index, plan, obs_space, act_space)
        next_obs = np.empty(obs_space.dim, np.float32)
        spaces = [repr(env.observation_space), repr(env.action_space)]
        pipe.send_bytes(RESULT + json.dumps(spaces).encode())
        while (message := pipe.recv_bytes()) != CLOSE:
            command = message[:1]
            if command == STEP:
                outcome = slot.step(_actions(message[1:], act_space)[0], next_obs)
                answer = _pack(outcome, next_obs)
            elif command == RESET:
                slot.episode = plan.first
                answer = slot.reset().tobytes()
            else:
                slot.drew = slot.drew or drawn_since(before)
                restored = slot.restore(unpack(message[1:], MAX_STATE)) if command == RESTORE else (slot.own(),)
                answer = pack((*restored, slot.drew), MAX_STATE)
            pipe.send_bytes(RESULT + answer)
    finally:
        close_quietly(env)


def _actions(data: bytes, space: ActionSpace) -> NDArray[Any]:
    flat = np.frombuffer(data, space.dtype).copy()  # the environment may write into its action
    return flat if space.discrete else flat.reshape(-1, space.dim)


def _pack(outcome: Outcome, next_obs: Float32) -> bytes:
    reward, terminated, truncated, start = outcome
    flags = TERMINATED * terminated + TRUNCATED * truncated
    tail = b"" if start is None else start.tobytes()
    return HEADER.pack(reward, flags, start is not None) + next_obs.tobytes() + tail


def _report(error: Exception) -> bytes:
    told = error if isinstance(error, RloxError) else EnvError(f"{type(error).__name__}: {error}")
    report = {
        "type": type(told).__name__,
        "message": told.message,
        "hint": told.hint,
        "traceback": "".join(traceback.format_exception(error)),
    }
    return json.dumps(report).encode()
