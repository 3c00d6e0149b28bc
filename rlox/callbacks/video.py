"""Videos of the policy in the course of training."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, EnvError, MissingDependencyError, WriteError, printable
from ..files import make_parents, shortest
from ..logging.period import Period, check_period
from ..seeding import derive
from .base import Callback
from .context import StepCount, during, own_folder, require, tell
from .evaluate import policy_of

if TYPE_CHECKING:
    from ..envs import EnvSource

MAX_FRAMES = 10_000
_DEFAULT_FPS = 30


class VideoRecordingCallback(Callback):
    """Record episodes of the deterministic policy every ``record_freq`` steps.

    The episodes run in an environment of their own with ``render_mode="rgb_array"``, from the same seeds each time;
    training is not changed by one bit. Files are ``step_<9 digits>_episode_<k>.mp4``, at the environment's own frame
    rate, and end after 10,000 frames where an episode does not. A video that cannot be written is a warning.

    Parameters
    ----------
    video_folder : path-like
        Parents are created; inside a run directory the run's ``videos`` replaces the default.
    record_freq : int
        Steps between recordings, ≥ 1, fired when crossed.
    n_episodes : int
        Episodes per recording, one file each, ≥ 1.
    verbose : bool
        Say each file in one line on stderr, where no ConsoleLogger does.

    Attributes
    ----------
    recorded : list of Path
        The files written.

    Raises
    ------
    ConfigError
        For a value out of range; when attached, for an algorithm that cannot act or has no environment to record.
    MissingDependencyError
        When attached, without the packages of the extra ``video``, or when the environment cannot draw without one.
    EnvError
        When attached, for an environment that does not draw images.
    """

    def __init__(
        self,
        video_folder: str | os.PathLike[str] = "videos",
        record_freq: int = 50000,
        n_episodes: int = 1,
        verbose: bool = True,
    ) -> None:
        self.video_folder = video_folder
        self.record_freq = check_period(record_freq, "record_freq", minimum=1)
        self.n_episodes = check_period(n_episodes, "n_episodes", minimum=1)
        self.verbose = verbose
        self.recorded: list[Path] = []
        self._count = StepCount()
        self._period = Period(self.record_freq)
        self._algo: Any = None
        self._source: EnvSource | None = None

    def on_attach(self, algo: Any) -> None:
        if not callable(getattr(algo, "policy", None)):
            require(algo, "predict", type(self).__name__)
        source = getattr(algo, "env_source", None)
        _import_imageio()
        if source is None or not source.can_remake:
            raise ConfigError(
                "VideoRecordingCallback needs an environment that it can make for itself",
                hint="train with an id or a factory in place of the environment",
                param="callbacks",
            )
        check_recording(source)
        self._source, self._algo = source, algo

    def on_training_start(self, **kwargs: Any) -> None:
        self._bind(kwargs)
        self._period.last = self._count.stay(kwargs)

    def on_step(self, **kwargs: Any) -> None:
        step = self._count.advance(kwargs)
        if not self._period.crossed(step):
            return
        self._bind(kwargs)
        if self._algo is not None:
            with during(self._algo, "eval"):
                self._record(step)

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self._count.step,
            "period": self._period.last,
            "recorded": [str(path) for path in self.recorded],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._count.step = state["step"]
        self._period.last = state["period"]
        self.recorded = [Path(path) for path in state["recorded"]]

    def _bind(self, kwargs: Mapping[str, Any]) -> None:
        algo = kwargs.get("algo")
        if algo is not None and algo is not self._algo:
            self.on_attach(algo)

    def _record(self, step: int) -> None:
        assert self._source is not None
        folder = own_folder(Path(self.video_folder), "videos", self._algo, "videos")
        env = self._source.make(render_mode="rgb_array")
        try:
            for k in range(self.n_episodes):
                path = folder / f"step_{step:09d}_episode_{k + 1}.mp4"
                try:
                    _write_video(path, self._frames(env, k), env.metadata.get("render_fps") or _DEFAULT_FPS)
                except (OSError, WriteError) as error:
                    warnings.warn(f"no video {printable(path)}: {printable(error)}", RuntimeWarning, stacklevel=2)
                    return
                self.recorded.append(path)
                if self.verbose:
                    tell(self._algo, f"step={step} video={shortest(path)}")
        finally:
            env.close()

    def _frames(self, env: Any, k: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the images of episode ``k``."""
        from ..envs import ObsSpace  # gymnasium is imported where it is needed only

        policy = policy_of(self._algo, 1)
        space = ObsSpace(env.observation_space)
        obs, _ = env.reset(seed=derive(self._algo.seed, "video", k))
        policy.reset(np.ones(1, np.bool_))
        yield _even(env.render())
        for _ in range(MAX_FRAMES - 1):
            action = policy.act(space.encode(obs)[None], True)[0]
            # One action comes as a row of numbers, or as an index
            action = np.reshape(action, env.action_space.shape) if np.ndim(action) else action
            obs, _, terminated, truncated, _ = env.step(action)
            yield _even(env.render())
            if terminated or truncated:
                return


def _write_video(path: Path, frames: Iterator[NDArray[np.uint8]], fps: float) -> None:
    """Write an MP4 file, which has its name only once it is complete."""
    temporary = make_parents(path).parent / f".{path.stem}.{secrets.token_hex(4)}.mp4"
    try:
        with _import_imageio().get_writer(temporary, fps=fps, macro_block_size=2) as writer:
            for frame in frames:
                writer.append_data(frame)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _even(image: Any) -> NDArray[np.uint8]:
    """Return an image whose height and width are even, as the video format needs them."""
    array: NDArray[np.uint8] = np.asarray(image)
    return array[: array.shape[0] // 2 * 2, : array.shape[1] // 2 * 2]


def check_recording(source: EnvSource) -> None:
    """Draw one image, so that what is missing is known before training.

    Raises
    ------
    MissingDependencyError
        Without the packages of the extra ``video``, or when the environment cannot draw without one.
    EnvError
        For an environment that does not draw images.
    """
    import gymnasium

    _import_imageio()
    env = source.make(render_mode="rgb_array")
    try:
        env.reset(seed=0)
        image = env.render()
    except gymnasium.error.DependencyNotInstalled as error:
        raise _missing(f"{source} cannot draw: {printable(error)}") from error
    finally:
        env.close()
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise EnvError(f"{source} draws {found} for rgb_array, must be uint8 (height, width, 3)")


def _import_imageio() -> Any:
    try:
        import_module("imageio_ffmpeg")  # imageio writes MP4 through it
        return import_module("imageio")
    except ImportError as error:
        raise _missing("VideoRecordingCallback needs the packages imageio and imageio-ffmpeg, which are not installed") from error


def _missing(message: str) -> MissingDependencyError:
    return MissingDependencyError(message, hint="`pip install 'rlox[video]'`")
