import sys
import types

import gymnasium as gym
import numpy as np
import pytest
from fake_algorithm import CountdownEnv, FakeAlgorithm, Run

from rlox.callbacks import VideoRecordingCallback, video
from rlox.errors import ConfigError, EnvError, MissingDependencyError


class Writer:
    def __init__(self, path, fps):
        self.path, self.fps, self.frames = path, fps, []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if error[0] is None:
            self.path.write_text(f"{len(self.frames)} frames at {self.fps}")

    def append_data(self, frame):
        self.frames.append(frame)


@pytest.fixture
def writers(monkeypatch):
    """The two packages, whose writer keeps its frames in place of encoding them."""
    made = []
    imageio = types.ModuleType("imageio")

    def get_writer(path, fps, macro_block_size):
        made.append(Writer(path, fps))
        return made[-1]

    imageio.get_writer = get_writer
    monkeypatch.setitem(sys.modules, "imageio", imageio)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", types.ModuleType("imageio_ffmpeg"))
    return made


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_constructor_arguments_are_attributes():
    callback = VideoRecordingCallback("here", 7, 2, False)
    assert (callback.video_folder, callback.record_freq, callback.n_episodes) == ("here", 7, 2)
    assert callback.verbose is False


def test_episodes_are_recorded_when_the_period_is_crossed(tmp_path, writers):
    callback = VideoRecordingCallback(tmp_path / "a" / "b", record_freq=10, n_episodes=2, verbose=False)
    algo = FakeAlgorithm(callback)
    algo.train(25, stride=4)
    steps = (12, 20)
    expected = [f"step_{step:09d}_episode_{k}.mp4" for step in steps for k in (1, 2)]
    assert names(tmp_path / "a" / "b") == expected == [path.name for path in callback.recorded]
    assert callback.recorded[0].read_text() == "4 frames at 20"
    assert [frame[0, 0, 0] for frame in writers[0].frames] == [3, 2, 1, 0]
    assert {asked for _, asked in algo.acted} == {True}


def test_images_of_odd_size_are_cut_to_an_even_one(tmp_path, writers):
    FakeAlgorithm(VideoRecordingCallback(tmp_path, record_freq=1, verbose=False)).train(1)
    assert writers[0].frames[0].shape == (4, 8, 3)


def test_the_same_episodes_are_recorded_each_time(tmp_path, writers):
    class Noisy(CountdownEnv):
        def reset(self, **kwargs):
            out = super().reset(**kwargs)
            self.shade = int(self.np_random.integers(256))
            return out

        def render(self):
            return np.full((4, 4, 3), self.shade, np.uint8)

    FakeAlgorithm(VideoRecordingCallback(tmp_path, 5, 2, False), env=Noisy).train(10)
    shades = [int(writer.frames[0][0, 0, 0]) for writer in writers]
    assert shades[:2] == shades[2:] and shades[0] != shades[1]


def test_an_episode_that_does_not_end_is_cut(tmp_path, writers, monkeypatch):
    monkeypatch.setattr(video, "MAX_FRAMES", 6)
    algo = FakeAlgorithm(VideoRecordingCallback(tmp_path, 1, verbose=False), env=lambda **kw: CountdownEnv(200, **kw))
    algo.train(1)
    assert len(writers[0].frames) == 6


def test_actions_may_be_indices(tmp_path, writers):
    class Discrete(CountdownEnv):
        action_space = gym.spaces.Discrete(3)

        def step(self, action):
            assert self.action_space.contains(action)
            return super().step(action)

    class Chooser(FakeAlgorithm):
        def predict(self, obs, deterministic=True):
            return np.zeros(len(obs), np.int64)

        policy = None

    Chooser(VideoRecordingCallback(tmp_path, 1, verbose=False), env=Discrete).train(1)
    assert len(writers[0].frames) == 4


def test_the_folder_of_the_run_replaces_the_default(tmp_path, writers):
    FakeAlgorithm(VideoRecordingCallback(record_freq=1, verbose=False), run=Run(tmp_path)).train(1)
    assert names(tmp_path / "videos") == ["step_000000001_episode_1.mp4"]


def test_a_missing_package_is_said_when_attached(monkeypatch):
    for name in ("imageio", "imageio_ffmpeg"):
        monkeypatch.setitem(sys.modules, name, None)
    callback = VideoRecordingCallback()
    with pytest.raises(MissingDependencyError, match="imageio-ffmpeg, which are not installed") as caught:
        FakeAlgorithm(callback)
    assert caught.value.hint == "`pip install 'rlox[video]'`" and "pip" not in caught.value.message


def test_an_environment_whose_drawing_needs_a_package_is_said_when_attached(writers):
    class NeedsPygame(CountdownEnv):
        def render(self):
            raise gym.error.DependencyNotInstalled("pygame is not installed")

    with pytest.raises(MissingDependencyError, match="pygame is not installed"):
        FakeAlgorithm(VideoRecordingCallback(), env=NeedsPygame)


def test_an_environment_that_draws_no_images_is_refused_when_attached(writers):
    class Blind(CountdownEnv):
        def render(self):
            return None

    with pytest.raises(EnvError, match="draws NoneType for rgb_array"):
        FakeAlgorithm(VideoRecordingCallback(), env=Blind)


@pytest.mark.parametrize("env", [None, CountdownEnv()])
def test_without_an_environment_to_make_it_is_refused_when_attached(writers, env):
    with pytest.raises(ConfigError, match="needs an environment that it can make"):
        FakeAlgorithm(VideoRecordingCallback(), env=env)


def test_an_algorithm_that_cannot_act_is_refused_when_attached(writers):
    class NoPolicy(FakeAlgorithm):
        policy = None
        predict = None

    with pytest.raises(ConfigError, match=r"needs an algorithm with predict\(\)"):
        NoPolicy(VideoRecordingCallback())


def test_a_video_that_cannot_be_written_is_a_warning_and_leaves_nothing(tmp_path, writers, monkeypatch):
    def append_data(self, frame):
        raise OSError("ffmpeg died")

    monkeypatch.setattr(Writer, "append_data", append_data)
    callback = VideoRecordingCallback(tmp_path, 5, verbose=False)
    algo = FakeAlgorithm(callback)
    with pytest.warns(RuntimeWarning, match="no video .*ffmpeg died"):
        algo.train(5)
    assert callback.recorded == [] and names(tmp_path) == []


def test_verbose_says_each_file(tmp_path, writers, capsys):
    FakeAlgorithm(VideoRecordingCallback(tmp_path, 1)).train(1)
    assert capsys.readouterr() == ("", f"step=1 video={tmp_path / 'step_000000001_episode_1.mp4'}\n")


@pytest.mark.parametrize("kwargs", [{"record_freq": 0}, {"n_episodes": 0}, {"record_freq": 1.5}])
def test_bad_arguments_are_refused_by_name(kwargs):
    with pytest.raises(ConfigError, match=next(iter(kwargs))):
        VideoRecordingCallback(**kwargs)


def test_hooks_work_alone_and_state_goes_on(tmp_path, writers):
    callback = VideoRecordingCallback(tmp_path, record_freq=2, verbose=False)
    callback.on_training_start()
    for _ in range(3):
        assert callback.on_step(reward=1.0) is None
    callback.on_training_end()
    resumed = VideoRecordingCallback(tmp_path, record_freq=2, verbose=False)
    resumed.load_state_dict(callback.state_dict())
    resumed.on_step(algo=FakeAlgorithm())
    assert names(tmp_path) == ["step_000000004_episode_1.mp4"] and len(resumed.recorded) == 1
