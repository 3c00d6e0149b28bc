"""``rlox train`` and ``rlox offline``: one command per algorithm, made from the options of its config."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from ..config.fields import Option
from ..config.preset import NAMES as PRESETS
from ..config.preset import preset_subjects
from ..config.resolve import Resolved, Schema, resolve, shown
from ..errors import ConfigError
from ..files import shortest
from ..registry import Kind, algorithm_names, get_algorithm
from ._commands import Command, Group
from ._completion import ENV_IDS, run_paths, runs_dir
from ._divert import results
from ._options import Flag, flag
from ._output import current
from ._policy import import_packages
from ._resume import algorithm_of, past_of, report_over, resolved_with
from ._seeds import check_seeds, count, run_seeds, seeds_flags

if TYPE_CHECKING:
    from ..runs import Launch, Outcome, Plan, Target
    from ..runs.past import Past

PANELS = {"run": "Run", "algo": "Algorithm", "eval": "Evaluation", "checkpoint": "Checkpoint", "log": "Logging",
          "hardware": "Hardware"}  # fmt: skip
PANEL_ORDER = ("run", "eval", "checkpoint", "log", "hardware", "algo")
CODES = (0, 2, 3, 4, 5, 6, 7, 8, 129, 130, 143)
DEVICES = ("auto", "cpu", "cuda")


class AlgorithmGroup(Group):
    """The algorithms of one kind; a hyphen stands for an underscore. ``--resume RUN`` alone names the run's algorithm."""

    def __init__(self, kind: Kind, **attrs: Any) -> None:
        self.kind = kind
        summaries = {name: get_algorithm(name).summary for name in algorithm_names(kind)}
        commands = {
            name: (summary, lambda name=name: algorithm_command(name, kind)) for name, summary in summaries.items()
        }
        lister = Flag("list", "--list", help="List the algorithms and what they have presets for, and exit", switch=True,
                      expose=False, callback=self._list)  # fmt: skip
        super().__init__(
            "train" if kind == "online" else "offline", commands, noun="algorithm", params=[lister], **attrs
        )

    def find(self, ctx: Any, name: str) -> Any:
        """Return the command of an algorithm."""
        return super().find(ctx, name.replace("-", "_") if ":" not in name else name)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the algorithm of the run before the options, where ``--resume`` stands first."""
        if args and args[0].partition("=")[0] == "--resume" and not ctx.resilient_parsing:
            args = [algorithm_of(self.name or "", self.kind, args), *args]
        return super().parse_args(ctx, args)

    def _list(self, ctx: Any, param: Any, value: bool | None) -> None:
        if not value or ctx.resilient_parsing:
            return
        out = current()
        out.schema = f"rlox.{self.name}.list/1"
        specs = [get_algorithm(name) for name in algorithm_names(self.kind)]
        rows = [(s.name, s.summary, preset_subjects(s.name, s.load_config())) for s in specs]
        if not out.json:
            rows = [(name, summary, " ".join(presets)) for name, summary, presets in rows]  # type: ignore[misc]
        out.table(["algorithm", "summary", "presets"], rows, name="algorithms")
        raise typer.Exit(0)


def algorithm_command(name: str, kind: Kind) -> Command:
    """Return the command of a registered algorithm."""
    from ..runs import Target

    spec = get_algorithm(name, kind)
    return train_command(Target.of(spec), spec.summary, registered=True)


def train_command(target: Target, summary: str, *, registered: bool) -> Command:
    """Return the command that trains ``target``: its flags are the options of its config and of a run."""
    schema = Schema(target.kind, target.config, target.name if registered else None)
    params = [*_ordered(schema), *_launch_flags(target.kind)]
    _check_spellings(params, target.name)
    params.sort(key=lambda p: p.rich_help_panel != "Run")  # the flags of the launch stand with those of the run

    def run(**given: Any) -> int:
        return _run(target, schema, given)

    group = "train" if target.kind == "online" else "offline"
    return Command(target.name, help=f"{summary}\n\n{_examples(group, target.name)}", short_help=summary, callback=run,
                   params=params, codes=CODES, schema=f"rlox.{group}/1")  # fmt: skip


def _run(target: Target, schema: Schema, given: dict[str, Any]) -> int:
    """Resolve what was typed, then show it (``--dry-run``) or train."""
    from ..runs import make_plan, train

    out = current()
    flags = {o.key: _typed(o, given[o.name]) for o in schema.options.values()}
    if given["toml"] and not given["dry_run"]:
        raise ConfigError("--toml needs --dry-run", param="--toml")
    n_seeds, n_jobs = count(given["seeds"], "--seeds", 10_000), count(given["jobs"], "--jobs", 1024)
    if given["jobs"] is not None and given["seeds"] is None:
        raise ConfigError("--jobs needs --seeds", hint="e.g. `--seeds 5 --jobs 2`", param="--jobs")
    past = None if given["seeds"] is not None else past_of(target, given)
    resolved, sources = resolved_with(target, schema, given, flags, past)
    import_packages(given["import_"])
    resolved = _with_version(schema, resolved, sources)
    for text in resolved.warnings:
        out.warn(text)
    if given["seeds"] is not None:
        check_seeds(resolved, given)
    goes_on = past is not None and not given["fork"]
    if past is not None and goes_on and past.meta:
        past.check_same(resolved)
        past.check_weights(given["init_from"])
    if given["dry_run"]:
        plan = make_plan(target, resolved)
        for text in plan.notes:
            out.note(text)
        _show(plan, toml=bool(given["toml"]))
        return 0
    if past is not None and goes_on and past.is_over(resolved["run.steps"]):
        return report_over(past, path_only=bool(given["print_path"]))
    if given["seeds"] is not None:
        return run_seeds(make_plan(target, resolved), given, n_seeds, n_jobs, runs_dir(given["runs_dir"]))
    outcome = train(target, resolved, _launch(given, past))
    _report(outcome, path_only=bool(given["print_path"]))
    return outcome.exit_code


def _with_version(schema: Schema, resolved: Resolved, sources: dict[str, Any]) -> Resolved:
    """Resolve again with the preset of the latest version, where an environment was named without one."""
    env = resolved["run.env"]
    if schema.kind == "offline" or ":" in env or env.rpartition("-v")[2].isdigit() or sources["preset"] != "auto":
        return resolved
    import warnings

    from ..envs import EnvSource

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said when the run makes its environment
        subject = EnvSource.of(env).id
    return resolve(schema, **sources, subject=subject)


def _launch(given: dict[str, Any], past: Past | None) -> Launch:
    from ..runs import Launch

    out = current()

    def started(run: Any, fields: dict[str, str]) -> None:
        out.run = run.path
        out.note("  ".join(f"{name}: {value}" for name, value in fields.items()))

    def left(exit_code: int) -> None:
        out.stopped()
        with results():
            out.finish(exit_code)

    return Launch(
        runs_dir=runs_dir(given["runs_dir"]),
        run_dir=given["run_dir"],
        resume=None if given["fork"] else past,
        fork=past if given["fork"] else None,
        init_from=given["init_from"],
        name=given["name"],
        tags=given["tag"],
        argv=out.argv,
        imports=given["import_"],
        quiet=out.quiet,
        color=out.color,
        started=started,
        note=out.note,
        left=left,
    )


def _report(outcome: Outcome, path_only: bool) -> None:
    """Show what a run came to: figures on stdout, the next command on stderr."""
    out = current()
    best = outcome.best
    if path_only and not out.json:
        if best is not None:
            out.line(shortest(best))
    else:
        names = {"return_mean": "best_return_mean", "return_std": "best_return_std"} if out.on_terminal else {}
        out.record(outcome.result if out.json else {names.get(k, k): v for k, v in outcome.result.items()})
    if outcome.resume_command is not None:
        out.note(f"{'go on with it' if outcome.exit_code else 'train longer'}: {outcome.resume_command}")
    if outcome.eval_command is not None:
        out.note(f"evaluate it: {outcome.eval_command}")


def _show(plan: Plan, toml: bool) -> None:
    """Write what a run would use, and write nothing else."""
    out, resolved = current(), plan.resolved
    if toml:
        text = resolved.to_toml()
        out.data(toml=text)
        for line in text.splitlines():
            out.line(line)
    else:
        rows = [_as_run(plan, *row) for row in resolved.rows()]
        rows = rows if out.json else [(key, shown(value), origin) for key, value, origin in rows]
        out.table(["key", "value", "origin"], rows)
    out.data(device=plan.device, threads=plan.threads, preset=resolved.preset, memory_bytes=plan.memory)
    out.note("would run with  " + "  ".join(f"{name}: {value}" for name, value in plan.summary().items()))


def _as_run(plan: Plan, key: str, value: Any, origin: str) -> tuple[str, Any, str]:
    """Return a row with the environment that is meant."""
    if key == "run.env" and plan.source is not None and value != plan.source.text:
        return key, plan.source.text, origin if value is not None else "dataset"
    return key, value, origin


def _ordered(schema: Schema) -> list[Flag]:
    """Return the flags of all options, panel by panel."""
    by_section = [[o for o in schema.options.values() if o.section == section] for section in PANEL_ORDER]
    algo = by_section[-1]
    algo.sort(key=lambda o: bool(o.panel))  # what is special to the algorithm before its networks
    return [_flag(o) for options in by_section for o in options]


def _flag(o: Option) -> Flag:
    """Return the flag of an option, under its panel; a choice of auto, on and off is a switch with two sides."""
    panel = o.panel or PANELS[o.section]
    if o.choices == ("auto", "on", "off"):
        return Flag(o.name, f"{o.flag}/--no-{o.flag[2:]}", help=o.help, switch=True, panel=panel)
    completions = {"env": ENV_IDS, "device": DEVICES}.get(o.name)
    return flag(replace(o, panel=panel), (lambda text: completions) if completions else None)


def _typed(o: Option, value: Any) -> Any:
    """Return what was typed for an option, None where nothing was."""
    if o.choices == ("auto", "on", "off") and value is not None:
        return "on" if value else "off"
    return None if value == () else value


def _launch_flags(kind: Kind) -> list[Flag]:
    """Return the flags that are no option of the run: where values come from, where it goes, what is shown."""

    def one(*names: str, help: str, **attrs: Any) -> Flag:
        return Flag(*names, help=help, panel="Run", **attrs)

    subject = "environment" if kind == "online" else "dataset"
    return [
        one("preset", "--preset", help=f"auto (the {subject}'s own, if there is one), none, smoke (seconds) or a TOML file",
            default="auto", metavar="NAME", completion=lambda text: PRESETS),
        one("config", "--config", help="TOML file of values; repeatable, later files win", metavar="FILE", multiple=True),
        one("set", "--set", help="Value of any key, over every other source; repeatable", metavar="K=V", multiple=True),
        one("runs_dir", "--runs-dir", help="Folder of all runs; also RLOX_RUNS_DIR", default="runs", metavar="DIR"),
        one("run_dir", "--run-dir", help="Exact folder of this run; must be new, unless --resume auto", metavar="DIR"),
        one("resume", "--resume", help="Go on with a run: its folder, latest, or auto (that of --run-dir, new if there "
            "is none)", metavar="RUN", completion=lambda text: ("latest", "auto", *run_paths(text))),
        one("fork", "--fork", help="With --resume: start a new run from that one, with what is changed", switch=True),
        one("init_from", "--init-from", help="Start a new run from the weights of a checkpoint; with --resume auto where it is "
            "new", metavar="CKPT"),
        *seeds_flags("Run"),
        one("name", "--name", help="Name of the run, kept in its folder's name", metavar="NAME"),
        one("tag", "--tag", help="Tag of the run; repeatable", metavar="TAG", multiple=True),
        one("import_", "--import", help="Import a package that registers environments; repeatable", metavar="PKG",
            multiple=True),
        one("print_path", "--print-path", help="Write the path of best.pt to stdout, and nothing else", switch=True),
        one("dry_run", "--dry-run", help="Check everything, show every value with its origin, write nothing", switch=True),
        one("toml", "--toml", help="With --dry-run: as a file that --config accepts", switch=True),
    ]  # fmt: skip


def _check_spellings(params: Iterable[Flag], name: str) -> None:
    """Refuse a config whose options take a spelling that is taken."""
    seen: set[str] = set()
    for param in params:
        for spelling in (*param.opts, *param.secondary_opts, str(param.name)):
            if spelling in seen:
                raise ConfigError(f"{name} has an option {spelling}, which rlox train has already")
            seen.add(spelling)


def _examples(group: str, name: str) -> str:
    subject = "--env Pendulum-v1" if group == "train" else "--dataset data.h5"
    steps = "--steps 50000 --seed 1" if group == "train" else "--env Pendulum-v1 --steps 20000"
    short = "" if group == "train" else " --steps 20000"
    return "\n".join(
        (
            "Examples:",
            f"  rlox {group} {name} {subject}{short}",
            f"  rlox {group} {name} {subject} {steps}",
            f"  rlox {group} {name} {subject} --preset smoke --dry-run",
        )
    )
