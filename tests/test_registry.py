"""Names of algorithms, and what each line of the registry promises."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary

from rlox.config import options_of
from rlox.errors import ConfigError, DatasetMismatchError, SpaceError
from rlox.registry import ALGORITHMS, AlgorithmSpec, algorithm_names, check_actions, get_algorithm, register


@pytest.fixture
def spare_line():
    spec = AlgorithmSpec("two_words", "online", "rlox.config.sac:SACConfig", "rlox.algorithms.sac:SAC", ("Box",), "A test")
    yield spec
    ALGORITHMS.pop("two_words", None)


@pytest.mark.parametrize("spec", ALGORITHMS.values(), ids=lambda s: s.name)
def test_every_line_names_a_config_and_a_class_that_fit(spec):
    cls, config = spec.load_class(), spec.load_config()
    assert dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen
    assert (cls.name, cls.kind, cls.config_class) == (spec.name, spec.kind, config)
    assert spec.name == spec.name.lower()
    assert set(spec.actions) <= {"Box", "Discrete"}
    assert "\n" not in spec.summary and not spec.summary.endswith(".")
    assert cls.__module__.startswith("rlox.algorithms.")


@pytest.mark.parametrize("spec", ALGORITHMS.values(), ids=lambda s: s.name)
def test_every_algorithm_with_networks_has_the_options_of_networks(spec):
    names = {o.name for o in options_of(spec.load_config())}
    assert {"net_arch", "activation", "layer_norm", "dropout", "optimizer", "weight_decay", "learning_rate"} <= names


@pytest.mark.parametrize("spec", ALGORITHMS.values(), ids=lambda s: s.name)
def test_constructors_have_the_pinned_arguments(spec):
    names = list(inspect.signature(spec.load_class().__init__).parameters)[1:]
    if spec.kind == "online":
        wanted = ["env", "n_envs", "seed", "config", "callbacks", "logger", "device"]
    else:
        wanted = ["dataset", "batch_size", "callbacks", "logger", "seed", "device"]
    assert names[0] == wanted[0]
    assert [n for n in names if n in wanted] == wanted if spec.kind == "offline" else set(wanted) <= set(names)
    assert names[-1] == "config_overrides"


def test_names_are_listed_by_kind_in_order():
    assert algorithm_names("online") == [s.name for s in ALGORITHMS.values() if s.kind == "online"]
    assert set(algorithm_names()) == set(ALGORITHMS)
    assert {"sac", "bc", "cql"} <= set(algorithm_names())


def test_a_hyphen_stands_for_an_underscore(spare_line):
    register(spare_line)
    assert get_algorithm("two-words") is spare_line
    assert get_algorithm("two_words", "online") is spare_line


def test_a_name_can_be_registered_once_only(spare_line):
    register(spare_line)
    with pytest.raises(ConfigError, match="registered already"):
        register(spare_line)


def test_an_unknown_name_gets_the_nearest_one_as_hint():
    with pytest.raises(ConfigError, match="unknown algorithm 'sacc'") as caught:
        get_algorithm("sacc")
    assert "'sac'" in caught.value.hint and caught.value.suggestions[0] == "sac"


def test_a_name_of_the_other_kind_is_not_found():
    with pytest.raises(ConfigError) as caught:
        get_algorithm("cql", "online")
    assert "cql" not in caught.value.suggestions


def test_an_action_space_that_an_algorithm_cannot_act_in_is_refused_with_what_to_use(spare_line):
    register(dataclasses.replace(spare_line, actions=("Discrete",)))
    with pytest.raises(SpaceError, match=r"sac needs Box actions; my env has Discrete\(2\)") as caught:
        check_actions("sac", Discrete(2), "my env")
    assert (caught.value.hint, caught.value.param) == ("use two_words", "--env")
    with pytest.raises(DatasetMismatchError, match="bc needs Box actions; the data has") as caught:
        check_actions("bc", Discrete(2), "the data", error=DatasetMismatchError, param="--dataset")
    assert (caught.value.hint, caught.value.param) == (None, "--dataset")
    check_actions("sac", Box(-1, 1), "my env")


def test_an_algorithm_of_the_users_own_takes_any_action_space_unless_told_otherwise():
    check_actions("mine", MultiBinary(3), "my env")
    with pytest.raises(SpaceError, match="mine needs Box actions; my env has MultiBinary"):
        check_actions("mine", MultiBinary(3), "my env", otherwise=("Box",))
