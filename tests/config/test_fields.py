"""Options: types, ranges, messages, and configs made of them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from rlox.config import BCConfig, CQLConfig, SACConfig, make_config, option, options_of, to_dict, validate
from rlox.config.fields import SECTIONS, coerce, literal, parse
from rlox.config.sections import (
    CheckpointConfig,
    EvalConfig,
    HardwareConfig,
    LogConfig,
    OfflineEvalConfig,
    OfflineRunConfig,
    RunConfig,
)
from rlox.errors import ConfigError

ALGORITHMS = [SACConfig, BCConfig, CQLConfig]
SECTION_CLASSES = [
    RunConfig,
    OfflineRunConfig,
    EvalConfig,
    OfflineEvalConfig,
    CheckpointConfig,
    LogConfig,
    HardwareConfig,
]


@dataclass(frozen=True, kw_only=True)
class Every:
    """One option of every kind."""

    count: int = option(3, "A count", ge=1, le=10, special=(-1,))
    share: float = option(0.5, "A share", ge=0, lt=1)
    rate: float = option(0.1, "A rate", gt=0)
    flag: bool = option(False, "A flag")
    text: str = option("plain", "A text")
    maybe: int | None = option(None, "Perhaps", ge=0)
    kind: Literal["red", "green"] = option("red", "A choice")
    auto: float | Literal["auto"] = option("auto", "A number or auto", ge=0)
    net_arch: list[int] | dict[str, list[int]] = option([8, 8], "Widths")
    table: dict[str, object] = option({}, "A table")
    plain: int = 7

    def __post_init__(self) -> None:
        validate(self)


OPTIONS = {o.name: o for o in options_of(Every)}


def test_options_keep_order_kind_default_and_place():
    assert list(OPTIONS) == ["count", "share", "rate", "flag", "text", "maybe", "kind", "auto", "net_arch", "table"]
    kinds = ["int", "float", "float", "bool", "str", "int", "choice", "float_or_auto", "net_arch", "table"]
    assert [o.kind for o in OPTIONS.values()] == kinds
    assert [o.optional for o in OPTIONS.values()] == [n == "maybe" for n in OPTIONS]
    assert OPTIONS["kind"].choices == ("red", "green")
    assert (OPTIONS["net_arch"].flag, OPTIONS["net_arch"].key) == ("--net-arch", "algo.net_arch")


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("count", 4, 4),
        ("count", -1, -1),
        ("count", 4.0, 4),
        ("count", "1e1", 10),
        ("count", np.int64(2), 2),
        ("share", 0, 0.0),
        ("share", "0.25", 0.25),
        ("share", np.float32(0.5), 0.5),
        ("flag", True, True),
        ("flag", "True", True),
        ("text", "", ""),
        ("maybe", None, None),
        ("maybe", 0, 0),
        ("kind", "green", "green"),
        ("auto", "auto", "auto"),
        ("auto", 2, 2.0),
        ("net_arch", (4, 5), [4, 5]),
        ("net_arch", [], []),
        ("net_arch", iter([4, 5]), [4, 5]),
        ("net_arch", {"pi": [4], "qf": [5, 6]}, {"pi": [4], "qf": [5, 6]}),
        ("table", {"a": 1}, {"a": 1}),
    ],
)
def test_values_become_the_options_type(name, value, stored):
    got = getattr(Every(**{name: value}), name)
    assert got == stored and type(got) is type(stored)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("count", 0, "count is 0, must be in [1, 10] or -1"),
        ("count", 11, "count is 11, must be in [1, 10] or -1"),
        ("count", 2.5, "count is 2.5, must be an integer in [1, 10] or -1"),
        ("count", np.float32(2.5), "count is '2.5', must be an integer in [1, 10] or -1"),
        ("count", True, "count is True, must be an integer in [1, 10] or -1"),
        ("count", 1e30, "count is 1e+30, must be at most 2**53"),
        ("count", "many", "count is 'many', must be an integer in [1, 10] or -1"),
        ("count", None, "count is 'None', must be an integer in [1, 10] or -1"),
        ("count", math.inf, "count is inf, must be an integer in [1, 10] or -1"),
        ("share", 1, "share is 1, must be in [0, 1)"),
        ("share", -0.1, "share is -0.1, must be in [0, 1)"),
        ("share", math.nan, "share is nan, must be a finite number in [0, 1)"),
        ("rate", 0, "rate is 0, must be in (0, inf)"),
        ("rate", [1], "rate is '[1]', must be a finite number in (0, inf)"),
        ("flag", 1, "flag is 1, must be true or false"),
        ("flag", "yes", "flag is 'yes', must be true or false"),
        ("text", 3, "text is 3, must be text"),
        ("maybe", -1, "maybe is -1, must be in [0, inf)"),
        ("kind", "gren", "kind is 'gren', must be one of red, green"),
        ("kind", ["red"], "kind is \"['red']\", must be one of red, green"),
        ("auto", "otto", "auto is 'otto', must be a finite number or 'auto' in [0, inf)"),
        ("auto", -1, "auto is -1, must be in [0, inf)"),
        ("table", [1], "table is '[1]', must be a table"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name, value, message):
    with pytest.raises(ConfigError) as caught:
        Every(**{name: value})
    assert caught.value.message == message
    assert caught.value.param == OPTIONS[name].flag


@pytest.mark.parametrize(
    "value",
    [
        "256",
        256,
        [0],
        [-4],
        [1.5],
        [True],
        ["8"],
        [65537],
        {"pi": [4]},
        {"pi": [4], "vf": [4]},
        {"pi": 4, "qf": [4]},
        None,
    ],
)
def test_wrong_widths_are_refused(value):
    with pytest.raises(ConfigError, match=r"net_arch is .* must be a list of widths like \[256, 256\]"):
        Every(net_arch=value)


def test_a_misspelt_choice_gets_the_nearest_one():
    with pytest.raises(ConfigError) as caught:
        Every(kind="gren")
    assert caught.value.hint == "did you mean 'green'?" and caught.value.suggestions == ("green",)


def test_a_foreign_value_is_shown_on_one_line():
    with pytest.raises(ConfigError) as caught:
        Every(kind="a\n\x1b[31m")
    assert caught.value.message.isprintable()


def test_mutable_defaults_and_arguments_are_not_shared():
    widths, table = [4], {"a": 1}
    config, other = Every(net_arch=widths, table=table), Every()
    widths.append(5)
    table["b"] = 2
    other.net_arch.append(99)
    assert config.net_arch == [4] and config.table == {"a": 1}
    assert Every().net_arch == [8, 8]
    copied = to_dict(config)
    copied["net_arch"].append(1)
    assert config.net_arch == [4]


def test_a_config_is_frozen_and_equal_by_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Every().count = 4
    assert Every(count="4") == Every(count=4)


def test_to_dict_makes_the_config_again():
    config = Every(count=5, auto=0.5, net_arch={"pi": [3], "qf": []}, table={"x": [1]})
    assert "plain" not in to_dict(config)
    assert Every(**to_dict(config)) == config


def test_make_config_puts_overrides_over_the_base():
    base = Every(count=5, share=0.1)
    made = make_config(Every, base, {"share": "0.2"})
    assert (made.count, made.share, base.share) == (5, 0.2, 0.1)
    assert make_config(Every) == Every()


def test_an_unknown_option_is_an_error_with_the_nearest_name():
    with pytest.raises(ConfigError, match="SACConfig has no option 'learning_rat'") as caught:
        make_config(SACConfig, None, {"learning_rat": 1e-3})
    assert caught.value.hint == "did you mean 'learning_rate'?"
    with pytest.raises(ConfigError, match="Every has no option") as caught:
        make_config(Every, None, {"zzz": 1})
    assert caught.value.hint.startswith("known: count, share")


def test_a_config_of_another_class_is_refused():
    with pytest.raises(ConfigError, match="config is a BCConfig, must be a SACConfig"):
        make_config(SACConfig, BCConfig())
    with pytest.raises(ConfigError, match="config is a dict"):
        make_config(SACConfig, {"gamma": 0.9})


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("count", "4", 4),
        ("count", "1e1", 10),
        ("share", " .5 ", 0.5),
        ("share", "1e-3", 1e-3),
        ("flag", "true", True),
        ("text", "two words", "two words"),
        ("text", '"quoted"', "quoted"),
        ("text", "3", "3"),
        ("kind", "'green'", "green"),
        ("maybe", "none", None),
        ("maybe", "2", 2),
        ("auto", "auto", "auto"),
        ("auto", "0.5", 0.5),
        ("net_arch", "[4, 5]", [4, 5]),
        ("net_arch", "4,5", [4, 5]),
        ("net_arch", "64", [64]),
        ("net_arch", " 4, 5, ", [4, 5]),
        ("net_arch", "{pi = [4], qf = []}", {"pi": [4], "qf": []}),
        ("table", "{a = 1}", {"a": 1}),
    ],
)
def test_typed_text_is_read(name, text, value):
    assert parse(OPTIONS[name], text) == value


@pytest.mark.parametrize(
    ("name", "text"), [("count", "none"), ("count", "4\n5"), ("flag", "1"), ("net_arch", "4,x"), ("net_arch", "0"), ("net_arch", "4,-5"), ("share", "")]
)
def test_typed_text_that_does_not_fit_is_refused(name, text):
    with pytest.raises(ConfigError, match=name):
        parse(OPTIONS[name], text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("true", True), ("word", "word"), ("a = 1", "a = 1"), ("1\nx = 2", "1\nx = 2"), ("[1", "[1")],
)
def test_literal_reads_one_value_and_never_a_second_key(text, value):
    assert literal(text) == value


@pytest.mark.parametrize("cls", ALGORITHMS + SECTION_CLASSES, ids=lambda c: c.__name__)
def test_every_shipped_option_is_described_and_its_default_allowed(cls):
    seen = set()
    for o in options_of(cls):
        assert o.help and not o.help.endswith(".") and "\n" not in o.help
        assert o.section in SECTIONS
        assert coerce(o, o.default) == o.default
        names = {o.flag, *o.aliases}
        assert not names & seen
        seen |= names
    assert [f.name for f in dataclasses.fields(cls)] == [o.name for o in options_of(cls)]


@pytest.mark.parametrize("cls", ALGORITHMS + SECTION_CLASSES, ids=lambda c: c.__name__)
def test_every_bound_is_enforced_on_both_sides(cls):
    checked = 0
    for o in options_of(cls):
        for bound, direction, allowed in ((o.ge, -1, True), (o.gt, -1, False), (o.le, 1, True), (o.lt, 1, False)):
            if bound is None:
                continue
            checked += 1
            beyond = bound + direction * (1 if o.kind == "int" else 1e-6)
            if beyond not in o.special:
                with pytest.raises(ConfigError, match=o.name):
                    coerce(o, beyond)
            if allowed:
                assert coerce(o, bound) == bound
            else:
                with pytest.raises(ConfigError, match=o.name):
                    coerce(o, bound)
    assert checked or cls in (LogConfig,)


@pytest.mark.parametrize(
    ("option_name", "wrong"),
    [
        ("gamma", [2, -1, math.nan]),
        ("tau", [0, -5, 1.1]),
        ("learning_rate", [0, -1, math.nan, math.inf]),
        ("batch_size", [0, -4, 1.5]),
        ("buffer_size", [0]),
        ("learning_starts", [-1]),
        ("train_freq", [0]),
        ("gradient_steps", [0, -2]),
        ("ent_coef", [-0.1, "automatic"]),
        ("n_critics", [0]),
        ("optimizer", ["Adam", "lion"]),
        ("dropout", [1.0]),
    ],
)
def test_sac_refuses_what_peers_accept(option_name, wrong):
    for value in wrong:
        with pytest.raises(ConfigError, match=f"^{option_name} is "):
            SACConfig(**{option_name: value})


def test_a_batch_larger_than_the_buffer_names_both():
    with pytest.raises(ConfigError, match="batch_size is 256, must be at most buffer_size 100"):
        SACConfig(buffer_size=100)


def test_widths_are_per_network_or_for_all():
    assert SACConfig(net_arch=[3]).widths("pi") == SACConfig(net_arch=[3]).widths("qf") == [3]
    config = SACConfig(net_arch={"pi": [3], "qf": [4, 5]})
    assert (config.widths("pi"), config.widths("qf")) == ([3], [4, 5])
    config.widths("pi").append(9)
    assert config.widths("pi") == [3]


def test_sac_defaults_are_those_of_the_table():
    c = SACConfig()
    got = (
        c.learning_rate,
        c.buffer_size,
        c.learning_starts,
        c.batch_size,
        c.tau,
        c.gamma,
        c.train_freq,
        c.gradient_steps,
    )
    assert got == (3e-4, 1_000_000, 100, 256, 0.005, 0.99, 1, 1)
    assert (c.ent_coef, c.target_entropy, c.net_arch, c.activation, c.n_critics) == (
        "auto",
        "auto",
        [256, 256],
        "relu",
        2,
    )


def test_cql_defaults_are_those_of_corl():
    c = CQLConfig()
    assert (c.cql_alpha, c.actor_learning_rate, c.learning_rate, c.n_actions, c.tau) == (10.0, 3e-5, 3e-4, 10, 0.005)
