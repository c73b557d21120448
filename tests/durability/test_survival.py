"""Runs that are stopped, killed or hung from outside: real processes, which every test ends itself."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import BASE, ROOT, TINY, logged, tool_environment
from safetensors.numpy import load_file

from rdrop_paddle.durability import checkpoint

SHORT = [*TINY, "train.steps=40", "train.eval_every=10", "train.save_every=10"]


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rank_processes(launcher):
    """{rank: process id}"""
    found = {}
    for pid in children(launcher):
        settings = dict(entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in entry)
        if "PADDLE_TRAINER_ID" in settings:
            found[int(settings["PADDLE_TRAINER_ID"])] = pid
    return found


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
    return found


def end(process):
    """End a process, and those that it has started."""
    pids, found = [], [process.pid] if process.poll() is None else []
    while found:
        pids += found
        found = [child for pid in found for child in children(pid)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


class Job:
    """tools/train.py in the run folder output/<name>, under the launcher when `ranks` are given."""

    def __init__(self, root, name, *options, ranks=0, overrides=()):
        self.folder, self.log_dir = root / "output" / name, root / "log"
        launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks), "--log_dir", str(self.log_dir)]
        command = [sys.executable, *(launcher if ranks else []), str(ROOT / "tools" / "train.py"), "-c", str(BASE), *options]
        command += ["-o", *SHORT, *overrides, f"name={name}", f"output={root / 'output'}"]
        with (root / f"{name}.out").open("a") as self._output:
            self.process = subprocess.Popen(
                command, stdout=self._output, stderr=subprocess.STDOUT, env=tool_environment(root), cwd=root
            )

    def output(self):
        return Path(self._output.name).read_text()

    def rank_log(self, rank):
        return (self.log_dir / f"workerlog.{rank}").read_text()

    def updates(self):
        path = self.folder / "metrics.jsonl"
        return path.read_text().count('"loss"') if path.exists() else 0

    def wait_for_update(self, update):
        wait_until(lambda: self.updates() >= update or self.process.poll() is not None)
        assert self.process.poll() is None, self.output()

    def wait(self, seconds):
        """(exit status, seconds that it took)"""
        start = time.monotonic()
        return self.process.wait(seconds), time.monotonic() - start

    def end(self):
        end(self.process)


@pytest.fixture
def job(tmp_path):
    """job(name, "--resume", ranks=2, overrides=[...]) -> a running Job, ended with the test."""
    jobs = []

    def start(*arguments, root=tmp_path, **options):
        jobs.append(Job(root, *arguments, **options))
        return jobs[-1]

    yield start
    for started in jobs:
        started.end()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The run folder of 40 updates on two ranks that nothing disturbed."""
    done = Job(tmp_path_factory.mktemp("straight"), "straight", ranks=2)
    try:
        assert done.wait(120)[0] == 0, done.output()
    finally:
        done.end()
    return done.folder


def assert_same_training(folder, straight):
    assert logged(folder) == logged(straight)
    for name in ("model", "momentum"):
        found, expected = (load_file(checkpoint.latest(run) / f"{name}.safetensors") for run in (folder, straight))
        assert all(found[tensor].tobytes() == expected[tensor].tobytes() for tensor in expected), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_alone_exits_with_the_signals_status(job, number):
    running = job("alone", overrides=["train.steps=10000"])
    running.wait_for_update(3)
    running.process.send_signal(number)
    running.process.send_signal(number)
    status, seconds = running.wait(20)
    print(f"{number.name} alone: {seconds:.1f} s")
    assert status == 128 + number, running.output()
    stopped = re.search(rf"stopped by {number.name} after update (\d+); continue with --resume\n", running.output())
    assert checkpoint.latest(running.folder).name == f"update-{int(stopped[1]):08d}"
    assert len(list((running.folder / "vdl").iterdir())) == 1 and "Traceback" not in running.output()


@pytest.mark.launcher
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_to_the_launcher_saves_in_time_and_resumes_exactly(job, straight, number):
    running = job("stopped", ranks=2)
    running.wait_for_update(5)
    running.process.send_signal(number)
    status, seconds = running.wait(20)
    print(f"{number.name} under the launcher: {seconds:.1f} s")
    assert status == number  # the launcher's own
    (update,) = re.findall(r"stopped by SIGTERM after update (\d+);", running.rank_log(0))  # which the launcher sends
    assert checkpoint.latest(running.folder).name == f"update-{int(update):08d}" and int(update) < 40
    assert "error" not in running.rank_log(0) + running.rank_log(1)
    resumed = job("stopped", "--resume", ranks=2)
    assert resumed.wait(120)[0] == 0, resumed.output()
    assert_same_training(resumed.folder, straight)


@pytest.mark.slow
@pytest.mark.launcher
def test_a_signal_to_one_rank_stops_all_of_them(job):
    running = job("one", ranks=2, overrides=["train.steps=10000"])
    running.wait_for_update(3)
    os.kill(rank_processes(running.process.pid)[1], signal.SIGTERM)
    status, _ = running.wait(30)
    assert status != 0
    assert re.search(r"stopped by a signal to another rank after update \d+;", running.rank_log(0))


@pytest.mark.launcher
@pytest.mark.parametrize("killed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_when_a_rank_is_killed_the_job_ends_and_its_name_is_said(job, killed):
    running = job("killed", ranks=2, overrides=["train.steps=10000"])
    running.wait_for_update(12)
    ranks = rank_processes(running.process.pid)
    running.process.send_signal(signal.SIGSTOP)  # the launcher, which might end the other rank before that has noticed
    os.kill(ranks[killed], signal.SIGKILL)
    line = rf"^error: rank {killed} has not been heard of for \d+ s, dead or hanging; last good checkpoint: .*update-\d+$"
    wait_until(lambda: re.search(line, running.rank_log(1 - killed), re.MULTILINE), 30)  # of train.collective_timeout's 600
    running.process.send_signal(signal.SIGCONT)
    status, _ = running.wait(30)
    assert status != 0 and "status failed" in running.output()


@pytest.mark.launcher
@pytest.mark.parametrize("stopped", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_when_a_rank_hangs_the_job_ends_within_the_timeout_and_its_name_is_said(job, stopped):
    running = job("hanging", ranks=2, overrides=["train.steps=10000", "train.collective_timeout=5"])
    running.wait_for_update(12)
    os.kill(rank_processes(running.process.pid)[stopped], signal.SIGSTOP)
    status, seconds = running.wait(60)  # the launcher needs some of them to end the one that is stopped
    print(f"SIGSTOP of rank {stopped}: {seconds:.1f} s")
    line = rf"^error: rank {stopped} has not been heard of for \d+ s, dead or hanging; last good checkpoint: .*update-\d+$"
    assert status != 0 and re.search(line, running.rank_log(1 - stopped), re.MULTILINE)


@pytest.mark.slow
@pytest.mark.launcher
def test_a_rank_whose_main_thread_alone_hangs_is_named(run_tool, tmp_path):
    start = time.monotonic()
    done = run_tool("tests/durability/hanging_worker.py", ranks=2)
    print(f"main thread hanging: {time.monotonic() - start:.1f} s with the start")
    assert done.returncode != 0
    said = "".join(path.read_text() for path in tmp_path.glob("log-*/workerlog.*"))  # by the rank that looks first
    assert re.search(r"^error: rank 1 has made no progress for \d+ s while the others waited, hanging;", said, re.MULTILINE)


@pytest.mark.launcher
def test_a_rank_that_is_killed_is_named_by_one_that_waits_for_it_inside_c(tmp_path):
    command = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", tmp_path]
    script = ROOT / "tests" / "durability" / "waiting_in_c_worker.py"
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    launcher = subprocess.Popen(list(map(str, [*command, script])), env=tool_environment(tmp_path), cwd=tmp_path, **quiet)
    try:
        log = tmp_path / "workerlog.0"
        wait_until(lambda: log.exists() and "waiting" in log.read_text())
        os.kill(rank_processes(launcher.pid)[1], signal.SIGKILL)  # the launcher asks the other to stop, and kills it after 30 s
        start = time.monotonic()
        wait_until(lambda: re.search(r"^error: rank 1 has not been heard of for \d+ s", log.read_text(), re.MULTILINE), 20)
        print(f"a rank that is waited for inside C: {time.monotonic() - start:.1f} s")
    finally:
        end(launcher)


@pytest.mark.slow
@pytest.mark.launcher
def test_a_supervised_run_survives_a_killed_rank_and_hands_sigterm_on(job, straight):
    running = job("straight", "--supervise", "3", "--ranks", "2")
    running.wait_for_update(12)
    (launcher,) = children(running.process.pid)
    os.kill(rank_processes(launcher)[1], signal.SIGKILL)
    wait_until(lambda: "supervisor: exit status" in running.output())
    wait_until(lambda: "resuming after update" in running.output())
    running.process.send_signal(signal.SIGTERM)
    status, _ = running.wait(30)
    assert status == signal.SIGTERM, running.output()  # the launcher's, handed on
    assert re.search(r"supervisor: exit status \d+; restart 1 of 3 in 1 s from \S*update-00000010\n", running.output())
    assert re.search(r"stopped by SIGTERM after update \d+;", running.rank_log(0))  # the launcher itself shows no more of it
    resumed = job("straight", "--supervise", "3", "--ranks", "2", "--resume")
    assert resumed.wait(120)[0] == 0, resumed.output()
    assert_same_training(resumed.folder, straight)
