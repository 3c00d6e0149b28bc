"""Stdout is for results: whatever an environment prints, and however, goes to stderr."""

from __future__ import annotations

import json
import os
import sys

import pytest
from cli_run import run, spawn
from own_envs import Walk
from train_runs import TINY

from rlox.cli._divert import diverted, results

print("a module that talks when it is imported")


class Talking(Walk):
    """Prints from Python, from a descriptor and from compiled code, in each reset."""

    def reset(self, *, seed=None, options=None):
        import ctypes

        print("python talks")
        os.write(1, b"the descriptor talks\n")
        ctypes.CDLL(None).puts(b"compiled code talks")
        return super().reset(seed=seed, options=options)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


TESTS = os.path.dirname(__file__)
TALK = ("python talks", "the descriptor talks", "compiled code talks", "a module that talks")


def command(*argv, folder):
    path = os.pathsep.join([TESTS, os.path.dirname(os.path.dirname(TESTS))])
    ran = spawn(*argv, cwd=folder, PYTHONPATH=path)
    assert ran.code == 0, ran.err
    assert not any(words in ran.out for words in TALK), ran.out
    assert all(words in ran.err for words in TALK), ran.err
    return ran


@pytest.mark.parametrize("vec", ["sync", "async"])
def test_the_path_of_a_run_stands_alone_on_stdout(folder, vec):
    train = ("train", "sac", "--env", "test_divert:Talking", *TINY, "--vec", vec)
    ran = command(*train, "--print-path", folder=folder)
    assert ran.out.count("\n") == 1 and (folder / ran.out.strip()).is_file()


def test_the_json_of_a_command_stands_alone_on_stdout(folder):
    train = ("train", "sac", "--env", "test_divert:Talking", *TINY)
    best = json.loads(command(*train, "--json", folder=folder).out)["result"]["best"]
    evaluated = command("eval", best, "--env", "test_divert:Talking", "--episodes", 2, "--json", folder=folder)
    assert json.loads(evaluated.out)["ok"] is True
    collect = ("dataset", "collect", "--out", "x.h5", "--env", "test_divert:Talking", "--policy", "random", "--steps", 30)
    assert json.loads(command(*collect, "--json", folder=folder).out)["ok"] is True


def test_in_one_process_streams_come_back(capsys, folder):
    before = sys.stdout
    ran = run(capsys, "train", "sac", "--env", "test_divert:Talking", *TINY, "--json")
    assert ran.code == 0 and ran.json["ok"] and "python talks" not in ran.out and "python talks" in ran.err
    assert sys.stdout is before


def test_results_are_the_way_out_and_an_error_restores(capsys):
    with pytest.raises(ZeroDivisionError), diverted():
        print("talk")
        with diverted():
            print("more talk")
        with results():
            print("result")
        print("still talk")
        raise ZeroDivisionError
    print("after")
    out, err = capsys.readouterr()
    assert (out, err) == ("result\nafter\n", "talk\nmore talk\nstill talk\n")


def test_a_hint_is_said_once_also_with_debug(capsys):
    ran = run(capsys, "train", "sac", "--env", "Pendulm-v1", "--debug")
    assert ran.code == 3 and "Traceback" in ran.err and ran.err.count("hint:") == 1
