"""``rlox checkpoint info`` and ``verify``."""

import json

import pytest
from cli_files import BROKEN_CHECKPOINTS, write_checkpoint, write_environments
from cli_run import refused, run, spawn, spawn_on_terminal
from test_startup import HEAVY, imported_by


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "good.pt")


def lines(ran):
    return dict(line.split("\t", 1) for line in ran.out.splitlines() if "\t" in line)


def test_info_tells_what_made_the_file(capsys, good):
    ran = run(capsys, "checkpoint", "info", good)
    told = lines(ran)
    assert ran.code == 0 and ran.err == ""
    assert told["algorithm"] == "sac" and told["env"] == "Pendulum-v1" and told["step"] == "0"
    assert told["exact_resume"] == "no" and "saved as a model alone" in told["exact_resume_why"]
    assert told["config.net_arch"] == "8" and told["config.batch_size"] == "8"
    assert told["observation_space"].startswith("Box [3]") and len(told["digest"]) == 64
    assert "learner.actor" not in ran.out


def test_info_lists_the_tensors_when_asked(capsys, good):
    out = run(capsys, "checkpoint", "info", good, "--tensors").out
    rows = [line.split("\t") for line in out.split("\n\n")[1].splitlines()]
    assert rows[0] == ["name", "dtype", "shape", "bytes"] and len(rows) == 1 + int(lines(run(capsys, "checkpoint", "info", good))["n_tensors"])
    assert any(name.startswith("learner.actor") and dtype == "float32" for name, dtype, _, _ in rows[1:])


def test_info_as_json_has_the_whole_manifest(capsys, good):
    document = run(capsys, "checkpoint", "info", good, "--tensors", "--json").json
    result = document["result"]
    assert document["schema"] == "rlox.checkpoint.info/1" and document["ok"]
    assert result["config"]["gamma"] == 0.99 and result["observation_space"]["type"] == "Box"
    assert result["exact_resume"] is False and result["digests"] and result["tensors"][0]["shape"]


def test_info_follows_links(capsys, good, tmp_path):
    link = tmp_path / "link.pt"
    link.symlink_to(good)
    assert lines(run(capsys, "checkpoint", "info", link))["path"] == str(good)


def test_info_and_verify_of_a_sound_file_import_nothing_heavy(good):
    for argv in (["info", str(good), "--tensors"], ["verify", str(good)]):
        assert not imported_by(["checkpoint", *argv]) & HEAVY


def test_verify_says_what_was_checked(capsys, good):
    ran = run(capsys, "checkpoint", "verify", good)
    assert ran.code == 0 and lines(ran)["ok"] == "yes" and "opcodes" in lines(ran)["checks"]
    result = run(capsys, "checkpoint", "verify", good, "--json").json["result"]
    assert result["ok"] is True and result["n_tensors"] > 4 and result["members"]


def test_verify_of_several_files_reports_each_and_fails_with_the_first(capsys, good, tmp_path):
    text = tmp_path / "text.pt"
    text.write_text("hello")
    ran = run(capsys, "checkpoint", "verify", good, text, tmp_path / "absent.pt", good)
    refused(ran, 4, "text.pt")
    rows = [line.split("\t") for line in ran.out.splitlines()]
    assert [row[1] for row in rows] == ["ok", "yes", "no", "no", "yes"]
    assert run(capsys, "checkpoint", "verify", good, good).code == 0
    assert run(capsys, "checkpoint", "verify", tmp_path / "absent.pt", text).code == 3
    document = run(capsys, "checkpoint", "verify", good, text, "--json").json
    assert document["exit_code"] == 4 and [c["ok"] for c in document["result"]["checkpoints"]] == [True, False]


@pytest.mark.parametrize("command", ["info", "verify"])
@pytest.mark.parametrize("kind", BROKEN_CHECKPOINTS)
def test_broken_and_hostile_files_are_refused_and_nothing_in_them_runs(capsys, good, tmp_path, command, kind):
    canary, path = tmp_path / "canary", tmp_path / "bad.pt"
    BROKEN_CHECKPOINTS[kind](path, canary, good)
    refused(run(capsys, "checkpoint", command, path), 4, "bad.pt")
    document = run(capsys, "checkpoint", command, path, "--json").json
    assert document["error"]["kind"] == "bad_data" and document["exit_code"] == 4
    assert not canary.exists()


@pytest.mark.parametrize("command", ["info", "verify"])
@pytest.mark.parametrize("path", ["absent.pt", "no/such/folder.pt", "", "a\0b", "x" * 5000])
def test_missing_files_are_not_found(capsys, tmp_path, monkeypatch, command, path):
    monkeypatch.chdir(tmp_path)
    ran = run(capsys, "checkpoint", command, path)
    refused(ran, ran.code, *([path] if 0 < len(path) < 100 and path.isprintable() else []))
    assert ran.code in (3, 4)


def test_hostile_text_in_a_manifest_is_shown_escaped(capsys, tmp_path):
    path = write_checkpoint(tmp_path / "x.pt", algorithm="[red]\x1b[31mX\n", env={"id": "evil:X-v0", "kwargs": {"a": "\x1b]0;t\x07"}},
                            spaces=[1], versions="none", config={"[/x]\x1b": "\u202e"})  # fmt: skip
    ran = run(capsys, "checkpoint", "info", path)
    assert ran.code == 0 and "\x1b" not in ran.out and "\u202e" not in ran.out
    assert "[red]\\x1b[31mX\\n" in ran.out and "evil:X-v0" in ran.out
    shown = spawn_on_terminal("checkpoint", "info", path, NO_COLOR="1")
    assert shown.code == 0 and "\x1b" not in shown.out


def test_a_real_process_verifies(good):
    ran = spawn("checkpoint", "verify", good, "--json")
    assert ran.code == 0 and json.loads(ran.out)["result"]["ok"] is True and ran.err == ""


def test_info_names_an_environment_of_the_users_own_without_importing_it(capsys, tmp_path):
    envs = write_environments(tmp_path)
    path = write_checkpoint(tmp_path / "x.pt", f"{envs}:Good")
    envs.write_text("raise SystemExit('imported')")
    assert lines(run(capsys, "checkpoint", "info", path))["env"] == f"{envs}:Good"
