"""What a callback is, and the list that runs several as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import ConfigError, printable

HOOKS = ("on_training_start", "on_step", "on_rollout_end", "on_train_batch", "on_eval", "on_training_end")


class Callback:
    """Base of every callback: all hooks do nothing, so a callback overrides only what it needs.

    Hooks get keyword arguments only and may be called with any subset of them, also outside a training loop. A
    subclass need not call ``super().__init__()``.

    ====================== ====================================================================================
    hook                   keyword arguments
    ====================== ====================================================================================
    ``on_training_start``  algo, step, total_timesteps
    ``on_step``            algo, step, reward (online), episodes (finished in this step), metrics
    ``on_rollout_end``     algo, step, metrics
    ``on_train_batch``     algo, step, n_updates, metrics
    ``on_eval``            algo, step, episode (from 1), n_episodes, episode_return, episode_length, return_mean,
                           return_std (both of the evaluation's episodes so far)
    ``on_training_end``    algo, step, metrics, reason: finished, stopped, interrupted, diverged or failed
    ====================== ====================================================================================
    """

    def on_attach(self, algo: Any) -> None:
        """Check that the duty can be done; called once, when an algorithm is constructed with this callback."""

    def on_training_start(self, **kwargs: Any) -> None:
        """Act before the first step of each call of ``train``."""

    def on_step(self, **kwargs: Any) -> bool | None:
        """Act after a step; a false value that is not None stops training."""
        return None

    def on_rollout_end(self, **kwargs: Any) -> None:
        """Act when a rollout, or a collection phase of ``train_freq`` steps, is complete."""

    def on_train_batch(self, **kwargs: Any) -> None:
        """Act after a gradient update."""

    def on_eval(self, **kwargs: Any) -> None:
        """Act after an evaluation episode."""

    def on_training_end(self, **kwargs: Any) -> None:
        """Act once at the end of training, whatever ended it."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state to go on from, of primitives, arrays and tensors only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` returned."""


class CallbackList(Callback):
    """Several callbacks as one.

    Parameters
    ----------
    callbacks : Callback, iterable of them, or None
        The iterable is copied; members run in its order; a member may be a CallbackList.

    Raises
    ------
    ConfigError
        When a member is no Callback, or a list would contain itself.

    Notes
    -----
    In each step all members run and their votes are combined afterwards. ``on_training_end`` reaches all members
    even if one raises; the first error is raised again at the end, the later ones are its notes. Which members
    override a hook is found once per hook, and a hook that nobody overrides is an empty loop.
    """

    def __init__(self, callbacks: Callback | Iterable[Callback] | None = None) -> None:
        self.callbacks: list[Callback] = []
        self._parents: list[CallbackList] = []
        self._members: dict[str, tuple[Callback, ...]] = {}
        if callbacks is None:
            return
        if isinstance(callbacks, Callback) and not isinstance(callbacks, CallbackList):
            callbacks = [callbacks]
        for callback in callbacks if isinstance(callbacks, Iterable) else [callbacks]:
            self.append(callback)

    def append(self, callback: Callback) -> None:
        """Add a callback at the end."""
        if not isinstance(callback, Callback):
            what = f"the class {callback.__name__}" if isinstance(callback, type) else repr(callback)
            raise ConfigError(
                f"callbacks[{len(self)}] is {printable(what)}, must be a Callback object", param="callbacks"
            )
        if isinstance(callback, CallbackList):
            if callback is self or callback in self._ancestors():
                raise ConfigError("a CallbackList cannot contain itself", param="callbacks")
            callback._parents.append(self)
        self.callbacks.append(callback)
        self._forget()

    def __iter__(self) -> Iterator[Callback]:
        return iter(tuple(self.callbacks))

    def __len__(self) -> int:
        return len(self.callbacks)

    def hook_members(self, hook: str) -> tuple[Callback, ...]:
        """Return the members that override a hook, in order; a nested list counts when one of its members does."""
        members = self._members.get(hook)
        if members is None:
            members = self._members[hook] = tuple(member for member in self.callbacks if _overrides(member, hook))
        return members

    def walk(self) -> Iterator[Callback]:
        """Yield every callback, those in nested lists included, without the lists."""
        for callback in self.callbacks:
            if isinstance(callback, CallbackList):
                yield from callback.walk()
            else:
                yield callback

    def on_attach(self, algo: Any) -> None:
        for member in self:
            member.on_attach(algo)

    def on_training_start(self, **kwargs: Any) -> None:
        for member in self.hook_members("on_training_start"):
            member.on_training_start(**kwargs)

    def on_step(self, **kwargs: Any) -> bool:
        """Run all members and return False when one of them voted to stop, else True."""
        go_on = True
        for member in self.hook_members("on_step"):
            vote = member.on_step(**kwargs)
            if vote is not None and not vote:
                go_on = False
        return go_on

    def on_rollout_end(self, **kwargs: Any) -> None:
        for member in self.hook_members("on_rollout_end"):
            member.on_rollout_end(**kwargs)

    def on_train_batch(self, **kwargs: Any) -> None:
        for member in self.hook_members("on_train_batch"):
            member.on_train_batch(**kwargs)

    def on_eval(self, **kwargs: Any) -> None:
        for member in self.hook_members("on_eval"):
            member.on_eval(**kwargs)

    def on_training_end(self, **kwargs: Any) -> None:
        """Reach every member, then raise the first error that one of them raised.

        To the members after that one, training has failed: what they save is gone on from, not finished.
        """
        first: Exception | None = None
        for member in self.hook_members("on_training_end"):
            try:
                member.on_training_end(**kwargs)
            except Exception as error:
                if first is None:
                    first, kwargs["reason"] = error, "failed"
                    if "algo" in kwargs:
                        kwargs["algo"].reason = "failed"
                else:
                    first.add_note(f"then {type(member).__name__} raised {type(error).__name__}: {printable(error)}")
        if first is not None:
            raise first

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all members with the names of their classes."""
        return {"callbacks": [{"type": type(member).__name__, "state": member.state_dict()} for member in self]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give each saved state to the member of the same class and rank.

        Members without a state start afresh, states without a member are left out.
        """
        waiting = list(self.callbacks)
        for entry in state["callbacks"]:
            taker = next((member for member in waiting if type(member).__name__ == entry["type"]), None)
            if taker is not None:
                waiting.remove(taker)
                taker.load_state_dict(entry["state"])

    def _ancestors(self) -> Iterator[CallbackList]:
        for parent in self._parents:
            yield parent
            yield from parent._ancestors()

    def _forget(self) -> None:
        """Drop what was found about hooks, here and in every list that holds this one."""
        self._members.clear()
        for parent in self._parents:
            parent._forget()


def _overrides(callback: Callback, hook: str) -> bool:
    own = getattr(callback, hook)
    if getattr(own, "__func__", own) is getattr(CallbackList, hook):  # a list that runs the hook as lists do
        return bool(callback.hook_members(hook))  # type: ignore[attr-defined]
    return getattr(own, "__func__", own) is not getattr(Callback, hook)
