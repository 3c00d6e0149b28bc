"""Where values come from: default < preset < --config < flag < --set."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rlox.config import BCConfig, CQLConfig, SACConfig, option, validate
from rlox.config.preset import preset_subjects
from rlox.config.resolve import Schema, resolve
from rlox.config.sections import RunConfig
from rlox.config.units import seconds, size_bytes
from rlox.errors import ConfigError, NotFoundError
from rlox.registry import ALGORITHMS

SAC = Schema("online", SACConfig, "sac")
CQL = Schema("offline", CQLConfig, "cql")
PENDULUM = {"run.env": "Pendulum-v1"}


def origins(resolved):
    return {key: (value, origin) for key, value, origin in resolved.rows()}


def test_each_source_wins_over_the_one_before(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[run]\nsteps = 5000\n[algo]\ngamma = 0.98\ntau = 0.02\nbatch_size = 64\n")
    resolved = resolve(
        SAC, config_files=[str(path)], flags=PENDULUM | {"algo.tau": "0.03", "algo.batch_size": "32"},
        sets=["batch_size=16"],
    )  # fmt: skip
    rows = origins(resolved)
    assert rows["algo.train_freq"] == (1, "default")
    assert rows["algo.learning_rate"] == (0.001, "preset sac/Pendulum-v1")
    assert rows["run.steps"] == (5000, "file mine.toml:2")
    assert rows["algo.gamma"] == (0.98, "file mine.toml:4")
    assert rows["algo.tau"] == (0.03, "flag --tau")
    assert rows["algo.batch_size"] == (16, "--set")
    assert resolved.warnings == ("--set algo.batch_size = 16 wins over --batch-size 32",)


def test_several_files_merge_from_left_to_right(tmp_path):
    for name, gamma in (("a", 0.1), ("b", 0.2)):
        (tmp_path / f"{name}.toml").write_text(f"[algo]\ngamma = {gamma}\n")
    (tmp_path / "a.toml").write_text("[algo]\ngamma = 0.1\ntau = 0.5\n")
    resolved = resolve(SAC, config_files=[str(tmp_path / "a.toml"), str(tmp_path / "b.toml")], flags=PENDULUM)
    assert origins(resolved)["algo.gamma"] == (0.2, "file b.toml:2")
    assert resolved["algo.tau"] == 0.5


def test_a_table_option_merges_entry_by_entry(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[run]\nenv = 'Pendulum-v1'\n[run.env_kwarg]\ng = 1.5\nm = 2\n")
    resolved = resolve(SAC, config_files=[str(path)], flags={"run.env_kwarg": ["m=3", "name=text"]},
                       sets=["run.env_kwarg.l=[1, 2]"])  # fmt: skip
    assert resolved["run.env_kwarg"] == {"g": 1.5, "m": 3, "name": "text", "l": [1, 2]}
    assert origins(resolved)["run.env_kwarg.m"] == (3, "flag --env-kwarg")
    assert resolved.build(RunConfig).env_kwarg["g"] == 1.5


def test_the_written_file_resolves_to_the_same_values_whatever_the_preset(tmp_path):
    resolved = resolve(
        SAC,
        flags=PENDULUM
        | {"run.env_kwarg": ["g=9"], "algo.net_arch": "{pi = [8], qf = [16, 16]}", "run.max_time": "30m"},
        sets=["hardware.max_memory=none", "ent_coef=0.2"],
    )
    path = tmp_path / "config.toml"
    path.write_text(resolved.to_toml(("made by a test",)))
    for preset in ("auto", "none", "smoke"):
        again = resolve(SAC, preset=preset, config_files=[str(path)])
        assert {k: v for k, v, _ in again.rows()} == {k: v for k, v, _ in resolved.rows()}


def test_a_bare_key_is_enough_where_it_is_unique():
    resolved = resolve(SAC, flags=PENDULUM, sets=["eval_freq=7", "algo.gamma=0.5", "net_arch=[8]"])
    assert (resolved["eval.eval_freq"], resolved["algo.gamma"], resolved["algo.net_arch"]) == (7, 0.5, [8])


@pytest.mark.parametrize(
    ("sets", "said", "hint"),
    [
        (["gama=0.9"], "--set: unknown key 'gama'", "algo.gamma"),
        (["lr=0.9"], "--set: unknown key 'lr'", "algo.learning_rate"),
        (["run.gamma=0.9"], "unknown key 'run.gamma'", "algo.gamma"),
        (["algo.gamma.x=0.9"], "unknown key 'algo.gamma.x'", "algo.gamma"),
        (["zzzzzzzz=1"], "unknown key", "`--dry-run` lists every key"),
        (["gamma"], "--set is 'gamma', must be KEY=VALUE", None),
        (["=1"], "--set is '=1', must be KEY=VALUE", None),
        (["gamma=high"], "gamma is 'high', must be a finite number in [0, 1]", None),
        (["gamma=2"], "gamma is 2, must be in [0, 1]", None),
        (["gamma=nan"], "gamma is nan", None),
        (["batch_size=1.5"], "batch_size is 1.5, must be an integer", None),
        (["gamma=0.9", "algo.gamma=0.8"], "--set gives algo.gamma twice", None),
        (["env_kwarg.g=1", "env_kwarg={g = 2}"], "--set gives run.env_kwarg.g twice", None),
        (["activation=rely"], "activation is 'rely'", "'relu'"),
        (["\x1b[31m[/x]=1"], "unknown key '\\x1b[31m[/x]'", None),
        (["batch_size=512", "buffer_size=256"], "batch_size is 512, must be at most buffer_size 256", None),
        (["steps=100"], "learning_starts is 100, must be below steps 100", None),
        (["patience=2", "eval_freq=0"], "patience is 2, and eval_freq 0 evaluates only at the end", "--eval-freq"),
        (["stop_at=0", "eval_freq=0"], "stop_at is 0.0, and eval_freq 0", None),
        (["max_time=soon"], "max_time is 'soon'", None),
        (["max_memory=-1GB"], "max_memory is '-1GB'", None),
    ],
)
def test_a_wrong_assignment_is_refused_in_one_line(sets, said, hint):
    with pytest.raises(ConfigError) as error:
        resolve(SAC, flags=PENDULUM, sets=sets)
    assert said in error.value.message
    assert "\n" not in error.value.message
    assert hint is None or hint in (error.value.hint or "")
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "said", "hint"),
    [
        ("[algo]\ngama = 0.9", "bad.toml:2: unknown key 'algo.gama'", "algo.gamma"),
        ("[algo]\ngamma = 1.2", "bad.toml:2: gamma is 1.2, must be in [0, 1]", None),
        ("[algo]\ngamma = 'high'", "bad.toml:2: gamma is 'high'", None),
        ("gamma = 0.9", "bad.toml:1: key outside a table 'gamma'", "[algo]"),
        ("[alg]\ngamma = 0.9", "bad.toml:1: unknown table 'alg'", "[algo]"),
        ("algo = 3", "key outside a table 'algo'", None),
        ("[run]\nenv = 'evil.py:Env'", "env is 'evil.py:Env' in file bad.toml:2, and code is only run when it is typed",
         "--env evil.py:Env"),
        ("[run]\nenv_kwarg = 3", "env_kwarg is 3, must be a table", None),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_its_line(tmp_path, content, said, hint):
    path = tmp_path / "bad.toml"
    path.write_text(content)
    flags = {} if "env = " in content else PENDULUM
    with pytest.raises(ConfigError) as error:
        resolve(SAC, config_files=[str(path)], flags=flags)
    assert said in error.value.message
    assert hint is None or hint in (error.value.hint or "")


def test_a_typed_environment_of_ones_own_wins_over_the_one_in_the_file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[run]\nenv = 'mine.py:Env'\n")
    assert resolve(SAC, config_files=[str(path)], flags={"run.env": "mine.py:Env"})["run.env"] == "mine.py:Env"


def test_what_is_trained_on_is_required():
    with pytest.raises(ConfigError, match="--env is missing"):
        resolve(SAC)
    with pytest.raises(ConfigError, match="--dataset is missing"):
        resolve(CQL, flags=PENDULUM)


@pytest.mark.parametrize(("low", "high", "said"), [("-1", None, "given together"), ("1", "1", "must be below")])
def test_action_bounds_are_a_pair_in_order(low, high, said):
    with pytest.raises(ConfigError, match=said):
        resolve(CQL, flags={"run.dataset": "a.h5", "run.action_low": low, "run.action_high": high})


@pytest.mark.parametrize("count", ["1e6", "1_000_000", "1000000", "1e+06"])
def test_counts_are_written_as_people_write_them(count):
    assert resolve(SAC, flags=PENDULUM | {"run.steps": count})["run.steps"] == 1_000_000


@pytest.mark.parametrize("count", ["1.5", "-4", "0", "1e30", "nan", "inf", "many", "", "1e999"])
def test_what_is_no_count_is_refused(count):
    with pytest.raises(ConfigError, match="steps is"):
        resolve(SAC, flags=PENDULUM | {"run.steps": count})


def test_the_smoke_preset_skips_what_an_algorithm_does_not_have():
    bc = resolve(Schema("offline", BCConfig, "bc"), preset="smoke", flags={"run.dataset": "x.h5"})
    assert (bc["run.steps"], bc["algo.batch_size"], bc.preset) == (200, 32, "smoke")
    sac = resolve(SAC, preset="smoke", flags=PENDULUM)
    assert (sac["run.steps"], sac["algo.learning_starts"]) == (600, 100)


def test_without_a_preset_the_class_defaults_hold():
    resolved = resolve(SAC, preset="none", flags=PENDULUM)
    assert (resolved["run.steps"], resolved["algo.learning_rate"], resolved.preset) == (1_000_000, 3e-4, None)
    assert resolve(SAC, flags={"run.env": "Other-v0"}).preset is None


def test_the_subject_can_be_named_apart_from_the_environment():
    assert resolve(SAC, flags={"run.env": "Pendulum"}, subject="Pendulum-v1").preset == "sac/Pendulum-v1"


def test_a_file_is_a_preset_below_the_config(tmp_path):
    path = tmp_path / "tuned.toml"
    path.write_text("[algo]\ngamma = 0.5\ntau = 0.5\n")
    config = tmp_path / "config.toml"
    config.write_text("[algo]\ntau = 0.25\n")
    rows = origins(resolve(SAC, preset=str(path), config_files=[str(config)], flags=PENDULUM))
    assert rows["algo.gamma"] == (0.5, "preset tuned.toml:2")
    assert rows["algo.tau"] == (0.25, "file config.toml:2")
    assert rows["run.steps"] == (1_000_000, "default")


@pytest.mark.parametrize(("name", "kind"), [("smok", ConfigError), ("zzz", ConfigError), ("gone.toml", NotFoundError)])
def test_an_unknown_preset_is_refused(tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind) as error:
        resolve(SAC, preset=name, flags=PENDULUM)
    assert name in error.value.message
    if name == "smok":
        assert "'smoke'" in (error.value.hint or "")


@pytest.mark.parametrize("spec", list(ALGORITHMS.values()), ids=lambda spec: spec.name)
def test_every_shipped_preset_resolves_and_names_its_source(spec):
    schema = Schema(spec.kind, spec.load_config(), spec.name)
    for subject in preset_subjects(spec.name, spec.load_config()):
        target = {"run.env": subject} if spec.kind == "online" else {"run.dataset": f"{subject}.h5"}
        assert resolve(schema, flags=target).preset == f"{spec.name}/{subject}"


@dataclass(frozen=True, kw_only=True)
class Clashing:
    """Takes the name of an option that rlox has."""

    seed: int = option(3, "Not the seed of the run", ge=0)

    def __post_init__(self) -> None:
        validate(self)


def test_an_algorithm_cannot_take_a_name_that_is_taken():
    with pytest.raises(ConfigError, match="seed"):
        Schema("online", Clashing, "clashing")


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1h30m", 5400), (" 2 H ", 7200)]
)
def test_times_are_read(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "0", "-1s", "1y", "m", "1e3s", "1h-5m", "9" * 400 + "s", "inf", "\x00"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match="max_time is"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "value"), [("8GB", 8e9), ("500MB", 5e8), ("2GiB", 2**31), ("1000", 1000), ("1k", 1000), ("1.5g", 1.5e9)]
)
def test_sizes_are_read(text, value):
    assert size_bytes(text) == value
