import pytest

from rlox.callbacks import PhaseTimer, TimingCallback, timing
from rlox.errors import ConfigError


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(timing, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class Algo:
    def __init__(self):
        self.phases = PhaseTimer()


def test_time_since_the_last_switch_belongs_to_the_phase_that_ran(clock):
    phases = PhaseTimer()
    assert phases.switch("env") is None
    clock.now += 2.0
    assert phases.switch("update") == "env"
    clock.now += 3.0
    assert phases.switch("env") == "update"
    clock.now += 0.5
    assert phases.switch(None) == "env"
    clock.now += 100.0
    assert phases.elapsed() == {**dict.fromkeys(timing.PHASES, 0.0), "env": 2.5, "update": 3.0}


def test_a_phase_inside_another_goes_back_also_after_an_error(clock):
    phases = PhaseTimer()
    phases.switch("env")
    with pytest.raises(ValueError, match="inside"), phases.during("eval"):
        clock.now += 4.0
        raise ValueError("inside")
    clock.now += 1.0
    assert phases.phase == "env"
    assert phases.elapsed()["eval"] == 4.0 and phases.elapsed()["env"] == 1.0


def test_an_unknown_phase_is_refused(clock):
    with pytest.raises(ConfigError, match="phase is 'lunch'"):
        PhaseTimer().switch("lunch")


def test_shares_sum_to_one_before_and_after_time_was_taken(clock):
    phases = PhaseTimer()
    assert phases.shares()["other"] == 1.0
    phases.switch("buffer")
    clock.now += 1.0
    phases.switch("save")
    clock.now += 3.0
    assert phases.metrics()["share_buffer"] == 0.25 and phases.metrics()["share_save"] == 0.75
    assert sum(phases.shares().values()) == pytest.approx(1.0)


def test_seconds_go_on_from_a_saved_state(clock):
    phases = PhaseTimer()
    phases.switch("env")
    clock.now += 2.0
    other = PhaseTimer()
    other.load_state_dict(phases.state_dict())
    other.switch("env")
    clock.now += 1.0
    assert other.elapsed()["env"] == 3.0


def test_the_callback_reads_the_marks_of_the_algorithm(clock):
    algo = Algo()
    callback = TimingCallback()
    callback.on_attach(algo)
    callback.on_training_start(algo=algo, step=0, total_timesteps=10)
    algo.phases.switch("env")
    clock.now += 1.0
    algo.phases.switch("log")
    clock.now += 1.0
    callback.on_step(algo=algo, step=1)
    callback.on_training_end(algo=algo, step=1)
    summary = callback.summary()
    assert summary["env"] == {"seconds": 1.0, "share": 0.5} and summary["log"]["share"] == 0.5
    assert tuple(summary) == timing.PHASES
    assert algo.phases.phase == "log"


def test_the_callback_alone_counts_all_time_as_other(clock):
    callback = TimingCallback()
    callback.on_step(reward=1.0)
    clock.now += 2.0
    callback.on_step()
    callback.on_training_end()
    clock.now += 9.0
    assert callback.summary()["other"] == {"seconds": 2.0, "share": 1.0}
