"""The checking process starts wherever this rlox was imported from."""

import subprocess
import sys
from pathlib import Path

import rlox

ROOT = Path(rlox.__file__).parents[1]


def test_a_script_read_from_stdin_in_the_source_folder_can_open_a_dataset():
    script = "from rlox.data import describe; print(describe('datasets/pendulum-random.h5')['n_rows'])"
    done = subprocess.run([sys.executable, "-"], input=script, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "20000", done.stderr
