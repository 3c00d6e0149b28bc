"""Bad options, environments and places: one line, a hint, an exit code, and nothing left behind."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cli_files import write_checkpoint, write_nonfinite
from cli_run import environment, refused, run
from train_runs import OFFLINE, TINY, the_run


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A folder with a checkpoint, one with a NaN, and datasets of Box and of Discrete actions."""
    from rlox.cli.main import main

    folder = tmp_path_factory.mktemp("shared")
    write_checkpoint(folder / "good.pt")
    write_nonfinite(folder / "nan.pt", folder / "good.pt")
    for name, env in (("walk", "own_envs:Walk"), ("cart", "CartPole-v1")):
        argv = ["dataset", "collect", "--env", env, "--policy", "random", "--steps", "200", "-o", str(folder / f"{name}.h5")]
        assert main(argv) == 0
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLOX_RUNS_DIR", raising=False)


SAC = "train sac --env Pendulum-v1"
BC = "offline bc --dataset SHARED/walk.h5 --env none"
CQL = "offline cql --dataset SHARED/walk.h5 --env none"
COLLECT = "dataset collect --policy random --steps 9 -o a.h5"

# (command, exit code, what must be said). Every command is refused before anything is written.
REFUSED = [
    # Environments: unknown, without a package, failing to import
    ("train sac --env Pendulum-v0", 3, ["'Pendulum-v0'", "v0", "Pendulum-v1"]),
    (f"{COLLECT} --env Pendulum-v9", 3, ["Pendulum-v9", "Pendulum-v1"]),
    (f"{COLLECT} --env ''", 3, ["empty"]),
    (f"{BC} --env Pendulum-v0", 3, ["Pendulum-v0", "Pendulum-v1"]),
    (f"{BC} --env ''", 3, ["empty"]),
    (f"{BC} --env no_such_module:Env-v0", 3, ["no_such_module"]),
    (f"{COLLECT} --env no_such_module:Env-v0", 3, ["no_such_module"]),
    (f"{COLLECT} --env gone.py:Env", 3, ["gone.py"]),
    ("train sac --env bad_envs:Needs", 8, ["bad_envs:Needs", "no physics engine"]),
    (f"{COLLECT} --env bad_envs:Needs", 8, ["bad_envs:Needs", "no physics engine"]),
    ("eval SHARED/good.pt --env bad_envs:Needs", 8, ["bad_envs:Needs", "no physics engine"]),
    # Spaces
    ("offline bc --dataset SHARED/cart.h5 --env none --batch-size 8", 5, ["bc needs Box actions", "Discrete(2)"]),
    ("offline cql --dataset SHARED/cart.h5 --env none --batch-size 8", 5, ["cql needs Box actions", "Discrete(2)"]),
    ("train sac --env bad_envs:TupleObs", 5, ["Tuple", "Box (at most rank 2 when uint8), Discrete"]),
    ("train sac --env bad_envs:GraphObs", 5, ["Graph", "Box (at most rank 2 when uint8), Discrete"]),
    ("train sac --env bad_envs:Image", 5, ["(8, 8, 3)"]),
    ("train sac --env bad_envs:ManyActions", 5, ["sac needs Box actions", "MultiDiscrete"]),
    ("train sac --env bad_envs:NoActions", 5, ["(0,)"]),
    ("train sac --env bad_envs:Reversed", 5, ["low[1] 2.0 and high[1] 1.0"]),
    ("train sac --env bad_envs:NaNBound", 5, ["high[1] is NaN"]),
    (f"{COLLECT} --env bad_envs:ManyActions", 5, ["MultiDiscrete"]),
    (f"{BC} --env bad_envs:TupleObs", 5, ["Tuple"]),
    # Numbers out of range
    (f"{SAC} --tau 1.5", 2, ["tau is 1.5, must be in (0, 1]"]),
    (f"{SAC} --tau -0.1", 2, ["tau is -0.1"]),
    (f"{SAC} --learning-rate 0", 2, ["learning_rate is 0"]),
    (f"{SAC} --learning-rate nan", 2, ["learning_rate is nan"]),
    (f"{SAC} --learning-rate -1", 2, ["learning_rate is -1"]),
    (f"{SAC} --gamma x", 2, ["gamma is 'x'"]),
    (f"{SAC} --batch-size 0", 2, ["batch_size is 0"]),
    (f"{SAC} --batch-size -4", 2, ["batch_size is -4"]),
    (f"{SAC} --buffer-size 0", 2, ["buffer_size is 0"]),
    (f"{SAC} --steps 0", 2, ["steps is 0"]),
    (f"{SAC} --steps -5", 2, ["steps is -5"]),
    (f"{SAC} --steps ten", 2, ["steps is 'ten'"]),
    (f"{SAC} --save-freq -1", 2, ["save_freq is -1"]),
    (f"{SAC} --keep-last 0", 2, ["keep_last is 0"]),
    (f"{SAC} --eval-episodes 0", 2, ["eval_episodes is 0"]),
    (f"{SAC} --log-interval 0", 2, ["log_interval is 0"]),
    (f"{SAC} --env-timeout -1", 2, ["env_timeout is -1"]),
    (f"{SAC} --learning-starts 300 --steps 300", 2, ["learning_starts is 300", "steps 300"]),
    (f"{SAC} --max-memory 1XB", 2, ["max_memory is", "1XB"]),
    (f"{BC} --batch-size 0", 2, ["batch_size is 0"]),
    (f"{BC} --steps 0", 2, ["steps is 0"]),
    (f"{BC} --steps 1.5", 2, ["steps is 1.5"]),
    (f"{BC} --steps 1e30", 2, ["steps is", "1e+30"]),
    (f"{BC} --learning-rate inf", 2, ["learning_rate is inf"]),
    (f"{BC} --seed -1", 2, ["seed is -1, must be in [0, 4294967295]"]),
    (f"{BC} --seed 4294967296", 2, ["seed is 4294967296"]),
    (f"{BC} --threads 0", 2, ["threads is 0, must be in [1, 1024]"]),
    (f"{BC} --device cuda:x", 2, ["cuda:x"]),
    (f"{CQL} --gamma 2", 2, ["gamma is 2, must be in [0, 1]"]),
    (f"{CQL} --tau 0", 2, ["tau is 0"]),
    (f"{COLLECT} --env Pendulum-v1 --seed x", 2, ["seed is 'x'"]),
    (f"{COLLECT} --env Pendulum-v1 --device cuda:x", 2, ["cuda:x"]),
    # --set and config files
    (f"{SAC} --set gamma", 2, ["gamma", "KEY=VALUE"]),
    (f"{SAC} --set gamma='fast'", 2, ["gamma is 'fast'", "number"]),
    (f"{SAC} --set batch_size=[1]", 2, ["batch_size is '[1]', must be an integer"]),
    (f"{SAC} --set gamma=0.5 --set gamma=0.6", 2, ["gamma", "twice"]),
    (f"{SAC} --set gama=0.5", 2, ["unknown key 'gama'", "algo.gamma"]),
    (f"{BC} --set bach_size=5", 2, ["unknown key 'bach_size'", "algo.batch_size"]),
    (f"{SAC} --config CONFIG/empty.toml", 2, ["empty.toml"]),
    (f"{SAC} --config CONFIG/syntax.toml", 2, ["syntax.toml is not valid TOML", "line 2, column 9"]),
    (f"{SAC} --config CONFIG/unknown.toml", 2, ["unknown.toml:3", "gama", "gamma"]),
    (f"{SAC} --config CONFIG/binary.toml", 2, ["binary.toml"]),
    (f"{SAC} --config CONFIG/huge.toml", 2, ["huge.toml", "1073741824"]),
    (f"{SAC} --config CONFIG/evil.yaml", 2, ["evil.yaml", "TOML"]),
    (f"{BC} --config CONFIG/syntax.toml", 2, ["syntax.toml is not valid TOML", "line 2, column 9"]),
    (f"{SAC} --config absent.toml", 3, ["absent.toml does not exist"]),
    # Checkpoints
    (f"{COLLECT} --policy SHARED/nan.pt", 4, ["nan.pt", "NaN"]),
    (f"{COLLECT} --policy SHARED/walk.h5", 4, ["walk.h5", "an HDF5 file"]),
    ("eval SHARED/walk.h5", 4, ["walk.h5", "an HDF5 file"]),
    ("eval SHARED", 4, ["is a folder, not a checkpoint", "give the file inside", ".pt"]),
    ("checkpoint info SHARED", 4, ["is a folder, not a checkpoint", "give the file inside", ".pt"]),
    ("checkpoint diff SHARED/good.pt SHARED/walk.h5", 4, ["walk.h5", "an HDF5 file"]),
    # Places that cannot be written
    (f"{BC} --run-dir CONFIG/empty.toml", 6, ["empty.toml"]),
    (f"{BC} --runs-dir CONFIG/empty.toml", 6, ["empty.toml"]),
    (f"{BC} --run-dir {'x' * 300}", 6, ["too long"]),
    (f"{COLLECT} --env Pendulum-v1 -o CONFIG/empty.toml", 6, ["empty.toml exists already", "--force"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    contents = {
        "empty.toml": b"",
        "syntax.toml": b"[algo]\ngamma = = 1\n",
        "unknown.toml": b"[algo]\nbatch_size = 8\ngama = 0.5\n",
        "binary.toml": bytes(range(256)),
        "evil.yaml": f"!!python/object/apply:os.system ['touch {folder}/canary']\n".encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with open(folder / "huge.toml", "wb") as file:
        file.truncate(2**30)
    return folder


@pytest.mark.parametrize(("command", "code", "words"), REFUSED, ids=[c.replace("x" * 300, "xxx")[:70] for c, _, _ in REFUSED])
def test_it_is_refused_in_a_line_with_its_code_and_leaves_nothing(capsys, shared, configs, command, code, words):
    argv = shlex.split(command.replace("SHARED", str(shared)).replace("CONFIG", str(configs)))
    refused(run(capsys, *argv), code, *words)
    assert os.listdir() == [] and not (configs / "canary").exists()
    assert (configs / "empty.toml").read_bytes() == b""


def test_each_refusal_is_one_json_document_too(capsys, shared, configs):
    for command, code, _ in REFUSED[::9]:
        argv = shlex.split(command.replace("SHARED", str(shared)).replace("CONFIG", str(configs)))
        document = run(capsys, *argv, "--json").json
        assert document["exit_code"] == code and document["ok"] is False and document["error"]["message"]


# --- environments that fail once training is under way ---


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Outside", ["99", "observation"]),
        ("RaisesInReset", ["no [/red] camera", "reset"]),
        ("LateShape", ["(3,)", "(2,)", "environment 0, episode 12, step 10"]),
        ("LateText", ["observation", "environment 0, episode 12, step 10"]),
        ("LateNaN", ["nan", "observation", "environment 0, episode 12, step 10"]),
        ("LateReward", ["reward", "much", "environment 0, episode 12, step 10"]),
        ("LateOldStyle", ["4", "5", "environment 0, episode 12, step 10"]),
    ],
)
@pytest.mark.parametrize("vec", ["sync", "async"])
def test_an_environment_that_breaks_its_contract_ends_the_run_with_the_step_and_what(capsys, name, words, vec):
    ran = run(capsys, "train", "sac", "--env", f"bad_envs:{name}", *TINY, "--vec", vec)
    assert ran.code == 7 and "Traceback" not in ran.err, ran.err
    tail = ran.err[ran.err.index("error:") :]
    assert len(tail.splitlines()) <= 6
    for word in words:
        assert word in tail, (word, tail)
    assert "environment 0" in tail
    assert (the_run() / "crash.log").is_file() or name in ("Outside", "RaisesInReset")


def test_a_worker_that_dies_ends_the_run_with_its_exit(capsys):
    ran = run(capsys, "train", "sac", "--env", "bad_envs:LateExit", *TINY, "--vec", "async")
    assert ran.code == 7 and "exit code 3" in ran.err and "Traceback" not in ran.err
    assert (the_run() / "crash.log").is_file()


@pytest.mark.parametrize("algo", ["bc", "cql"])
def test_an_offline_loss_that_diverges_ends_the_run(capsys, shared, algo):
    argv = ("offline", algo, "--dataset", shared / "walk.h5", "--env", "none", *OFFLINE, "--steps", 3000)
    ran = run(capsys, *argv, "--set", "learning_rate=1e20")
    assert ran.code == 7 and "loss" in ran.err and "Traceback" not in ran.err
    assert "crash.log" in ran.err


# --- the disk ---


@pytest.mark.parametrize(("command", "left"), [("dataset collect --env Pendulum-v1 --steps 9000 -o a.h5", []),
                                               (f"offline bc --dataset DATA --env none {' '.join(map(str, OFFLINE))} --net-arch [400,400]", ["runs"])])  # fmt: skip
def test_a_file_that_may_not_grow_is_a_write_error_and_leaves_no_half(shared, tmp_path, command, left):
    argv = [str(shared / "walk.h5") if word == "DATA" else word for word in command.split()]
    line = ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", sys.executable, "-m", "rlox", *argv]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 6, done.stderr
    assert "File too large" in done.stderr and "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == left and list(tmp_path.rglob("*.tmp")) == list(tmp_path.rglob("*.pt")) == []


@pytest.mark.parametrize("number", ["EROFS", "EDQUOT", "EMFILE", "ENOSPC"])
def test_a_file_system_that_refuses_is_named_with_its_words(capsys, monkeypatch, number):
    import errno

    code = getattr(errno, number)

    def refuse(path, *args, **kwargs):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    refused(run(capsys, "train", "sac", "--env", "Pendulum-v1", *TINY), 6, os.strerror(code))
    assert os.listdir() == []


def test_a_missing_extension_names_the_rebuild_command_for_training_too(capsys, shared, monkeypatch):
    import builtins

    imported = builtins.__import__

    def no_extension(name, *args, **kwargs):
        if name.endswith("rows") or (len(args) > 2 and args[2] and "rows" in args[2]):
            raise ImportError("undefined symbol: PyOld")
        return imported(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.startswith(("rlox._ext", "rlox.buffers", "rlox.online", "rlox.algorithms"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", no_extension)
    refused(run(capsys, "train", "sac", "--env", "Pendulum-v1", *TINY), 8, "pip install -e .")
    assert list(Path().rglob("*.json")) == []

# --- checkpoints whose content does not fit ---


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["learner"]["actor"].popitem(), ["the state does not fit SAC: Missing key(s) in state_dict: \"net.layers."]),
        (lambda s: s["learner"]["actor"].update(extra=s["learner"]["temperature"]["log_ent_coef"]),
         ["the state does not fit SAC: Unexpected key(s) in state_dict: \"extra\""]),
        (lambda s: s["learner"].update(actor=3), ["the state does not fit SAC"]),
        (lambda s: s.pop("episodes"), ["the state does not fit SAC", "episodes"]),
        (lambda s: s.update(step="ten"), ["the state does not fit SAC", "'ten'"]),
    ],
    ids=["missing", "extra", "no table", "no episodes", "text"],
)  # fmt: skip
def test_a_state_that_is_not_the_one_of_its_algorithm_is_refused_with_the_key(capsys, shared, change, words):
    from rlox import checkpoint

    state, manifest = checkpoint.load(shared / "good.pt")
    change(state)
    checkpoint.save("x.pt", state, manifest)
    refused(run(capsys, "eval", "x.pt", "--episodes", 1), 4, "x.pt", *words)


@pytest.mark.parametrize("command", ["eval X", "checkpoint info X", "checkpoint verify X", "checkpoint diff X X", f"{COLLECT} --policy X"])
def test_a_newer_format_is_named_with_both_versions(capsys, command):
    from checkpoint_files import forge, pickled_dict, tensor_opcodes

    forge(Path("x.pt"), pickled_dict(tensor_opcodes()), manifest={"format": 7, "rlox": "9.9"})
    refused(run(capsys, *command.replace("X", "x.pt").split()), 5, "its format version is 7, this rlox reads up to 1", "9.9")
    assert os.listdir() == ["x.pt"]
