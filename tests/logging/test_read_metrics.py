import itertools
import math
import os
import warnings

import pytest

from rlox.errors import NotFoundError
from rlox.logging import JSONLLogger
from rlox.logging.read import read_metrics

HEADER = '{"schema":"rlox.metrics/1","rlox":"1.0"}\n'
ROW = '{"kind":"train","step":1,"metrics":{"train/a":1.5}}\n'


def test_rows_come_back_as_they_were_logged(tmp_path):
    logger = JSONLLogger(tmp_path / "metrics.jsonl")
    logger.on_train_step(10, {"a": 1.5, "phase": "online", "b": math.nan})
    logger.on_eval(20, {"return_mean": -3.0})
    logger.on_event(20, "checkpoint", {"path": "x.pt"})
    logger.close()
    assert list(read_metrics(tmp_path / "metrics.jsonl")) == [
        {
            "kind": "train",
            "step": 10,
            "phase": "online",
            "metrics": {"train/a": 1.5, "train/b": None},
            "nonfinite": ["/metrics/train~1b"],
        },
        {"kind": "eval", "step": 20, "metrics": {"eval/return_mean": -3.0}},
        {"kind": "checkpoint", "step": 20, "path": "x.pt"},
    ]


@pytest.mark.parametrize("torn", ['{"kind":"train","st', '{"kind":"train","step":2,"metrics":{}}', '{"schema":'])
def test_a_torn_last_line_is_left_out_with_a_warning(tmp_path, torn):
    path = tmp_path / "m.jsonl"
    path.write_text(HEADER + ROW + torn)
    with pytest.warns(RuntimeWarning, match="m.jsonl: left out a torn last line$"):
        assert [row["step"] for row in read_metrics(path)] == [1]


FOREIGN = [
    b"hello\n",
    b"\n",
    b"\x00\xff\xfe\n",
    b"[1, 2]\n",
    b'"kind"\n',
    b"{}\n",
    b'{"kind":"train","step":1}\n',
    b'{"kind":"eval","step":1,"metrics":[]}\n',
    b'{"kind":"train","step":true,"metrics":{}}\n',
    b'{"kind":"train","step":-1,"metrics":{}}\n',
    b'{"kind":"train","step":1.5,"metrics":{}}\n',
    b'{"kind":7,"step":1,"metrics":{}}\n',
    b'{"kind":"train","step":1,"metrics":{"a":NaN}}\n',
    b'{"kind":"train","step":' + b"9" * 5000 + b',"metrics":{}}\n',
    b'{"schema":"rlox.metrics/2"}\n',
    b"[" * 100_000 + b"\n",
    b'{"kind":"' + b"x" * (1 << 21) + b'","step":1}\n',
]


@pytest.mark.parametrize("line", FOREIGN, ids=range(len(FOREIGN)))
def test_a_line_that_is_no_row_is_left_out_and_what_follows_is_read(tmp_path, line):
    path = tmp_path / "m.jsonl"
    path.write_bytes(HEADER.encode() + ROW.encode() + line + ROW.encode())
    with pytest.warns(RuntimeWarning, match="left out 1 line that is no metrics$"):
        assert [row["step"] for row in read_metrics(path)] == [1, 1]


def test_one_warning_counts_all_lines_that_were_left_out(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"".join([HEADER.encode(), *FOREIGN, ROW.encode(), b"{"]))
    with pytest.warns(RuntimeWarning) as caught:
        assert len(list(read_metrics(path))) == 1
    assert len(caught) == 1
    assert str(caught[0].message).endswith(f"left out {len(FOREIGN)} lines that are no metrics and a torn last line")


def test_an_overlong_last_line_is_torn(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(HEADER.encode() + b"x" * (1 << 21))
    with pytest.warns(RuntimeWarning, match="left out a torn last line$"):
        assert list(read_metrics(path)) == []


def test_a_file_without_rows_has_none(tmp_path):
    for content in ("", HEADER):
        (tmp_path / "m.jsonl").write_text(content)
        assert list(read_metrics(tmp_path / "m.jsonl")) == []


def test_rows_are_read_one_at_a_time(tmp_path):
    """What the file loses after the first row was handed out is not read."""
    path = tmp_path / "m.jsonl"
    path.write_text(HEADER + ROW + "x" * 1_000_000)
    rows = read_metrics(path)
    assert next(rows)["step"] == 1
    path.write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert list(rows) == []


def test_reading_stopped_early_leaves_no_warning_and_no_open_file(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text(HEADER + ROW * 3 + "torn")
    before = len(os.listdir("/proc/self/fd"))
    rows = read_metrics(path)
    assert len(list(itertools.islice(rows, 2))) == 2
    rows.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_read_is_said(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("none", "No such file"), (".", "Is not a file"), ("pipe", "Is not a file"), ("a\0b", "null")):
        with pytest.raises(NotFoundError, match=f"cannot read .*{reason}"):
            list(read_metrics(f"{tmp_path}/{name}"))
