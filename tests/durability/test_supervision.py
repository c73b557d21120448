import json
import os
import signal
import sys
import threading
import time

import pytest

from rdrop_paddle import UserError
from rdrop_paddle.durability import supervision

CHILD = """
import json, os, sys
folder, results = sys.argv[1], json.loads(sys.argv[2])
runs = open(os.path.join(folder, "runs"), "a+")
runs.write(json.dumps(sys.argv[3:]) + "\\n")
runs.seek(0)
checkpoint, status = results[len(runs.readlines()) - 1]
open(os.path.join(folder, "checkpoint"), "w").write(checkpoint)
sys.exit(status)
"""


@pytest.fixture
def supervised(tmp_path):
    """supervised([(newest checkpoint, status) of each run], restarts) -> (status, the options of each run)."""

    def run(results, restarts, resume=False, first_delay=0.01):
        command = [sys.executable, "-c", CHILD, str(tmp_path), json.dumps(results)]
        newest = lambda: (tmp_path / "checkpoint").read_text()  # noqa: E731
        status = supervision.supervise(command, restarts=restarts, resume=resume, progress=newest, first_delay=first_delay)
        return status, [json.loads(line) for line in (tmp_path / "runs").read_text().splitlines()]

    return run


@pytest.mark.parametrize(
    "results, restarts, status, runs",
    [
        ([("3", 0)], 3, 0, 1),
        ([("3", 1), ("6", 247), ("9", 0)], 3, 0, 3),
        ([("3", 1), ("6", 1), ("9", 7), ("12", 0)], 2, 7, 3),  # restarts used up
        ([("3", 1), ("3", 9), ("6", 0)], 5, 9, 2),  # no progress
        ([("3", 2), ("6", 0)], 5, 2, 1),  # a UserError
    ],
)
def test_training_is_restarted_from_its_checkpoint_as_long_as_that_helps(supervised, results, restarts, status, runs):
    assert supervised(results, restarts) == (status, [[], *[["--resume"]] * (runs - 1)])


def test_a_supervised_run_may_itself_be_a_resumed_one(supervised):
    assert supervised([("3", 0)], 1, resume=True) == (0, [["--resume"]])


def test_sigterm_between_two_runs_ends_supervision(supervised, monkeypatch):
    wait = threading.Event.wait

    def terminated_wait(event, timeout=None):
        if threading.current_thread() is threading.main_thread():  # tqdm's thread waits too
            os.kill(os.getpid(), signal.SIGTERM)
        return wait(event, timeout)

    monkeypatch.setattr(threading.Event, "wait", terminated_wait)
    start = time.monotonic()
    assert supervised([("3", 7), ("6", 0)], restarts=3, first_delay=60) == (7, [[]])
    assert time.monotonic() - start < 30


def test_the_delay_doubles_up_to_a_minute(monkeypatch):
    delays, names = [], iter(range(100))
    monkeypatch.setattr(supervision.Child, "run", lambda self, command: 1)
    monkeypatch.setattr(threading.Event, "wait", lambda self, seconds: delays.append(seconds))
    assert supervision.supervise([], restarts=8, resume=False, progress=lambda: next(names)) == 1
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]


def test_supervision_starts_the_launcher_and_refuses_to_run_under_it(monkeypatch):
    launched = supervision.command("train.py", "a.yaml", ["train.lr=1"], ranks=2)[1:]
    assert launched == [
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        "2",
        "train.py",
        "-c",
        "a.yaml",
        "-o",
        "train.lr=1",
    ]
    assert supervision.command("train.py", "a.yaml", [], ranks=1)[1:] == ["train.py", "-c", "a.yaml"]
    monkeypatch.setitem(supervision.GIVEN, "PADDLE_TRAINER_ID", "0")
    with pytest.raises(UserError, match="--supervise starts the launcher itself"):
        supervision.command("train.py", "a.yaml", [], ranks=2)
