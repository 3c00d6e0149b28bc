"""``rlox eval``: play episodes with the policies of checkpoints and report their returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.fields import option
from ..errors import CheckError, WriteError, printable
from ..files import shortest, slug
from ..user_code import blaming
from ._commands import Command
from ._options import Argument, typed
from ._output import Out, current
from ._policy import Opened, PolicyOptions, environment, flags, import_flag, import_packages, load, open_checkpoint

if TYPE_CHECKING:
    from ..algorithm import Algorithm
    from ..envs import EnvSource

_HELP = """Evaluate checkpoints: algorithm, environment and normalisation come from the file.

Examples:
  rlox eval checkpoints/best.pt
  rlox eval checkpoints/best.pt --episodes 100 --min-return -200
  rlox eval checkpoints/step_*.pt --json
"""
# What a table of several checkpoints shows; JSON has the rest too.
_COLUMNS = ("checkpoint", "env", "step", "return_mean", "return_std", "return_low", "return_high", "length_mean",
            "n_episodes", "seed", "video")  # fmt: skip

# What it leaves out first where the terminal is narrow.
_OPTIONAL = ("seed", "n_episodes", "video", "env", "return_low", "return_high")


@dataclass(frozen=True, kw_only=True)
class EvalOptions(PolicyOptions):
    """The flags of ``rlox eval``."""

    episodes: int = option(10, "Episodes per checkpoint", panel="Run", ge=1, aliases=("--n-eval-episodes",))
    deterministic: bool = option(
        True, "The policy's greedy action, or a sampled one", panel="Run", aliases=("/--stochastic",)
    )
    max_episode_steps: int | None = option(None, "Cut episodes after this many steps", panel="Run", ge=1)
    allow_nonfinite: bool = option(
        False, "Also load weights that are NaN or infinite", panel="Run", aliases=("/",)
    )
    min_return: float | None = option(None, "Exit with 9 when a mean return is below this", panel="Report", metavar="X")
    video: str | None = option(
        None, "Folder for a video of one more episode of each checkpoint (extra video)", panel="Report", metavar="DIR"
    )


def build() -> Command:
    """Return the command."""
    return Command(
        "eval",
        help=_HELP,
        callback=_evaluate,
        codes=(0, 2, 3, 4, 5, 6, 7, 8, 9),
        params=[
            Argument("checkpoints", metavar="CKPT", many=True, help="Checkpoint files"),
            *flags(EvalOptions),
            import_flag(),
        ],
    )


def _evaluate(checkpoints: tuple[str, ...], import_: tuple[str, ...], **given: Any) -> None:
    out = current()
    options: EvalOptions = typed(EvalOptions, given)
    opened = [open_checkpoint(path) for path in checkpoints]
    import_packages(import_)
    sources = [environment(one, options, f"rlox eval {one.typed}") for one in opened]
    rows = [_row(i, one, source, options, out) for i, (one, source) in enumerate(zip(opened, sources, strict=True))]
    if out.json:
        out.data(**(rows[0] if len(rows) == 1 else {}), checkpoints=rows)
    elif len(rows) == 1:
        out.record(_as_text(rows[0]))
    else:
        columns = [name for name in rows[0] if name in _COLUMNS]
        out.table(columns, [[row[name] for name in columns] for row in map(_as_text, rows)], optional=_OPTIONAL)
    if options.min_return is not None:
        below = [row for row in rows if not row["return_mean"] >= options.min_return]  # NaN is below everything
        if below:
            raise CheckError(
                f"return_mean is {below[0]['return_mean']:.6g}, must be at least {options.min_return:g}",
                param="--min-return", value=options.min_return,
            )  # fmt: skip


def _as_text(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for people: the path as they would type it."""
    return row | {"checkpoint": shortest(row["checkpoint"])}


def _row(i: int, opened: Opened, source: EnvSource, options: EvalOptions, out: Out) -> dict[str, Any]:
    """Evaluate checkpoint number ``i``."""
    from ..evaluation import evaluate

    algo = load(opened, source, options, allow_nonfinite=options.allow_nonfinite)
    out.detail(f"{opened.path}: {opened.manifest['algorithm']} on {algo.device}, {source}")
    film = None if options.video is None else _camera(i, options.video, opened, algo)
    with out.progress(opened.path.name) as progress:

        def on_episode(k: int, episode_return: float, episode_length: int) -> None:
            progress(k + 1, options.episodes)
            out.detail(f"episode={k + 1}/{options.episodes} return={episode_return:.6g} length={episode_length}")

        with blaming(type(algo)):
            result = evaluate(
                algo.policy(options.n_envs, seed=options.seed),
                source,
                options.episodes,
                seed=options.seed,
                n_envs=options.n_envs,
                deterministic=options.deterministic,
                max_episode_steps=options.max_episode_steps,
                on_episode=on_episode,
            )
    videos = {} if film is None else {"video": film()}
    return {
        "checkpoint": str(opened.path),
        "algorithm": opened.manifest["algorithm"],
        "env": source.text or str(source),
        "step": opened.manifest.get("step"),
        **result.summary(),
        "interval": "95% bootstrap over episodes",
        "deterministic": options.deterministic,
        "seed": options.seed,
        **videos,
    }


def _camera(i: int, folder: str, opened: Opened, algo: Algorithm) -> Callable[[], str]:
    """Return a function that records one episode and returns the file's path; what is missing is said at once."""
    from ..callbacks import VideoRecordingCallback

    recorder = VideoRecordingCallback(Path(folder) / f"{i + 1}-{slug(opened.path.stem)}", record_freq=1, verbose=False)
    recorder.on_attach(algo)

    def film() -> str:
        recorder.on_step(algo=algo, step=max(algo.step, 1))
        if not recorder.recorded:
            raise WriteError(f"no video could be written to {printable(folder)}", param="--video", value=folder)
        return str(recorder.recorded[-1])

    return film
