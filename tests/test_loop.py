"""The training loop: its clock, the order of hooks, votes, signals, the NaN guard, and the one end that always comes."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
from probes import Endless

from rlox import SAC
from rlox.algorithm import Algorithm
from rlox.callbacks import Callback
from rlox.errors import ConfigError, DivergedError
from rlox.logging import LoggerCallback
from rlox.loop import Collected, EpisodeWindow, Interrupt, Stepped, Updated

HOOKS = ("on_training_start", "on_step", "on_rollout_end", "on_train_batch", "on_training_end")
TINY = dict(net_arch=[4], batch_size=4, buffer_size=200, learning_starts=0)


class Scripted(Algorithm):
    """An algorithm whose every advance gives what a function of the step says."""

    def __init__(self, events, callbacks=None, logger=None):
        self._begin(0, "cpu", callbacks, logger)
        self.events = events
        self.callbacks.on_attach(self)

    def advance(self):
        yield from self.events(self)


def one_step(algo):
    yield Stepped(1, 0.5)
    yield Updated({"critic_loss": torch.tensor(float(algo.step))})


class Recorder(Callback):
    """Writes down every hook with its keywords."""

    def __init__(self):
        self.calls = []

    def names(self):
        return [name for name, _ in self.calls]

    def of(self, name):
        return [kwargs for called, kwargs in self.calls if called == name]


for hook in HOOKS:

    def record(self, hook=hook, **kwargs):
        self.calls.append((hook, {k: dict(v) if k == "metrics" else v for k, v in kwargs.items()}))

    setattr(Recorder, hook, record)


class LogRecorder(LoggerCallback):
    def __init__(self, interval=1):
        self.log_interval = interval
        self.calls = []
        self.order = None

    def note(self, name, *args):
        self.calls.append((name, *args))
        if self.order is not None:
            self.order.append(name)

    def open(self, run=None):
        self.note("open")

    def set_total(self, total):
        self.note("set_total", total)

    def on_train_step(self, step, metrics):
        self.note("log", step, dict(metrics))

    def on_rollout_end(self, step, metrics):
        self.note("log_rollout", step)

    def flush(self):
        self.note("flush")

    def close(self):
        self.note("close")


@pytest.mark.parametrize(("n_envs", "asked", "made"), [(1, 7, 7), (3, 7, 9), (3, 9, 9)])
def test_a_step_is_a_transition_summed_over_environments(n_envs, asked, made):
    recorder = Recorder()
    algo = SAC(Endless, n_envs=n_envs, callbacks=recorder, **TINY)
    result = algo.train(asked)
    assert algo.step == made
    assert [k["step"] for k in recorder.of("on_step")] == list(range(n_envs, made + 1, n_envs))
    assert result["n_updates"] == algo.n_updates == made
    algo.train(asked)
    assert algo.step == 2 * made
    assert recorder.of("on_training_start")[1]["total_timesteps"] == made + asked


def test_zero_steps_call_nothing():
    recorder = Recorder()
    algo = Scripted(one_step, recorder)
    assert algo.train(0) == {"n_updates": 0, "reason": "finished"}
    assert recorder.calls == []


@pytest.mark.parametrize("steps", [-1, 1.5, "3", None, True])
def test_a_number_of_steps_that_is_none_is_refused(steps):
    with pytest.raises(ConfigError, match="total_timesteps is"):
        Scripted(one_step).train(steps)


def test_online_hooks_come_in_the_pinned_order():
    order = []
    logger = LogRecorder()
    logger.order = order

    class Order(Callback):
        pass

    for name in HOOKS:
        setattr(Order, name, lambda self, name=name, **kwargs: order.append(name))
    algo = SAC(Endless, callbacks=Order(), logger=logger, gradient_steps=2, **TINY)
    algo.train(2)
    step = ["on_step", "on_rollout_end", "log_rollout", "on_train_batch", "on_train_batch", "log"]
    assert order == ["set_total", "open", "on_training_start", *step, *step, "on_training_end", "flush", "close"]


def test_hooks_get_the_documented_keywords():
    recorder = Recorder()
    algo = SAC(Endless, callbacks=recorder, **TINY)
    algo.train(6)
    wanted = {
        "on_training_start": {"algo", "step", "total_timesteps"},
        "on_step": {"algo", "step", "reward", "episodes", "metrics"},
        "on_rollout_end": {"algo", "step", "metrics"},
        "on_train_batch": {"algo", "step", "n_updates", "metrics"},
        "on_training_end": {"algo", "step", "metrics", "reason"},
    }
    assert {name: set(recorder.of(name)[0]) for name in HOOKS} == wanted
    assert [k["reward"] for k in recorder.of("on_step")] == [1.0] * 6
    assert [k["episodes"] for k in recorder.of("on_step")][4] == [{"return": 5.0, "length": 5, "env": 0}]
    assert [k["n_updates"] for k in recorder.of("on_train_batch")] == [1, 2, 3, 4, 5, 6]


def test_the_reward_of_several_environments_is_their_mean():
    recorder = Recorder()
    algo = SAC(Endless, n_envs=3, callbacks=recorder, **TINY)
    algo.train(15)
    assert [k["reward"] for k in recorder.of("on_step")] == [1.0] * 5
    assert [e["env"] for e in recorder.of("on_step")[-1]["episodes"]] == [0, 1, 2]


def test_metrics_have_no_key_step_or_algo_and_know_the_episodes():
    recorder = Recorder()
    algo = SAC(Endless, callbacks=recorder, **TINY)
    result = algo.train(12)
    assert not {"step", "algo"} & set(recorder.of("on_step")[-1]["metrics"])
    assert (result["return_mean"], result["length_mean"], result["n_episodes"]) == (5.0, 5.0, 2.0)
    assert {"critic_loss", "actor_loss", "ent_coef", "return_mean", "n_updates", "reason"} <= set(result)
    assert all(isinstance(v, float) for k, v in result.items() if k not in ("n_updates", "reason"))


def test_an_unread_metric_is_never_turned_into_a_float():
    reads = []

    class Figure(torch.Tensor):
        def __float__(self):
            reads.append(1)
            return 1.0

        def detach(self):
            return self

    def events(algo):
        yield Stepped(1)
        yield Updated({"unread": torch.zeros(()).as_subclass(Figure)})

    class Look(Callback):
        def on_train_batch(self, *, metrics, **kwargs):
            assert "unread" in metrics and list(metrics) == ["unread"]

        def on_training_end(self, *, metrics, **kwargs):
            assert reads == []

    algo = Scripted(events, Look(), LogRecorder(2))
    algo.loggers.loggers[0].on_train_step = lambda step, metrics: None
    algo.device = torch.device("meta")  # on the CPU the guard reads every update, on other devices every hundredth
    algo.train(3)
    assert reads == [1]  # what train returns


@pytest.mark.parametrize("vote", [False, 0])
def test_a_false_vote_stops_after_everybody_had_the_step(vote):
    class Voter(Callback):
        def on_step(self, *, step, **kwargs):
            return vote if step == 3 else None

    after = Recorder()
    algo = Scripted(one_step, [Voter(), after])
    result = algo.train(10)
    assert (result["reason"], algo.reason, algo.step) == ("stopped", "stopped", 3)
    assert len(after.of("on_step")) == 3 and len(after.of("on_train_batch")) == 3


def test_a_vote_within_a_rollout_counts_at_its_end():
    def rollout(algo):
        yield Stepped(1)
        yield Stepped(1)
        yield Collected()

    class Voter(Callback):
        def on_step(self, *, step, **kwargs):
            return step != 3

    recorder = Recorder()
    algo = Scripted(rollout, [Voter(), recorder])
    assert algo.train(10)["reason"] == "stopped"
    assert algo.step == 4 and len(recorder.of("on_rollout_end")) == 2


@pytest.mark.parametrize("vote", [None, True, 1])
def test_none_and_true_go_on(vote):
    class Voter(Callback):
        def on_step(self, **kwargs):
            return vote

    assert Scripted(one_step, Voter()).train(5)["reason"] == "finished"


def ending(action):
    """The reason that on_training_end is given when ``action`` happens in step 3, and what train raises."""

    class Actor(Callback):
        def on_step(self, *, step, algo, **kwargs):
            return action(algo) if step == 3 else None

    recorder = Recorder()
    logger = LogRecorder()
    algo = Scripted(one_step, [Actor(), recorder], logger)
    error = None
    try:
        algo.train(5)
    except BaseException as raised:
        error = raised
    ends = recorder.of("on_training_end")
    assert len(ends) == 1 and ends[0]["reason"] == algo.reason
    assert [c[0] for c in logger.calls][-2:] == ["flush", "close"]
    assert algo.phases.phase is None
    return algo, error


def raising(error):
    def action(algo):
        raise error

    return action


@pytest.mark.parametrize(
    ("reason", "action", "error"),
    [
        ("finished", lambda algo: None, None),
        ("stopped", lambda algo: False, None),
        ("interrupted", raising(KeyboardInterrupt()), KeyboardInterrupt),
        ("diverged", raising(DivergedError("x")), DivergedError),
        ("failed", raising(ZeroDivisionError()), ZeroDivisionError),
        ("failed", raising(SystemExit(3)), SystemExit),
    ],
)
def test_every_reason_reaches_the_end_exactly_once(reason, action, error):
    algo, raised = ending(action)
    assert algo.reason == reason
    assert type(raised) is (error or type(None))
    assert algo.torn is (error is not None)


def test_an_error_at_the_end_does_not_hide_what_ended_training():
    class Late(Callback):
        def on_training_end(self, **kwargs):
            raise RuntimeError("late")

        def on_step(self, **kwargs):
            raise ZeroDivisionError("early")

    with pytest.raises(ZeroDivisionError, match="early") as caught:
        Scripted(one_step, Late()).train(2)
    assert any("late" in note for note in caught.value.__notes__)


def test_an_error_at_the_end_of_a_good_training_is_raised():
    class Late(Callback):
        def on_training_end(self, **kwargs):
            raise RuntimeError("late")

    with pytest.raises(RuntimeError, match="late"):
        Scripted(one_step, Late()).train(2)


def test_an_error_before_the_first_step_is_an_end_too():
    class Early(Recorder):
        def on_training_start(self, **kwargs):
            raise ConfigError("no")

    early = Early()
    with pytest.raises(ConfigError):
        Scripted(one_step, early).train(2)
    assert [k["reason"] for k in early.of("on_training_end")] == ["failed"]


def test_training_can_go_on_after_a_failure():
    class Once(Callback):
        failed = False

        def on_step(self, *, step, **kwargs):
            if step == 2 and not self.failed:
                self.failed = True
                raise ZeroDivisionError

    algo = Scripted(one_step, Once())
    with pytest.raises(ZeroDivisionError):
        algo.train(4)
    assert algo.train(4)["reason"] == "finished" and algo.step == 6 and algo.torn is False


def test_a_loss_that_is_nan_names_the_step_and_the_figure():
    def events(algo):
        yield Stepped(1)
        yield Updated({"actor_loss": 1.0, "critic_loss": torch.tensor(float("nan") if algo.step == 4 else 0.0)})

    recorder = Recorder()
    algo = Scripted(events, recorder)
    with pytest.raises(DivergedError, match="critic_loss is nan at step 4, update 4") as caught:
        algo.train(10)
    assert caught.value.param == "critic_loss" and caught.value.exit_code == 7
    assert recorder.of("on_training_end")[0]["reason"] == "diverged"
    assert len(recorder.of("on_train_batch")) == 3  # nobody is shown the broken update


def test_a_metric_that_is_no_number_does_not_trouble_the_guard():
    def events(algo):
        yield Stepped(1)
        yield Updated({"note": "text", "per_dim": torch.tensor([1.0, float("nan")])})

    assert Scripted(events).train(2)["note"] == "text"


def test_a_parameter_that_is_not_finite_is_found_at_the_end():
    class Breaks(Callback):
        def on_step(self, *, algo, step, **kwargs):
            if step == 3:
                with torch.no_grad():
                    algo.learner.actor.net.flat[0] = float("inf")

    algo = SAC(Endless, callbacks=Breaks(), **{**TINY, "learning_starts": 100})
    with pytest.raises(DivergedError, match=r"net\.layers\.0\.weight of SquashedGaussianActor is not finite at step 3"):
        algo.train(3)
    assert algo.reason == "diverged"


def test_nothing_is_saved_or_evaluated_from_a_model_that_is_not_finite(tmp_path):
    from rlox.callbacks import CheckpointCallback, EvalCallback

    class Breaks(Callback):
        def on_step(self, *, algo, step, **kwargs):
            if step == 3:
                with torch.no_grad():
                    algo.learner.critic.net.flat[0] = float("nan")

    keeps = [
        EvalCallback(eval_freq=3, n_eval_episodes=1, best_model_path=tmp_path / "best.pt", verbose=False),
        CheckpointCallback(3, tmp_path, verbose=False),
    ]
    for keep in keeps:
        algo = SAC(Endless, callbacks=[Breaks(), keep], **{**TINY, "learning_starts": 100})
        with pytest.raises(DivergedError, match="QEnsemble is not finite at step 3"):
            algo.train(10)
    assert list(tmp_path.iterdir()) == [] and keeps[0].eval_results == []


@pytest.mark.parametrize(("interval", "due"), [(1, [3, 6, 9, 12]), (4, [6, 9, 12]), (5, [6, 12]), (100, [12])])
def test_log_intervals_fire_when_they_are_crossed_and_at_the_end(interval, due):
    logger = LogRecorder(interval)

    def events(algo):
        yield Stepped(3)

    Scripted(events, logger=logger).train(12)
    assert [c[1] for c in logger.calls if c[0] == "log"] == due


def test_logged_metrics_have_rates_and_shares_and_training_metrics_do_not():
    logger = LogRecorder(5)
    algo = Scripted(one_step, logger=logger)
    result = algo.train(10)
    shown = [c[2] for c in logger.calls if c[0] == "log"]
    assert [m["n_updates"] for m in shown] == [5.0, 10.0]
    assert shown[0]["time_left_s"] > 0 and shown[1]["time_left_s"] == 0 and shown[0]["steps_per_second"] > 0
    assert sum(v for k, v in shown[0].items() if k.startswith("share_")) == pytest.approx(1.0)
    assert "steps_per_second" not in result
    assert ("set_total", 10) in logger.calls


def test_the_episode_window_holds_the_last_hundred():
    window = EpisodeWindow()
    assert window.summary() == {}
    window.add([{"return": float(i), "length": i, "env": 0} for i in range(150)])
    assert window.summary() == {"return_mean": 99.5, "length_mean": 99.5, "n_episodes": 150.0}
    other = EpisodeWindow()
    other.load_state_dict(window.state_dict())
    for w in (window, other):
        w.add([{"return": 1000.0, "length": 1, "env": 0}])
    assert other.summary() == window.summary() and other.summary()["n_episodes"] == 151.0


def test_a_collection_phase_tells_callbacks_and_loggers():
    recorder, logger = Recorder(), LogRecorder()

    def events(algo):
        yield Stepped(1)
        yield Collected()

    Scripted(events, recorder, logger).train(2)
    assert recorder.names() == ["on_training_start", *["on_step", "on_rollout_end"] * 2, "on_training_end"]
    assert [c[1] for c in logger.calls if c[0] == "log_rollout"] == [1, 2]


# Signals, in this process where that is safe, and in a process of its own where they would end it.


def handlers():
    return {name: signal.getsignal(getattr(signal, name)) for name in Interrupt.SIGNALS}


def test_handlers_are_there_in_training_only():
    before, inside = handlers(), {}

    class Look(Callback):
        def on_step(self, **kwargs):
            inside.update(handlers())

    Scripted(one_step, Look()).train(1)
    assert all(inside[name] is not before[name] for name in inside)
    assert handlers() == before
    with pytest.raises(ZeroDivisionError):
        Scripted(raising(ZeroDivisionError())).train(1)
    assert handlers() == before


def test_a_signal_that_the_parent_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:

        class Hang(Callback):
            def on_step(self, **kwargs):
                signal.raise_signal(signal.SIGHUP)

        assert Scripted(one_step, Hang()).train(3)["reason"] == "finished"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_training_works_outside_the_main_thread():
    algo, before = Scripted(one_step), handlers()
    thread = threading.Thread(target=algo.train, args=(3,))
    thread.start()
    thread.join()
    assert algo.reason == "finished" and handlers() == before


class Kill(Callback):
    def __init__(self, *numbers, at=3):
        self.numbers, self.at = numbers, at

    def on_step(self, *, step, **kwargs):
        if step == self.at:
            for number in self.numbers:
                signal.raise_signal(number)


def test_a_signal_is_said_below_a_live_panel_and_the_cursor_goes_back_into_it(capfd):
    class Panel(LoggerCallback):
        is_live = True

    algo = Scripted(one_step, [Kill(signal.SIGTERM)], Panel())
    algo.run = object()
    algo.train(10)
    assert capfd.readouterr().err == "\r\nSIGTERM: stopping after this step; a second signal ends at once\x1b[K\x1b[A"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_in_a_run_a_signal_ends_training_at_the_step_boundary_and_train_returns(number, capfd):
    recorder = Recorder()
    algo = Scripted(one_step, [Kill(number), recorder])
    algo.run = object()
    result = algo.train(10)
    assert (result["reason"], algo.signal, algo.step, algo.n_updates) == ("interrupted", number, 3, 3)
    assert [k["reason"] for k in recorder.of("on_training_end")] == ["interrupted"]
    assert algo.torn is False
    assert capfd.readouterr().err == f"{number.name}: stopping after this step; a second signal ends at once\n"
    algo.train(2)
    assert algo.signal is None and algo.reason == "finished"


def test_a_second_ctrl_c_ends_it_at_once_and_nothing_is_saved(tmp_path):
    from rlox.callbacks import CheckpointCallback

    saver = CheckpointCallback(0, tmp_path, verbose=False)
    recorder = Recorder()
    algo = SAC(Endless, callbacks=[Kill(signal.SIGINT, signal.SIGINT), saver, recorder], **TINY)
    algo.run = object()
    with pytest.raises(KeyboardInterrupt):
        algo.train(10)
    assert algo.step == 3 and algo.n_updates == 2  # in the middle of the third step
    assert [k["reason"] for k in recorder.of("on_training_end")] == ["interrupted"]
    assert saver.saved == [] and algo.torn and algo.signal == signal.SIGINT


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("second", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 143)])
def test_a_second_signal_of_any_kind_leaves_at_once_with_its_code(first, second, code, tmp_path, monkeypatch):
    from rlox.callbacks import CheckpointCallback

    monkeypatch.setattr(Interrupt, "TOGETHER_S", 0.0)
    saver, recorder, before = CheckpointCallback(0, tmp_path, verbose=False), Recorder(), handlers()
    algo = SAC(Endless, callbacks=[Kill(first, second), saver, recorder], **TINY)
    algo.run = object()
    with pytest.raises(SystemExit) as ended:
        algo.train(10)
    assert ended.value.code == ended.value.exit_code == code
    assert algo.step == 3 and algo.n_updates == 2  # in the middle of the third step
    assert [k["reason"] for k in recorder.of("on_training_end")] == ["interrupted"]
    assert saver.saved == [] and algo.torn and handlers() == before


def test_a_signal_sent_to_a_process_and_to_its_group_is_one_request(monkeypatch):
    monkeypatch.setattr(Interrupt, "TOGETHER_S", 3600.0)
    algo = Scripted(one_step, Kill(signal.SIGTERM, signal.SIGTERM, signal.SIGHUP))
    algo.run = object()
    assert algo.train(10)["reason"] == "interrupted"
    assert algo.signal == signal.SIGTERM and algo.torn is False


def test_the_first_ctrl_c_saves(tmp_path):
    from rlox.callbacks import CheckpointCallback

    saver = CheckpointCallback(0, tmp_path, verbose=False)
    algo = SAC(Endless, callbacks=[Kill(signal.SIGINT), saver], **TINY)
    algo.run = object()
    algo.train(10)
    assert [p.name for p in saver.saved] == ["step_000000003.pt"]


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_loop import Kill, Scripted, one_step
from rlox.callbacks import Callback

class End(Callback):
    def on_training_end(self, *, reason, step, **kwargs):
        print("end", reason, step, flush=True)

algo = Scripted(one_step, [Kill(*[getattr(signal, name) for name in {names!r}]), End()])
{body}
"""


def run_script(*names, body="algo.train(10)"):
    code = SCRIPT.format(tests=str(__import__("pathlib").Path(__file__).parent), names=names, body=textwrap.dedent(body))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout.split("\n"), done.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_in_a_script_the_signal_then_does_what_it_does_without_training(name):
    code, out, err = run_script(name)
    assert code == -getattr(signal, name), err
    assert err == ""  # the library says nothing unasked
    assert out[0] == "end interrupted 3"


@pytest.mark.parametrize("times", [1, 2])
def test_in_a_script_ctrl_c_raises_keyboard_interrupt_after_the_end(times):
    body = """
    before = signal.getsignal(signal.SIGINT)
    try:
        algo.train(10)
    except KeyboardInterrupt:
        print("caught", algo.step, algo.torn, signal.getsignal(signal.SIGINT) is before)
    """
    code, out, err = run_script(*["SIGINT"] * times, body=body)
    assert code == 0, err
    assert out[:2] == ["end interrupted 3", f"caught 3 {times == 2} True"]


def test_in_a_script_its_own_handler_is_called_and_train_returns():
    body = """
    signal.signal(signal.SIGTERM, lambda number, frame: print("mine", number))
    print(algo.train(10)["reason"])
    """
    code, out, err = run_script("SIGTERM", body=body)
    assert code == 0, err
    assert out[:3] == ["end interrupted 3", f"mine {int(signal.SIGTERM)}", "interrupted"]


def test_an_environment_that_fails_leaves_a_checkpoint_of_the_step_before(tmp_path):
    import gymnasium as gym

    from rlox.algorithms.sac import SAC
    from rlox.callbacks import CheckpointCallback
    from rlox.errors import EnvError

    class Breaks(gym.Wrapper):
        steps = 0

        def step(self, action):
            self.steps += 1
            if self.steps == 30:
                raise RuntimeError("out of order")
            return self.env.step(action)

    saver = CheckpointCallback(save_freq=0, save_path=tmp_path / "kept", verbose=False)
    algo = SAC(lambda: Breaks(gym.make("Pendulum-v1")), net_arch=[8], batch_size=8, learning_starts=10, callbacks=saver)
    with pytest.raises(EnvError, match="out of order"):
        algo.train(100)
    assert [path.name for path in saver.saved] == ["step_000000029.pt"]
    assert SAC.from_checkpoint(saver.saved[0]).step == 29
