"""Where a run starts: from nothing, where it was left, from another run, or from the weights of a checkpoint."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from .. import checkpoint
from ..checkpoint.generation import Generation, Generations
from ..errors import CheckpointError, CheckpointMismatchError, ConfigError, NotFoundError, printable
from ..files import link_atomically, shortest
from .past import Past

if TYPE_CHECKING:
    from .train import Launch


def begin(algo: Any, launch: Launch, steps: int) -> None:
    """Bring a new algorithm to where its run, which is to make ``steps``, starts."""
    if launch.resume is not None:
        _go_on(algo, launch)
    elif launch.fork is not None:
        _fork(algo, launch.fork, steps)
    elif launch.init_from is not None:
        _init_from(algo, launch.init_from)


def _go_on(algo: Any, launch: Launch) -> None:
    """Take over the newest whole generation of the run; without one it starts over."""
    store = Generations(algo.run.path / "resume")
    generation = store.newest()
    if generation is None:
        algo.run.start_over()
        if launch.init_from is not None:
            _init_from(algo, launch.init_from)
        return
    algo._keeper.restore(store, generation)
    _publish(algo, generation)
    launch.note(f"going on from step {algo.step}")
    assert launch.resume is not None
    if launch.resume.status.get("status") != "finished":
        algo.continues = True  # also after the last step: the end of the training was not written down
    for why in algo.exact:
        launch.note(f"exact_resume: no: {why}")
    algo._to_say = []


def _publish(algo: Any, generation: Generation) -> None:
    """Do what a process that was killed after it committed a generation has left: name its model, delete older ones."""
    from ..callbacks import CheckpointCallback

    saver = next(one for one in algo.callbacks if isinstance(one, CheckpointCallback))
    for path in [*saver.saved[-1:], algo.run.checkpoints / "last.pt"]:
        with contextlib.suppress(CheckpointError):
            if checkpoint.file_digest(path) == generation.info["model_digest"]:
                continue
        link_atomically(generation.path("model"), path)
    for path in algo.run.checkpoints.glob("step_*.pt"):
        if saver.saved and path.name < saver.saved[0].name and path not in saver.saved:
            path.unlink(missing_ok=True)


def _fork(algo: Any, past: Past, steps: int) -> None:
    """Start from the state of another run; what watched that run starts afresh."""
    generation = Generations(past.path / "resume").newest()
    if generation is None:
        raise NotFoundError(f"nothing to go on from in {shortest(past.path)}", param="--resume", value=str(past.path))
    made = generation.info["step"]
    if made >= steps:
        raise ConfigError(f"{shortest(past.path)} is at step {made} of {steps}: a fork has nothing left to do",
                          hint=f"give more `--steps`, e.g. `--steps {2 * made}`", param="--steps", value=steps)  # fmt: skip
    algo._keeper.fork(generation)


def _init_from(algo: Any, path: str) -> None:
    """Start from the weights of a checkpoint."""
    from ..checkpoint.recorded import recorded  # imports gymnasium, which commands that only look do without

    state, manifest = checkpoint.load(path)
    made_by, ours = recorded(manifest, "algorithm", str), algo._recorded_name()
    if made_by != ours:
        raise CheckpointMismatchError(f"{printable(path)} was made by {printable(made_by)}, not by {ours}",
                                      param="--init-from", value=path)  # fmt: skip
    algo.load_weights(state)
