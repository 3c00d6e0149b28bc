"""Where environments come from: an id, an instance, a factory, or a name that the user typed."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from ..errors import CheckpointError, ConfigError, EnvError, EnvNotFoundError, MissingDependencyError, RloxError
from ..errors import printable as _printable
from .names import check_recorded, is_scalar, load_typed, resolve_id

EXTRAS = ("mujoco", "box2d")
_COMMAND = re.compile(r",? *(?:(?:please )?run:? |you can install it with )?`?pip install [^`]*`?", re.IGNORECASE)
Factory = Callable[..., Any]


class EnvSource:
    """Make environments, again and again, from whatever the user named them with.

    Use :meth:`of` for what a user passes and :meth:`from_record` for what a file says.

    Attributes
    ----------
    text : str or None
        What to record: the resolved id, or the text typed on the command line.
    id : str or None
        The registered id with its version, when ``gym.make(id, **kwargs)`` makes the same environment.
    kwargs : dict
        Keyword arguments for the constructor.
    instance : gymnasium.Env or None
        The environment that the user passed, if one was passed.
    vector : gymnasium.vector.VectorEnv or None
        The vector environment that the user passed, if one was passed.
    can_remake : bool
        Whether :meth:`make` can make another one.
    """

    def __init__(self) -> None:
        self.text: str | None = None
        self.id: str | None = None
        self.kwargs: dict[str, Any] = {}
        self.instance: gym.Env[Any, Any] | None = None
        self.vector: gym.vector.VectorEnv[Any, Any, Any] | None = None
        self.in_use = False  # the instance is inside a vector environment of ours
        self._spec: EnvSpec | None = None
        self._factory: Factory | None = None
        self._typed = False
        self._spaces: tuple[gym.Space[Any], gym.Space[Any]] | None = None

    @classmethod
    def of(cls, env: Any, kwargs: dict[str, Any] | None = None, *, typed: bool = False) -> EnvSource:
        """Return the source of an environment.

        Parameters
        ----------
        env : str, gymnasium.Env, gymnasium.vector.VectorEnv, callable or EnvSource
            A registered id, an environment, a factory or class, or a source (returned as it is).
        kwargs : dict, optional
            Keyword arguments for the constructor; not with an environment that exists already.
        typed : bool
            The text was typed by the user: ``module:make``, ``pkg.module:Env-v0`` and ``file.py:Name`` are allowed.

        Raises
        ------
        EnvNotFoundError
            No such id, version, module, file or name.
        EnvError
            Importing what was typed raised.
        ConfigError
            Something else than an environment, or keyword arguments that cannot be used.
        """
        if isinstance(env, EnvSource):
            if kwargs:
                raise ConfigError("keyword arguments cannot be added to an EnvSource")
            return env
        source = cls()
        source.kwargs = dict(kwargs or {})
        if isinstance(env, str):
            source._take_text(env, typed)
        elif isinstance(env, gym.Env | gym.vector.VectorEnv):
            if kwargs:
                raise ConfigError(
                    f"keyword arguments {sorted(source.kwargs)} cannot be used with an environment that exists already"
                )
            if isinstance(env, gym.Env):
                source._take_instance(env)
            else:
                source.vector = env
        elif callable(env):
            source._factory = env
        else:
            message = f"env is {type(env).__name__}, must be an environment id, an environment or a factory"
            raise ConfigError(message, param="env", value=env)
        return source

    @classmethod
    def from_record(cls, id: object, kwargs: object = None, *, error: type[RloxError] = CheckpointError) -> EnvSource:
        """Return the source of an id read from a file; ``error`` unless it is plain, registered and scalar."""
        name, plain = check_recorded(id, kwargs, error)
        return cls.of(name, plain)

    @property
    def can_remake(self) -> bool:
        return self._spec is not None or self._factory is not None or self._typed

    @property
    def picklable(self) -> bool:
        """Whether the source can be sent to a worker process."""
        if not self.can_remake:
            return False
        try:
            ForkingPickler.dumps(self)
        except Exception:  # what a user's object raises here is anything
            return False
        return True

    def make(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return a new environment, without the passive checker.

        Raises
        ------
        ConfigError
            The constructor rejects the keyword arguments, or an instance cannot be made again.
        MissingDependencyError
            A package that the environment needs is absent.
        EnvError
            The constructor raises, or returns no ``gymnasium.Env``.
        """
        kwargs = self.kwargs if render_mode is None else {**self.kwargs, "render_mode": render_mode}
        creator = self._creator()
        try:
            env = creator(**kwargs)
        except RloxError:
            raise
        except (gym.error.DependencyNotInstalled, ImportError) as error:
            raise self._missing(error) from error
        except Exception as error:
            raise self._failed(error, kwargs) from error
        if not isinstance(env, gym.Env):
            raise EnvError(f"{self} made {type(env).__name__}, must be a gymnasium.Env")
        return env

    def spaces(self) -> tuple[gym.Space[Any], gym.Space[Any]]:
        """Return (observation space, action space) of one environment; makes one the first time."""
        if self._spaces is None:
            if self.vector is not None:
                self._spaces = self.vector.single_observation_space, self.vector.single_action_space
            elif self.instance is not None:
                self._spaces = self.instance.observation_space, self.instance.action_space
            else:
                env = self.make()
                self._spaces = env.observation_space, env.action_space
                close_quietly(env)
        return self._spaces

    @property
    def label(self) -> str:
        """The quoted id or text, or the name of what was passed: short and printable."""
        if self.text is not None:
            return repr(_printable(self.text))
        thing = self.instance if self.instance is not None else self.vector
        return _printable(str(thing) if thing is not None else getattr(self._factory, "__qualname__", self._factory))

    def __str__(self) -> str:
        made = self.text is not None or self.instance is not None or self.vector is not None
        return f"environment {self.label}" if made else f"environment factory {self.label}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "instance": None, "vector": None, "in_use": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.id is not None and self.id not in gym.registry and self._spec is not None:
            gym.registry[self.id] = self._spec  # registered by the parent's own code, which does not run in a worker

    def _take_text(self, text: str, typed: bool) -> None:
        if ":" in text and typed:
            found = load_typed(text)
            self.text, self._typed = text, True
            if isinstance(found, str):
                self.text = f"{text.rpartition(':')[0]}:{found}"
            return
        if ":" in text:
            raise EnvNotFoundError(
                f"no environment {_printable(text)!r}: an id has no ':'",
                hint="import the module first and give the plain id, or pass a factory",
                value=text,
            )
        self.id = self.text = resolve_id(text)
        self._spec = gym.registry[self.id]

    def _take_instance(self, env: gym.Env[Any, Any]) -> None:
        self.instance = env
        spec = env.spec
        if spec is None or spec.id not in gym.registry:
            return
        if any(wrapper.kwargs is None for wrapper in spec.additional_wrappers):
            return  # a wrapper that does not record its arguments cannot be made again
        self._spec = spec
        registered = gym.registry[spec.id]
        own = {k: v for k, v in spec.kwargs.items() if k != "render_mode"}
        kwargs = {k: v for k, v in own.items() if not _equal(registered.kwargs.get(k, _Missing), v)}
        if spec.max_episode_steps != registered.max_episode_steps:
            kwargs["max_episode_steps"] = -1 if spec.max_episode_steps is None else spec.max_episode_steps
        same_wrappers = _equal(spec.additional_wrappers, registered.additional_wrappers)
        if same_wrappers and all(map(is_scalar, kwargs.values())):
            self.id = self.text = spec.id
            self._spec, self.kwargs = registered, kwargs

    def _creator(self) -> Factory:
        if self._factory is not None:
            return self._factory
        spec = self._spec
        if self._typed and self.text is not None:
            found = load_typed(self.text)
            if callable(found):
                return found
            spec = gym.registry[found]
        if spec is not None:  # a spec, since an id of an older version would warn each time
            return functools.partial(gym.make, spec, disable_env_checker=True)
        raise ConfigError(
            f"{self} cannot be made again, and it is in use",
            hint="pass a class or function that makes one, or an id, instead of an environment",
        )

    def _missing(self, error: Exception) -> MissingDependencyError:
        text = f"{error} {getattr(error.__cause__, 'name', '')}".casefold()
        extra = next((name for name in EXTRAS if name in text and "moved" not in text), None)
        hint = f"`pip install 'rlox[{extra}]'`" if extra else "install the package that it needs"
        said = _COMMAND.sub("", str(error)) if extra else str(error)  # one command is enough
        return MissingDependencyError(f"{self} needs a package that is not installed: {_printable(said)}", hint=hint)

    def _failed(self, error: Exception, kwargs: dict[str, Any]) -> RloxError:
        reason = f"{type(error).__name__}: {_printable(error)}"
        if kwargs and isinstance(error, TypeError | ValueError | AssertionError):
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            names = unknown[1] if unknown and unknown[1] in kwargs else ", ".join(f"{k}={v!r}" for k, v in kwargs.items())
            return ConfigError(f"{self} does not take {_printable(names)}: {reason}", param="env_kwargs", value=kwargs)
        return EnvError(f"{self} could not be made: {reason}")


def close_quietly(env: gym.Env[Any, Any]) -> None:
    """Close an environment; one that cannot be closed costs a warning, not the results that it gave."""
    try:
        env.close()
    except Exception as error:
        message = f"closing an environment raised {type(error).__name__}: {_printable(error)}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)


def _equal(a: object, b: object) -> bool:
    try:
        return bool(a == b)
    except ValueError:  # arrays among the arguments
        return False


class _Missing:
    """Stands for a keyword argument that a spec does not name."""
