"""Exact resume: the generation beside a model file, from which training goes on bit for bit.

A generation is the model file and everything else that training depends on: rows of the replay buffer, environments in
the middle of their episodes, callbacks, positions of loggers, figures not yet logged. It is committed as one: see
:mod:`rlox.checkpoint.generation`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from . import checkpoint
from .buffers.blocks import RingBlocks
from .checkpoint.generation import Generation, Generations, folder_of
from .checkpoint.recorded import recorded, versions
from .config.fields import options_of
from .errors import CheckpointError, CheckpointMismatchError, ConfigError, printable
from .files import link_atomically

if TYPE_CHECKING:
    from .algorithm import Algorithm

A = TypeVar("A", bound="Algorithm")

_ARRAY = "\0array"  # marks what was a NumPy array; a checkpoint file holds tensors


class Keeper:
    """Writes the generations of one algorithm and takes one back."""

    def __init__(self, algo: Algorithm) -> None:
        self._algo = algo
        self._store: Generations | None = None
        self._blocks: RingBlocks | None = None

    def save(self, path: Path) -> Generation:
        """Commit a generation, then give its model the name ``path``.

        Rows of the replay buffer that are in the last generation of the same folder already are not written again.
        """
        folder = folder_of(path)
        if self._store is None or self._store.folder != folder:
            self._store, self._blocks = Generations(folder), None
        try:
            generation = self._commit(self._store)
        except CheckpointError:
            if self._blocks is None:
                raise
            self._store, self._blocks = Generations(folder), None  # somebody deleted what was saved before
            generation = self._commit(self._store)
        link_atomically(generation.path("model"), path)
        return generation

    def _commit(self, store: Generations) -> Generation:
        algo, ring = self._algo, self._algo._ring()
        if ring is not None and (self._blocks is None or self._blocks.buffer is not ring):
            self._blocks = RingBlocks(ring)
        changed, small = ({}, None) if ring is None or self._blocks is None else self._blocks.changed()
        state = {**algo.resume_state(), "ring": small}
        why = reasons(algo)
        about = {"algorithm": algo._recorded_name(), "step": algo.step}
        parts: dict[str, Callable[[IO[bytes]], object] | None] = {
            "model": checkpoint.writer(algo.state_dict(), algo.manifest() | {"exact_resume": exactness(why)}),
            "state": checkpoint.writer(_packed(state), about),
            **{name: None if data is None else partial(_write, data) for name, data in changed.items()},
        }
        info = {**about, "n_updates": algo.n_updates, "exact_resume": exactness(why), "surroundings": surroundings(algo)}
        generation = store.commit(info, parts)
        if self._blocks is not None:
            self._blocks.accept()
        return generation

    def restore(self, store: Generations, generation: Generation) -> None:
        """Take over a generation whole; what is saved next in its folder keeps what did not change."""
        state, manifest = checkpoint.load(generation.path("model"))
        check_same(manifest, self._algo)
        self._algo.load_state_dict(state)
        self.take(store, generation)

    def fork(self, generation: Generation) -> None:
        """Start from a generation of another run: callbacks and loggers, and what no longer fits, start afresh."""
        state, manifest = checkpoint.load(generation.path("model"))
        now = self._algo.manifest()
        same = all(manifest.get(key) == now.get(key) for key in ("seed", "env", "n_envs"))
        without = ("callbacks", "loggers", "dataset", *(() if same else ("envs", "actions")))
        try:
            self._algo.load_state_dict(state)
            self._take(generation, without)
        except CheckpointError as error:  # the files are whole: it is the changed config that does not fit
            hint = "a fork keeps networks, n_envs and buffer_size; `--init-from CKPT` takes the weights alone"
            raise CheckpointMismatchError(error.message, hint=error.hint or hint) from error
        self._blocks = None

    def take(self, store: Generations, generation: Generation) -> None:
        """Take over what a generation has besides its model, which is loaded already."""
        self._take(generation)
        self._store = store

    def _take(self, generation: Generation, without: tuple[str, ...] = ()) -> None:
        algo = self._algo
        packed, _ = checkpoint.load(generation.path("state"), allow_nonfinite=True)
        with fitting(algo):
            state = {**_unpacked(packed), **dict.fromkeys(without)}
            algo.load_resume_state(state)
            ring = None if state["ring"] is None else algo._ring(make=True)
            if ring is not None:
                self._blocks = RingBlocks(ring)
                self._blocks.restore(state["ring"], generation.read_into)
        algo.exact += [why for why in differences(algo, generation.info) if why not in algo.exact]
        algo._to_say = list(algo.exact)


def generation_of(path: Path) -> tuple[Generations, Generation | None]:
    """Return the generation that a model file belongs to, None where it is not there, and where it would be."""
    store = Generations(folder_of(path))
    return store, store.find(checkpoint.file_digest(path))


def rebuild(
    cls: type[A],
    state: Mapping[str, Any],
    manifest: Mapping[str, Any],
    env: Any,
    device: str | torch.device,
    parts: Mapping[str, Any],
    path: Path,
    resume: bool,
) -> A:
    """Return an algorithm of class ``cls`` made from the model file at ``path``, as :meth:`Algorithm.from_checkpoint` says."""
    expected, made_by = cls.name or cls.__qualname__, recorded(manifest, "algorithm", str)
    if made_by != expected and made_by.rpartition(":")[2] != cls.__qualname__:
        raise CheckpointMismatchError(f"{printable(path)} was made by {printable(made_by)}, not by {expected}")
    for name in ("seed", "n_envs", "config", "batch_size"):
        if name in parts:
            raise ConfigError(f"from_checkpoint takes {name} from the file, it cannot be given", param=name)
    missing = [printable(name) for name in recorded(manifest, "custom", list) if parts.get(str(name)) is None]
    if missing:
        raise CheckpointMismatchError(
            f"{printable(path)} was made with the user's own {missing[0]}, which must be given again",
            hint=f"in Python: {cls.__name__}.from_checkpoint(path, {missing[0]}=...)",
        )
    algo = cls._construct(manifest, env, device, parts)
    algo.load_state_dict(state)
    store, generation = generation_of(path) if resume else (None, None)
    if store is not None and generation is not None:
        algo._keeper.take(store, generation)
    elif resume and algo.step and (len(algo.callbacks) or len(algo.loggers)):
        algo._to_say = ["the model was saved alone, callbacks and loggers start afresh"]
    return algo


def check_same(manifest: Mapping[str, Any], algo: Algorithm) -> None:
    """Raise CheckpointMismatchError, naming what differs, unless a model is of an algorithm made like this one."""
    here = {o.name for o in options_of(type(algo.config)) if o.section == "hardware"} if algo.config is not None else set()

    def told(of: Mapping[str, Any]) -> dict[str, str]:
        config, env = of.get("config"), of.get("env")
        values = {name: of.get(name) for name in ("algorithm", "kind", "seed", "n_envs", "batch_size", "spaces")}
        values |= {f"env.{k}": env.get(k) for k in ("id", "kwargs")} if isinstance(env, dict) else {}
        values |= {k: v for k, v in config.items() if k not in here} if isinstance(config, dict) else {}
        return {key: json.dumps(value, sort_keys=True, default=str) for key, value in values.items()}

    saved, ours = told(manifest), told(algo.manifest())
    changed = [key for key in {**saved, **ours} if saved.get(key) != ours.get(key)]
    if changed:
        words = ", ".join(f"{printable(k)} was {printable(saved.get(k), 60)}, is {printable(ours.get(k), 60)}" for k in changed[:4])
        raise CheckpointMismatchError(
            f"the saved state is of another run: {words}",
            hint="`--fork` starts a new run from it, with what is changed",
            param=changed[0],
        )


def reasons(algo: Algorithm) -> list[str]:
    """Return why what is saved now could not be gone on from exactly; empty when it could."""
    why = list(algo.exact)
    if not algo.boundary.is_here:
        why.append("it was saved by a callback in the middle of a step")
    return why


def exactness(why: list[str]) -> dict[str, Any]:
    """Return what a manifest says about exact resume."""
    return {"exact": not why, "why": why}


def surroundings(algo: Algorithm) -> dict[str, Any]:
    """Return what besides the state decides the digits of a run."""
    return {
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "device": str(algo.device),
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }


def differences(algo: Algorithm, info: Mapping[str, Any]) -> list[str]:
    """Return in words how the surroundings differ from those of a generation."""
    then, now = info.get("surroundings"), surroundings(algo)
    if not isinstance(then, dict):
        return ["its versions and threads are not known"]
    found = [f"{k} was {printable(then.get(k), 60)}, is {now[k]}" for k in ("threads", "device", "cpu") if then.get(k) != now[k]]
    old = then.get("versions")
    for name, version in now["versions"].items():
        was = old.get(name) if isinstance(old, dict) else None
        if was != version:
            found.append(f"{name} was {printable(was, 60)}, is {version}")
    return found


@contextmanager
def fitting(algo: Algorithm) -> Iterator[None]:
    """Turn what a state of another shape raises into a CheckpointError that names what does not fit."""
    try:
        yield
    except CheckpointMismatchError:
        raise
    except (LookupError, RuntimeError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = f"no entry {error}" if isinstance(error, KeyError) else str(error).splitlines()[-1].strip()
        raise CheckpointError(f"the state does not fit {type(algo).__name__}: {printable(what)}") from error


def _write(data: Any, file: IO[bytes]) -> None:
    file.write(data)


def _packed(value: Any) -> Any:
    """Mark arrays, so that they come back as arrays."""
    if isinstance(value, np.ndarray):
        return {_ARRAY: value}
    if isinstance(value, Mapping):
        return {k: _packed(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_packed(v) for v in value)
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return value[_ARRAY].numpy()
        return {k: _unpacked(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_unpacked(v) for v in value)
    return value
