"""Light commands import nothing heavy."""

import os
import subprocess
import sys

import pytest
from cli_run import environment

HEAVY = {"torch", "gymnasium", "h5py", "numpy", "pydantic", "tensorboard"}
LIGHT = [
    ["--help"],
    ["--version"],
    ["-v", "--version"],
    ["train", "--help"],
    ["train", "--list"],
    ["train", "sac", "--help"],
    ["train", "sac", "--env", "Pendulum-v1", "--gamma", "2"],
    ["offline", "--help"],
    ["offline", "cql", "--help"],
    ["eval", "--help"],
    ["checkpoint", "--help"],
    ["checkpoint", "info", "--help"],
    ["dataset", "--help"],
    ["dataset", "collect", "--help"],
    ["trian"],
    ["eval", "x.pt", "--episodes", "0"],
    ["dataset", "collect", "-o", "x.h5"],
]
_REPORT = """
import sys
from rlox.cli.main import main
code = main(sys.argv[1:])
print("imported", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""


def imported_by(argv, **extra):
    done = subprocess.run(
        [sys.executable, "-c", _REPORT, *argv], capture_output=True, env=environment(**extra), text=True, timeout=60
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("imported"), done.stderr
    return set(last.split())


@pytest.mark.parametrize("argv", LIGHT, ids=" ".join)
def test_light_commands_import_nothing_heavy(argv):
    found = imported_by(argv)
    assert not found & HEAVY
    assert "rich" not in found  # panels are for terminals


@pytest.mark.parametrize("line", ["rlox ", "rlox eval --", "rlox dataset collect --env Pen", "rlox checkpoint ", "rlox train ", "rlox train sac --env Pen"])
def test_completion_imports_nothing_heavy(line):
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_RLOX_COMPLETE": "complete_bash"}
    assert not imported_by([], **words) & HEAVY


def test_checkpoint_commands_import_no_torch(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(os.urandom(200))
    for command in ("info", "verify"):
        assert not imported_by(["checkpoint", command, str(path)]) & HEAVY
