"""``rlox checkpoint``: look at checkpoints and check them, without torch and without running anything in them."""

from __future__ import annotations

import os
from typing import Any

from ..errors import RloxError, printable
from ..files import human_bytes
from ._commands import Command, Group
from ._options import Argument, Flag
from ._output import current
from ._policy import as_table, space_words

_HELP = """Look at checkpoints and check them. Nothing in them is run, and torch is not imported.

Examples:
  rlox checkpoint info checkpoints/best.pt
  rlox checkpoint verify checkpoints/*.pt
"""
_INFO = """Show what is in a checkpoint: algorithm, environment, config, step, versions.

Examples:
  rlox checkpoint info checkpoints/best.pt
  rlox checkpoint info checkpoints/best.pt --tensors
  rlox checkpoint info checkpoints/best.pt --json
"""
_VERIFY = """Check that checkpoints are whole and safe: digests, structure, and what their pickle may do.

Examples:
  rlox checkpoint verify checkpoints/best.pt
  rlox checkpoint verify checkpoints/*.pt && echo sound
"""
_CODES = (0, 2, 3, 4, 5)


def build() -> Group:
    """Return the group of commands."""
    commands = {
        "info": ("Show what is in a checkpoint", _info_command),
        "verify": ("Check that checkpoints are whole and safe", _verify_command),
    }
    return Group("checkpoint", commands, help=_HELP)


def _info_command() -> Command:
    return Command(
        "info",
        help=_INFO,
        callback=_info,
        codes=_CODES,
        params=[
            Argument("path", help="Checkpoint file"),
            Flag("--tensors", help="List the tensors too", switch=True),
        ],
    )


def _verify_command() -> Command:
    params = [Argument("paths", metavar="PATH", many=True, help="Checkpoint files")]
    return Command("verify", help=_VERIFY, callback=_verify, codes=_CODES, params=params)


def _info(path: str, tensors: bool | None) -> None:
    from ..checkpoint import describe_tensors, read_manifest, verify

    out = current()
    report, manifest = verify(path), read_manifest(path)
    exact, spaces = as_table(manifest.get("exact_resume")), as_table(manifest.get("spaces"))
    env, versions = as_table(manifest.get("env")), as_table(manifest.get("versions"))
    about = {
        "path": os.path.realpath(path),
        "algorithm": manifest.get("algorithm"),
        "kind": manifest.get("kind"),
        "env": env.get("id") or env.get("text"),
        "env_kwargs": env.get("kwargs") or None,
        "dataset": manifest.get("dataset"),
        **{f"{name}_space": spaces.get(name) for name in ("observation", "action")},
        "step": manifest.get("step"),
        "n_updates": manifest.get("n_updates"),
        "seed": manifest.get("seed"),
        "normalize": manifest.get("normalize"),
        "custom": manifest.get("custom"),
        "exact_resume": exact.get("exact"),
        "exact_resume_why": exact.get("why"),
        "created": manifest.get("created"),
        "versions": {**versions, "rlox": manifest.get("rlox"), "torch": manifest.get("torch")},
        **{name: report[name] for name in ("format", "bytes", "digest", "n_tensors")},
        "config": manifest.get("config"),
    }
    if out.json:
        out.data(**about, digests=manifest["digests"])
    else:
        out.record({name: space_words(value) for name, value in about.items()})
    if tensors:
        columns = ["name", "dtype", "shape", "bytes"]
        out.line("")
        out.table(columns, [[t[c] for c in columns] for t in describe_tensors(path)], name="tensors")


def _verify(paths: tuple[str, ...]) -> None:
    from ..checkpoint import verify

    out = current()
    if len(paths) == 1:
        report = verify(paths[0])
        out.record({"path": report["path"], "ok": True, **{k: report[k] for k in ("format", "bytes", "digest", "checks")}})
        out.data(members=report["members"], n_tensors=report["n_tensors"])
        return
    rows: list[list[Any]] = []
    errors: list[RloxError] = []
    for path in paths:
        try:
            report = verify(path)
            rows.append([path, True, f"{human_bytes(report['bytes'])}, {report['n_tensors']} tensors"])
        except RloxError as error:
            errors.append(error)
            rows.append([path, False, printable(error.message, 400)])
    out.table(["path", "ok", "detail"], rows, name="checkpoints")
    if errors:
        raise errors[0]
