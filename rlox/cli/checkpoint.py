"""``rlox checkpoint``: look at checkpoints, check them, compare two of them, thin out those of a run.

Nothing in a checkpoint is run; all but ``diff`` do without torch.
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config.fields import option, options_of
from ..config.sections import Section
from ..errors import CheckError, ConfigError, RloxError, printable
from ..files import human_bytes, shortest
from ._commands import Command, Group
from ._options import Argument, Flag, flag, typed
from ._output import current, is_terminal
from ._policy import as_table, space_words
from ._replay import replay_checkpoints, replay_flags

if TYPE_CHECKING:
    from ..runs.pruning import Pruning

_HELP = """Look at checkpoints, check them, compare them, thin them out. Nothing in them is run.

Examples:
  rlox checkpoint info checkpoints/best.pt
  rlox checkpoint verify checkpoints/*.pt
  rlox checkpoint diff checkpoints/best.pt checkpoints/last.pt
  rlox checkpoint prune runs/sac/Pendulum-v1/NAME --dry-run
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
  rlox checkpoint verify checkpoints/last.pt --replay 100

With --replay, trains that many steps from the saved state, twice, and compares bit for bit: exit code 9 when they differ.
"""
_DIFF = """Compare two checkpoints: config, counters, and each tensor's largest difference. Exit code 9 when they differ.

Versions, machine and date are not compared.

Examples:
  rlox checkpoint diff checkpoints/best.pt checkpoints/last.pt
  rlox checkpoint diff a.pt b.pt --atol 1e-6 && echo the same
"""
_PRUNE = """Delete old step_*.pt of a run. What best.pt and last.pt are, and the state to go on from, is never deleted.

Examples:
  rlox checkpoint prune runs/sac/Pendulum-v1/NAME --dry-run
  rlox checkpoint prune runs/sac/Pendulum-v1/NAME --keep-last 1 --keep-every 100000 --yes
"""
_CODES = (0, 2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class DiffOptions(Section):
    """The flags of ``rlox checkpoint diff``."""

    atol: float = option(0.0, "Floats may differ by this much", panel="Run", ge=0)
    rtol: float = option(0.0, "Floats may differ by this share of those in B", panel="Run", ge=0)


@dataclass(frozen=True, kw_only=True)
class PruneOptions(Section):
    """The flags of ``rlox checkpoint prune``."""

    keep_last: int = option(3, "Keep so many of the newest", panel="Run", ge=0)
    keep_every: int | None = option(None, "Keep those whose step is a multiple of this too", panel="Run", ge=1)


def build() -> Group:
    """Return the group of commands."""
    commands = {
        "info": ("Show what is in a checkpoint", _info_command),
        "verify": ("Check that checkpoints are whole and safe", _verify_command),
        "diff": ("Compare two checkpoints", _diff_command),
        "prune": ("Delete old checkpoints of a run", _prune_command),
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
    params = [Argument("paths", metavar="PATH", many=True, help="Checkpoint files"), *replay_flags()]
    return Command("verify", help=_VERIFY, callback=_verify, codes=(*_CODES, 7, 9), params=params)


def _diff_command() -> Command:
    params = [
        Argument("a", help="Checkpoint file"),
        Argument("b", help="Checkpoint file"),
        *(flag(o) for o in options_of(DiffOptions)),
    ]
    return Command("diff", help=_DIFF, callback=_diff, codes=(*_CODES, 9), params=params)


def _prune_command() -> Command:
    params = [
        Argument("run", help="Run directory, or its checkpoints"),
        *(flag(o) for o in options_of(PruneOptions)),
        Flag("--dry-run", help="Show what would be deleted", switch=True, panel="Run"),
        Flag("--yes", help="Do not ask", switch=True, panel="Run"),
    ]
    return Command("prune", help=_PRUNE, callback=_prune, codes=(0, 2, 3, 6), params=params)


def _info(path: str, tensors: bool | None) -> None:
    from ..checkpoint import describe_tensors, read_manifest, verify

    out = current()
    report, manifest = verify(path), read_manifest(path)
    (exact, why), spaces = _exactness(path, manifest), as_table(manifest.get("spaces"))
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
        "exact_resume": exact,
        "exact_resume_why": why,
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


def _exactness(path: str, manifest: dict[str, Any]) -> tuple[bool, list[str]]:
    """Return whether training can go on exactly from a checkpoint as it lies there, and why not."""
    from pathlib import Path

    from ..checkpoint import file_digest
    from ..checkpoint.generation import Generations, folder_of

    said = as_table(manifest.get("exact_resume"))
    why = [printable(w) for w in said.get("why") or ()] if isinstance(said.get("why"), list) else []
    if said.get("exact") is not True:
        return False, why or ["it does not say that it can"]
    folder = folder_of(Path(os.path.realpath(path)))
    if Generations(folder).find(file_digest(path)) is None:
        return False, [f"the rest of its state is not in {shortest(folder)}: only the newest two of a training are kept"]
    return True, []


def _verify(paths: tuple[str, ...], replay: str | None, **given: Any) -> None:
    from ..checkpoint import verify

    out = current()
    if replay is not None:
        replay_checkpoints(paths, replay, given)
        return
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


def _diff(a: str, b: str, **given: Any) -> None:
    options: DiffOptions = typed(DiffOptions, given)
    from ..runs.threads import start_torch

    start_torch()
    from ..checkpoint.compare import compare

    out = current()
    found = compare(a, b, atol=options.atol, rtol=options.rtol)
    values = [("config", v.key, v.a, v.b) for v in found.config] + [("counter", v.key, v.a, v.b) for v in found.counters]
    out.record({"a": a, "b": b, "equal": found.equal, "n_tensors": found.n_tensors})
    if values or out.json:
        out.line("")
        out.table(["what", "key", "a", "b"], values, name="values")
    if found.tensors or out.json:
        columns = ["name", "a", "b", "max_difference", "n_different"]
        out.line("")
        out.table(columns, [[getattr(t, c) for c in columns] for t in found.tensors], name="tensors")
    if not found.equal:
        raise CheckError(f"{printable(a)} and {printable(b)} differ: {found.summary()}", value=b)


def _prune(run: str, dry_run: bool | None, yes: bool | None, **given: Any) -> None:
    options: PruneOptions = typed(PruneOptions, given)
    from ..runs.pruning import held, plan_pruning, prune

    out = current()
    pruning = plan_pruning(run, options.keep_last, options.keep_every)
    with held(pruning.run):  # a run in use is left alone, whatever is asked for
        pass
    delete = bool(pruning.deleted) and not dry_run and (bool(yes) or _confirmed(pruning))
    if delete:
        prune(pruning)
    n = len(pruning.deleted)
    out.record({"run": shortest(pruning.run), "n_kept": len(pruning.files) - n, "n_deleted": n if delete else 0,
                "bytes": pruning.bytes if delete else 0})  # fmt: skip
    done = "deleted" if delete else "would be deleted"
    rows = [[file.path.name, file.step, file.bytes, "kept" if file.kept else done] for file in pruning.files]
    if rows or out.json:
        out.line("")
        out.table(["file", "step", "bytes", "what"], rows, name="files")


def _confirmed(pruning: Pruning) -> bool:
    """Ask on a terminal whether to delete; without one ``--yes`` is needed."""
    n, run = len(pruning.deleted), printable(shortest(pruning.run))
    what = f"{n} checkpoint{'s' * (n != 1)} of {run} ({human_bytes(pruning.bytes)})"
    if not (is_terminal(sys.stdin) and is_terminal(sys.stderr)):
        command = printable(shlex.join([*current().argv, "--yes"]), 500)
        raise ConfigError(f"deleting {what} needs --yes", hint=f"`{command}`", param="--yes")
    sys.stderr.write(f"delete {what}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
