"""The state that an environment keeps of itself, every layer of its wrappers included.

An environment that can say where it stands has ``state_dict()``, of arrays and scalars, and ``load_state_dict(state)``.
What gymnasium's own wrappers count is read from them; the generators of the environment and of its spaces are kept with it. A
layer that neither says its state nor is known to have none leaves the environment to be rebuilt by replaying its episode.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
from gymnasium import wrappers

from ..errors import printable
from .packing import pack, unpack

# What gymnasium's wrappers remember from step to step; others of its wrappers hold more, or a function of the user's.
COUNTERS: dict[type, tuple[str, ...]] = {
    wrappers.OrderEnforcing: ("_has_reset",),
    wrappers.PassiveEnvChecker: ("checked_reset", "checked_step"),
    wrappers.RecordEpisodeStatistics: ("episode_count", "episode_returns", "episode_lengths"),
    wrappers.TimeAwareObservation: ("timesteps",),
    wrappers.TimeLimit: ("_elapsed_steps",),
    wrappers.ClipAction: (),
    wrappers.ClipReward: (),
    wrappers.DtypeObservation: (),
    wrappers.FilterObservation: (),
    wrappers.FlattenObservation: (),
    wrappers.RescaleAction: (),
    wrappers.RescaleObservation: (),
    wrappers.ReshapeObservation: (),
}


def take(env: gym.Env[Any, Any]) -> bytes | str | None:
    """Return the state of an environment as bytes; None where it keeps none, or a text why it cannot be used."""
    layers = list(_layers(env))
    if not any(map(_says_state, layers)):
        return None
    try:
        return pack({"layers": [_read(layer) for layer in layers], "generators": _generator_states(layers[-1])})
    except Exception as error:  # what a user's state_dict raises is anything
        return f"its state_dict cannot be used: {_said(error)}"


def restore(env: gym.Env[Any, Any], data: bytes) -> str | None:
    """Put an environment that was just reset into a state from :func:`take`; return why it is not in it, or None.

    Believed only if the environment then says the very same state, and if that state is seen to be the environment's:
    where only a wrapper says one, it must change when the environment inside is reset.
    """
    layers = list(_layers(env))
    try:
        state = unpack(data)
        _write(layers, state)
        if not _says_state(layers[-1]):
            before = pack([_read(layer) for layer in layers])
            layers[-1].reset(seed=0)
            if pack([_read(layer) for layer in layers]) == before:
                return "the state_dict of its wrapper does not hold the environment's own state"
            _write(layers, unpack(data))  # not the same arrays again: the environment may have kept them
    except Exception as error:  # what a user's load_state_dict raises is anything
        return f"its own state cannot be loaded: {_said(error)}"
    return None if take(env) == data else "its state_dict does not return what load_state_dict was given"


def _layers(env: gym.Env[Any, Any]) -> Iterator[Any]:
    """Yield the environment as it is used, then what each wrapper wraps."""
    yield env
    while isinstance(env, gym.Wrapper):
        env = env.env
        yield env


def _says_state(layer: Any) -> bool:
    return all(callable(getattr(layer, name, None)) for name in ("state_dict", "load_state_dict"))


def _read(layer: Any) -> dict[str, Any]:
    """Return what a layer remembers; ValueError where nobody knows."""
    out: dict[str, Any] = {"type": type(layer).__qualname__}
    if _says_state(layer):
        out["state"] = layer.state_dict()
    elif type(layer) in COUNTERS:
        out["counters"] = {name: getattr(layer, name) for name in COUNTERS[type(layer)]}
    elif isinstance(layer, gym.Wrapper):
        raise ValueError(f"wrapper {type(layer).__qualname__} has none")
    return out


def _write(layers: list[Any], state: Any) -> None:
    """Load the layers' states, from the innermost on: an outer one that knows more has the last word."""
    saved = state["layers"]
    if [layer["type"] for layer in saved] != [type(layer).__qualname__ for layer in layers]:
        raise ValueError(f"it was of {'<'.join(layer['type'] for layer in saved)}")
    for owner, kept in zip(_owners(layers[-1]), state["generators"], strict=True):
        if kept is not None:
            owner.np_random.bit_generator.state = kept
    for layer, kept in zip(reversed(layers), reversed(saved), strict=True):
        if "state" in kept:
            layer.load_state_dict(kept["state"])
        for name in COUNTERS.get(type(layer), ()):
            if name in kept.get("counters", {}):
                setattr(layer, name, kept["counters"][name])


def _owners(env: Any) -> Iterator[Any]:
    """Yield the environment and its spaces with their parts: whatever may have a generator."""
    yield env
    spaces = [env.observation_space, env.action_space]
    while spaces:
        space = spaces.pop()
        yield space
        parts = getattr(space, "spaces", ())
        spaces.extend(parts.values() if isinstance(parts, dict) else parts)


def _generator_states(env: Any) -> list[Any]:
    """Return the states of the generators there are; None for who has none yet."""
    generators = [getattr(owner, "_np_random", None) for owner in _owners(env)]  # the property would make one
    return [None if generator is None else generator.bit_generator.state for generator in generators]


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {printable(error)}"
