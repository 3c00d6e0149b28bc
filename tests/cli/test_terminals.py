"""Every light command on every kind of output: code, no colour where none is wanted, output that parses."""

import json
import os
import subprocess
import sys

import pytest
from cli_files import write_checkpoint
from cli_run import environment, run, spawn, spawn_on_terminal

COMMANDS = {
    "info": ["checkpoint", "info", "good.pt", "--tensors"],
    "verify": ["checkpoint", "verify", "good.pt", "good.pt"],
    "dataset": ["dataset", "info", "data.h5"],
    "list": ["train", "--list"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from rlox.cli.main import main

    folder = tmp_path_factory.mktemp("terminals")
    write_checkpoint(folder / "good.pt")
    assert main(["dataset", "collect", "--env", "Pendulum-v1", "--steps", "30", "-o", str(folder / "data.h5")]) == 0
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_in_a_pipe_lines_are_tab_separated_and_plain(folder, name):
    ran = spawn(*COMMANDS[name], cwd=folder, COLUMNS="20")
    assert ran.code == 0 and ran.err == ""
    assert "\x1b" not in ran.out and "…" not in ran.out and "│" not in ran.out
    assert all("\t" in line for line in ran.out.splitlines() if line)


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_one_document(folder, name):
    ran = spawn(*COMMANDS[name], "--json", cwd=folder, FORCE_COLOR="1")
    document = json.loads(ran.out)
    assert ran.code == 0 and document["ok"] is True and document["schema"].startswith("rlox.") and document["warnings"] == []


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    "extra",
    [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}, {"NO_COLOR": "1", "COLUMNS": "40"}, {"NO_COLOR": "1", "COLUMNS": "0"},
     {"NO_COLOR": "1", "COLUMNS": "1"}, {"NO_COLOR": "1", "PYTHONIOENCODING": "ascii"}],
    ids=str,
)  # fmt: skip
def test_plain_terminals_get_plain_text(folder, name, extra):
    ran = spawn_on_terminal(*COMMANDS[name], cwd=folder, **extra)
    assert ran.code == 0 and "\x1b" not in ran.out and "Traceback" not in ran.out
    if "COLUMNS" in extra or "PYTHONIOENCODING" in extra:
        assert "│" not in ran.out
    if "PYTHONIOENCODING" in extra:
        assert ran.out.isascii()


def test_a_terminal_gets_a_table_in_colour(folder):
    ran = spawn_on_terminal(*COMMANDS["verify"], cwd=folder, COLUMNS="120")
    assert ran.code == 0 and "│" in ran.out
    ran = spawn_on_terminal(*COMMANDS["info"], cwd=folder, COLUMNS="120")
    assert "\x1b[1malgorithm" in ran.out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_went_away_is_141_and_silent(folder, name):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "rlox", *COMMANDS[name]], stdout=write, stderr=subprocess.PIPE, cwd=folder,
                          env=environment(), timeout=60)  # fmt: skip
    os.close(write)
    assert done.returncode == 141 and done.stderr == b""


def test_head_of_a_long_result_is_141_and_silent(folder):
    line = "$PY -m rlox checkpoint info good.pt --tensors | head -0; echo ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, cwd=folder, env=environment(PY=sys.executable), timeout=60)
    assert done.stdout == b"141\n" and done.stderr == b""


def test_numbers_are_exact_in_a_pipe_and_json(capsys, folder):
    argv = ["eval", folder / "good.pt", "--episodes", "1", "--max-episode-steps", "3"]
    exact = run(capsys, *argv, "--json").json["result"]["return_mean"]
    assert f"return_mean\t{exact!r}\n" in run(capsys, *argv).out


def test_several_checkpoints_are_a_table_at_80_columns(folder):
    ran = spawn_on_terminal("eval", "good.pt", "good.pt", "--episodes", 1, "--max-episode-steps", 5, cwd=folder, COLUMNS="80", NO_COLOR="1")
    rows = [line for line in ran.out.splitlines() if line.startswith("│")]
    assert ran.code == 0 and len(rows) == 3 and "return_mean" in rows[0] and "seed" not in rows[0]
    assert rows[1].startswith("│ good.pt ") and str(folder) not in ran.out


def test_a_terminal_says_that_the_return_is_that_of_the_best_model(tmp_path):
    argv = ("train", "sac", "--env", "Pendulum-v1", "--steps", 120, "--net-arch", "8", "--eval-episodes", 1, "--no-tensorboard")
    ran = spawn_on_terminal(*argv, "--no-progress", cwd=tmp_path, NO_COLOR="1", COLUMNS="100")
    assert ran.code == 0, ran.out
    assert "\nevaluated         best.pt, 1 fresh episode\nbest_return_mean  -" in ran.out
