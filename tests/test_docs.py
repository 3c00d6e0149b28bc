"""Every code block of the README and the docs runs as printed; printed trainings are shortened by appended flags."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "docs/getting-started.md", "docs/concepts.md", "docs/own-parts.md", "docs/reliability.md", "datasets/README.md"]
BLOCK = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHORTER = {
    "train": ["--steps", "600", "--learning-starts", "100"],
    "offline": ["--steps", "50"],
    "collect": ["--steps", "400"],
}


def blocks(page, language):
    found = BLOCK.findall((ROOT / page).read_text())
    return [(info.strip(), code) for lang, info, code in found if lang == language and "no-run" not in info]


def environment(folder):
    """Run `rlox` of this interpreter, in a folder that has the repository's datasets."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "rlox"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m rlox "$@"\n')
    program.chmod(0o755)
    (folder / "datasets").symlink_to(ROOT / "datasets")
    inside = {k: v for k, v in os.environ.items() if not k.startswith("RLOX_")}
    path = os.pathsep.join(filter(None, [str(ROOT), inside.get("PYTHONPATH", "")]))
    return {**inside, "PATH": f"{program.parent}{os.pathsep}{inside['PATH']}", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def shortened(line):
    words = line.split("#")[0].split()
    if words[:2] == ["rlox", "dataset"] and "collect" in words:
        return f"{line.split('#')[0]} {shlex.join(SHORTER['collect'])}"
    if words[:1] == ["rlox"] and len(words) > 1 and words[1] in SHORTER and words[-1] not in ("--help", "--list"):
        return f"{line.split('#')[0]} {shlex.join(SHORTER[words[1]])}"
    return line


def run(command, folder, env):
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")])
def test_python_blocks_run_in_order(page, tmp_path):
    env = environment(tmp_path)
    code = "import warnings; warnings.simplefilter('error')\n" + "\n".join(c for _, c in blocks(page, "python"))
    done = run([sys.executable, "-P", "-c", code], tmp_path, env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "sh")])
def test_shell_blocks_run_in_order(page, tmp_path):
    env = environment(tmp_path)
    for info, code in blocks(page, "python"):
        name = re.search(r"file=(\S+)", info)
        if name:
            (tmp_path / name[1]).write_text(code)
    for _, code in blocks(page, "sh"):
        for line in code.replace("\\\n", " ").strip().splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            expected = re.search(r"# exit code (\d+)", line)
            done = run(["sh", "-c", shortened(line)], tmp_path, env)
            assert done.returncode == int(expected[1] if expected else 0), f"{line}\n{done.stdout}\n{done.stderr}"


def test_the_reference_is_what_the_docstrings_say():
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "build_reference.py"), "--check"],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
