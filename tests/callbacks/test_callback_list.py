import numpy as np
import pytest

from rlox.callbacks import Callback, CallbackList
from rlox.callbacks.base import HOOKS
from rlox.errors import ConfigError


class Recorder(Callback):
    def __init__(self, name, log, vote=None):
        self.name, self.log, self.vote = name, log, vote

    def on_step(self, **kwargs):
        self.log.append((self.name, kwargs))
        return self.vote


class Stateful(Callback):
    count = 0

    def on_training_start(self, **kwargs):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Raiser(Callback):
    def __init__(self, error):
        self.error = error

    def on_training_end(self, **kwargs):
        raise self.error


class AtEnd(Callback):
    reason = None

    def on_training_end(self, **kwargs):
        self.reason = kwargs["reason"]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_of_the_base_accepts_no_keyword_and_any_keyword(hook):
    for callback in (Callback(), CallbackList(), CallbackList([Callback()])):
        getattr(callback, hook)()
        getattr(callback, hook)(anything=1)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_reaches_members_of_nested_lists_in_order(hook):
    seen = []

    def member(name):
        callback = Callback()
        setattr(callback, hook, lambda **kwargs: seen.append((name, kwargs)))
        return callback

    callbacks = CallbackList([member("a"), CallbackList([member("b"), CallbackList(member("c"))]), member("d")])
    getattr(callbacks, hook)(step=7)
    assert seen == [(name, {"step": 7}) for name in "abcd"]


@pytest.mark.parametrize("given", [None, [], ()])
def test_a_list_of_nothing_votes_to_go_on(given):
    callbacks = CallbackList(given)
    assert len(callbacks) == 0 and callbacks.on_step(step=1) is True


def test_one_callback_a_generator_and_another_list_are_all_accepted():
    one = Callback()
    assert list(CallbackList(one)) == [one]
    assert list(CallbackList(c for c in [one, one])) == [one, one]
    inner = CallbackList([one])
    assert list(CallbackList(inner)) == [one]


def test_the_list_of_the_caller_is_copied():
    given = [Callback()]
    callbacks = CallbackList(given)
    callbacks.append(Callback())
    given.clear()
    assert len(callbacks) == 2


@pytest.mark.parametrize("bad", [3, "progress", Callback, [Callback(), None], [Callback]])
def test_what_is_no_callback_is_refused_by_name(bad):
    with pytest.raises(ConfigError, match=r"callbacks\[\d\] is .*must be a Callback object"):
        CallbackList(bad)


def test_a_list_cannot_contain_itself():
    outer, inner = CallbackList(), CallbackList()
    outer.append(inner)
    with pytest.raises(ConfigError, match="contain itself"):
        inner.append(outer)
    with pytest.raises(ConfigError, match="contain itself"):
        outer.append(outer)


@pytest.mark.parametrize("vote, goes_on", [(None, True), (True, True), (1, True), (False, False), (0, False)])
def test_votes_are_combined_after_all_members_ran(vote, goes_on):
    log = []
    callbacks = CallbackList([Recorder("a", log, vote), CallbackList([Recorder("b", log, True)])])
    assert callbacks.on_step(step=3, reward=0.5) is goes_on
    assert log == [("a", {"step": 3, "reward": 0.5}), ("b", {"step": 3, "reward": 0.5})]


def test_a_numpy_false_stops_and_a_vote_from_a_nested_list_counts():
    assert CallbackList([CallbackList([Recorder("a", [], np.False_)])]).on_step() is False


def test_members_that_do_not_override_a_hook_are_not_called():
    log = []
    recorder = Recorder("a", log)
    callbacks = CallbackList([Callback(), recorder, CallbackList([Callback()])])
    assert callbacks.hook_members("on_step") == (recorder,)
    assert callbacks.hook_members("on_train_batch") == ()


def test_a_member_appended_to_a_nested_list_is_seen_by_the_outer_one():
    inner = CallbackList()
    outer = CallbackList([CallbackList([inner])])
    assert outer.hook_members("on_step") == ()
    log = []
    inner.append(Recorder("late", log))
    outer.on_step(step=1)
    assert log == [("late", {"step": 1})]


def test_a_subclass_of_the_list_may_override_a_hook():
    class Silenced(CallbackList):
        def on_step(self, **kwargs):
            return False

    log = []
    assert CallbackList([Silenced([Recorder("a", log)])]).on_step() is False
    assert log == []


def test_training_end_reaches_all_members_and_raises_the_first_error_last():
    last = AtEnd()
    callbacks = CallbackList([Raiser(ValueError("one")), CallbackList([Raiser(KeyError("two")), last])])
    with pytest.raises(ValueError, match="one") as caught:
        callbacks.on_training_end(reason="finished")
    assert last.reason == "failed"  # what it saves is not finished
    assert caught.value.__notes__ == ["then CallbackList raised KeyError: 'two'"]


def test_attaching_reaches_every_member():
    seen = []

    class Attached(Callback):
        def on_attach(self, algo):
            seen.append(algo)

    CallbackList([Attached(), CallbackList([Attached()])]).on_attach("algo")
    assert seen == ["algo", "algo"]


def test_walking_yields_the_leaves():
    a, b, c = Callback(), Callback(), Callback()
    assert list(CallbackList([a, CallbackList([b, CallbackList([c])])]).walk()) == [a, b, c]


def test_state_goes_to_the_member_of_the_same_class_and_rank():
    callbacks = CallbackList([Stateful(), CallbackList([Stateful()]), Stateful()])
    first, nested, third = callbacks.walk()
    first.count, nested.count, third.count = 1, 2, 3
    other = CallbackList([Callback(), Stateful(), Stateful(), CallbackList([Stateful()])])
    other.load_state_dict(callbacks.state_dict())
    assert [c.count for c in other.walk() if isinstance(c, Stateful)] == [1, 3, 2]


def test_a_state_that_nobody_takes_is_left_out():
    saved = CallbackList([Stateful(), Stateful()])
    saved.callbacks[0].count = 7
    other = Stateful()
    CallbackList([Callback(), other]).load_state_dict(saved.state_dict())
    assert other.count == 7  # the first of its class, whatever stands before it
    empty = CallbackList()
    empty.load_state_dict(saved.state_dict())
    assert len(empty) == 0
