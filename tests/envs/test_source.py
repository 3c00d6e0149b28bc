"""Environment sources: what can be named, what is recorded, and what is said when it cannot be made."""

import sys
import warnings
from multiprocessing.reduction import ForkingPickler

import gymnasium as gym
import numpy as np
import pytest
from probes import Echo, Reach

from rlox.envs import EnvSource
from rlox.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    EnvError,
    EnvNotFoundError,
    MissingDependencyError,
)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write two importable modules of the user's own: one with names, ``<stem>_ids`` registers two ids."""
    name = f"user_{tmp_path.name.replace('-', '_')}"
    path = tmp_path / f"{name}.py"
    path.write_text(
        "from probes import Echo\n"
        "class Place:\n    make = staticmethod(lambda: Echo())\n"
        "number = 3\n"
    )
    ids = [f"{name}-v0", f"{name}-v3"]
    (tmp_path / f"{name}_ids.py").write_text(
        f"import gymnasium as gym\nfor id in {ids}:\n    gym.register(id, entry_point='probes:Echo')\n"
    )
    monkeypatch.chdir(tmp_path)
    yield path
    for module in (name, f"{name}_ids"):
        sys.modules.pop(module, None)
    for id in ids:
        gym.registry.pop(id, None)


@pytest.fixture
def registered():
    ids = []

    def register(id, **spec):
        gym.register(id, **spec)
        ids.append(id)
        return id

    yield register
    for id in ids:
        gym.registry.pop(id, None)


def loops(pickled):
    return ForkingPickler.loads(ForkingPickler.dumps(pickled))


def test_id_makes_the_environment_without_the_passive_checker():
    source = EnvSource.of("Pendulum-v1", {"g": 9.0})
    env = source.make()
    assert "PassiveEnvChecker" not in str(env)
    assert env.unwrapped.g == 9.0 and env.render_mode is None
    assert (source.id, source.text, source.kwargs) == ("Pendulum-v1", "Pendulum-v1", {"g": 9.0})
    assert source.can_remake and source.picklable
    assert EnvSource.of(source) is source


def test_rendering_is_asked_for_at_make():
    assert EnvSource.of("Pendulum-v1").make(render_mode="rgb_array").render_mode == "rgb_array"


def test_spaces_are_read_from_one_environment_once():
    made = []
    source = EnvSource.of(lambda: made.append(1) or Reach())
    assert source.spaces()[1] == Reach.action_space
    assert source.spaces()[0] == Reach.observation_space
    assert made == [1]


@pytest.mark.parametrize("text, words, suggestion", [
    ("Pendulm-v1", "no environment 'Pendulm-v1'", "Pendulum-v1"),
    ("pendulum-v1", "no environment 'pendulum-v1'", "Pendulum-v1"),
    ("Pendulum-v9", "has no version v9, known versions: Pendulum-v1", "Pendulum-v1"),
    ("Pendulum-v0", "has no version v0, known versions: Pendulum-v1", "Pendulum-v1"),
])  # fmt: skip
def test_misspelt_ids_name_the_nearest(text, words, suggestion):
    with pytest.raises(EnvNotFoundError, match=words) as caught:
        EnvSource.of(text)
    assert caught.value.exit_code == 3
    assert caught.value.suggestions[0] == suggestion
    assert suggestion in caught.value.hint


@pytest.mark.parametrize("text", ["", "  ", "no\x1b[31mthing", "x" * 10**6, "a//b-v1", "nowhere:Env-v0", "file.py:Env"])
def test_what_is_no_id_is_not_found_and_said_printably(text):
    with pytest.raises(EnvNotFoundError) as caught:
        EnvSource.of(text)
    assert "\x1b" not in caught.value.message and len(caught.value.message) < 400


@pytest.mark.parametrize("code, hint", [
    ("import gymnasium as gym\nclass Base(gym.Env): pass\nclass Mine(Base): pass\nclass Other: pass\n1/0\n", "NAME` (it has Base, Mine)"),
    ("class Odd: pass\n", ":Odd`"),
    ("def f(:\n", ":NAME`"),
])  # fmt: skip
def test_a_file_without_a_name_lists_its_classes_and_is_not_run(tmp_path, code, hint):
    path = tmp_path / "my_env.py"
    path.write_text(code)
    with pytest.raises(EnvNotFoundError, match="is a file, not an environment") as caught:
        EnvSource.of(str(path), typed=True)
    assert caught.value.hint.endswith(hint)


def test_id_without_version_warns_and_is_recorded_with_it():
    with pytest.warns(UserWarning, match="'Pendulum' has no version, 'Pendulum-v1' is used"):
        source = EnvSource.of("Pendulum")
    assert source.id == source.text == "Pendulum-v1"


@pytest.mark.parametrize("id, package, extra", [
    ("HalfCheetah-v5", "mujoco", "`pip install 'rlox[mujoco]'`"),
    ("LunarLander-v3", "Box2D", "`pip install 'rlox[box2d]'`"),
])  # fmt: skip
def test_absent_package_names_the_extra(id, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    for name in [m for m in sys.modules if m.startswith(("gymnasium.envs.mujoco", "gymnasium.envs.box2d"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependencyError) as caught:
        EnvSource.of(id).make()
    assert caught.value.exit_code == 8
    assert caught.value.hint == extra and "pip install" not in caught.value.message


def test_environments_that_moved_to_another_package_do_not_name_an_extra():
    def moved():
        raise ImportError("The mujoco v2 and v3 environments have been moved to gymnasium-robotics")

    with pytest.raises(MissingDependencyError, match="moved to gymnasium-robotics") as caught:
        EnvSource.of(moved).make()
    assert "rlox[" not in caught.value.hint


@pytest.mark.parametrize("kwargs, name", [({"gravity": 3}, "gravity"), ({"g": 1, "mass": 2}, "mass")])
def test_unknown_constructor_arguments_are_named(kwargs, name):
    with pytest.raises(ConfigError, match=f"does not take {name}:") as caught:
        EnvSource.of("Pendulum-v1", kwargs).make()
    assert caught.value.exit_code == 2


def test_constructor_that_rejects_a_value_names_all_arguments():
    def picky(size):
        raise ValueError(f"size {size} is too large")

    with pytest.raises(ConfigError, match="size=9: ValueError: size 9 is too large"):
        EnvSource.of(picky, {"size": 9}).make()


def test_constructor_that_raises_is_an_environment_error():
    def broken():
        raise RuntimeError("no simulator")

    with pytest.raises(EnvError, match="could not be made: RuntimeError: no simulator") as caught:
        EnvSource.of(broken).make()
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_factory_that_returns_something_else_is_refused():
    with pytest.raises(EnvError, match=r"made int, must be a gymnasium\.Env"):
        EnvSource.of(lambda: 3).make()


@pytest.mark.parametrize("env", [3, None, ["Pendulum-v1"]])
def test_things_that_are_no_environment_are_refused(env):
    with pytest.raises(ConfigError, match="must be an environment id, an environment or a factory"):
        EnvSource.of(env)


def test_instance_made_by_id_with_plain_arguments_is_recorded_and_made_again():
    env = gym.make("Pendulum-v1", g=5.0, max_episode_steps=7)
    source = EnvSource.of(env)
    assert (source.id, source.kwargs) == ("Pendulum-v1", {"g": 5.0, "max_episode_steps": 7})
    again = source.make()
    assert again is not env and again.unwrapped.g == 5.0 and again.spec.max_episode_steps == 7


def test_instance_without_its_time_limit_stays_without_it():
    source = EnvSource.of(gym.make("Pendulum-v1", max_episode_steps=-1))
    assert "TimeLimit" not in str(source.make())


def test_instance_with_an_array_among_its_arguments_is_made_again_but_has_no_id():
    source = EnvSource.of(gym.make("FrozenLake-v1", desc=np.array([["S", "F"], ["H", "G"]])))
    assert source.id is None and source.kwargs == {}
    assert source.make().observation_space.n == 4


def test_wrapped_instance_is_made_again_with_its_wrappers_but_has_no_id():
    source = EnvSource.of(gym.wrappers.TimeAwareObservation(gym.make("Pendulum-v1")))
    assert source.id is None and source.can_remake
    assert source.make().observation_space.shape == (4,)


def test_instance_that_nobody_registered_cannot_be_made_again():
    source = EnvSource.of(Echo())
    assert not source.can_remake and not source.picklable and source.text is None
    assert source.spaces()[0] == Echo.observation_space
    with pytest.raises(ConfigError, match="cannot be made again"):
        source.make()


def test_instance_in_a_wrapper_that_records_nothing_cannot_be_made_again():
    class Plain(gym.Wrapper):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = EnvSource.of(Plain(gym.make("Pendulum-v1")))
    assert not source.can_remake and source.id is None


def test_arguments_for_an_instance_are_refused():
    with pytest.raises(ConfigError, match="exists already"):
        EnvSource.of(Echo(), {"a": 1})


def test_factory_is_made_anew_and_is_picklable_at_module_level_only():
    assert EnvSource.of(Echo).picklable
    assert type(loops(EnvSource.of(Echo)).make()) is Echo
    assert not EnvSource.of(lambda: Echo()).picklable


def test_id_registered_by_the_users_own_code_travels_to_another_process(registered):
    name = registered("TravellingEcho-v0", entry_point=Echo)
    message = ForkingPickler.dumps(EnvSource.of(name))
    gym.registry.pop(name)
    assert isinstance(ForkingPickler.loads(message).make().unwrapped, Echo)


def test_typed_names_of_modules_files_and_ids(module):
    for text in (f"{module.stem}:Echo", f"{module.stem}:Place.make", f"{module}:Echo", f"{module.name}:Place.make"):
        source = EnvSource.of(text, typed=True)
        assert isinstance(source.make(), Echo)
        assert (source.text, source.id) == (text, None)
        assert isinstance(loops(source).make(), Echo)


def test_typed_id_of_a_module_is_registered_by_importing_it(module):
    source = EnvSource.of(f"{module.stem}_ids:{module.stem}-v0", typed=True)
    assert isinstance(source.make().unwrapped, Echo) and source.id is None
    gym.registry.pop(f"{module.stem}-v3")
    with pytest.raises(EnvNotFoundError, match="known versions"):
        EnvSource.of(f"{module.stem}_ids:{module.stem}-v3", typed=True)


def test_typed_file_may_import_its_neighbours(module, monkeypatch):
    monkeypatch.chdir("/")
    (module.parent / "uses_neighbour.py").write_text(f"from {module.stem} import Place\nmake = Place.make\n")
    before = list(sys.path)
    assert isinstance(EnvSource.of(f"{module.parent}/uses_neighbour.py:make", typed=True).make(), Echo)
    assert sys.path == before


def test_typed_names_that_are_not_there(module):
    for text, words in [
        ("no_such_module:Env-v0", "no module 'no_such_module'"),
        ("no_such_package.inner:make", "no module 'no_such_package'"),
        (":make", "no module"),
        ("missing.py:Env", "missing.py does not exist"),
        (f"{module}:Ecko", "has no 'Ecko'"),
        (f"{module.stem}:Place.mak", "has no 'Place.mak'"),
        (f"{module.stem}:number", "is int, must be an environment class"),
        (f"{module.stem}:Nothing-v0", "no environment 'Nothing-v0'"),
    ]:
        with pytest.raises(EnvNotFoundError, match=words) as caught:
            EnvSource.of(text, typed=True)
        assert caught.value.exit_code == 3


def test_missing_name_in_a_file_suggests_the_nearest(module):
    with pytest.raises(EnvNotFoundError) as caught:
        EnvSource.of(f"{module}:Ecko", typed=True)
    assert caught.value.suggestions[0] == "Echo"


@pytest.mark.parametrize("code, words", [
    ("raise RuntimeError('broken on purpose')", "RuntimeError: broken on purpose"),
    ("import no_such_dependency", "no_such_dependency"),
    ("def f(:", "SyntaxError"),
    ("raise ValueError('bad')", "ValueError: bad"),
])  # fmt: skip
def test_module_or_file_that_raises_on_import(tmp_path, monkeypatch, code, words):
    path = tmp_path / "raises_on_import.py"
    path.write_text(code)
    monkeypatch.chdir(tmp_path)
    for text in ("raises_on_import:make", f"{path}:make"):
        with pytest.raises(EnvError, match=words) as caught:
            EnvSource.of(text, typed=True)
        assert caught.value.exit_code == 7
        assert "raises_on_import" in caught.value.message


def test_recorded_id_is_made_with_its_scalars():
    source = EnvSource.from_record("Pendulum-v1", {"g": 2.0})
    assert source.make().unwrapped.g == 2.0
    assert EnvSource.from_record("Pendulum-v1", None).kwargs == {}


@pytest.mark.parametrize("id, kwargs", [
    ("evil:X-v0", {}), ("os:system", {}), ("Pendulum", {}), ("file.py:Env", {}), ("", {}), (None, {}), (3, {}),
    ("Unregistered-v0", {}), ("Pendulum-v1\n", {}), ("a/b/Pendulum-v1", {}), ("x" * 10**6 + "-v1", {}),
    ("Pendulum-v1", {"g": [1]}), ("Pendulum-v1", {"g": {"a": 1}}), ("Pendulum-v1", {3: 1}), ("Pendulum-v1", [1]),
])  # fmt: skip
def test_recorded_names_that_are_not_plain_are_refused_without_an_import(id, kwargs, tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        EnvSource.from_record(id, kwargs)
    assert "`--env`" in caught.value.hint or "keyword" in caught.value.message
    assert not canary.exists() and len(caught.value.message) < 400
    with pytest.raises(DatasetError):
        EnvSource.from_record(id, kwargs, error=DatasetError)
