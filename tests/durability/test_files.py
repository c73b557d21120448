"""What is left when writing ends at any moment: a process killed, a disk full, a folder that is read-only."""

import contextlib
import errno
import fcntl
import itertools
import os
import resource
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import paddle
import pytest

from rdrop_paddle import UserError
from rdrop_paddle.durability import checkpoint, files
from rdrop_paddle.reporting.runlog import RunLog
from rdrop_paddle.training import engine
from rdrop_paddle.training.trainer import Trainer
from rdrop_paddle.vision.task import ImageClassification
from rdrop_paddle.weights.files import read_weight_file


class Killed(BaseException):
    """As SIGKILL: no handler of an Exception runs."""


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
OPERATIONS = ("rename", "replace", "fsync", "unlink", "mkdir", "rmdir")


@contextlib.contextmanager
def ending_at(monkeypatch, number, error):
    """The file operation of this number (1, 2, ...) raises `error`; if it is a write, half of it is done.

    Yields a list that is empty until that operation is reached.
    """
    count, reached = itertools.count(1), []

    def counted(function, half_done=None):
        def call(*arguments, **options):
            if next(count) == number:
                reached.append(function)
                if half_done:
                    half_done(*arguments)
                raise error
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(os, name, counted(getattr(os, name)))
        half = lambda path, content: Path(path).write_bytes(content[: len(content) // 2])  # noqa: E731
        patch.setattr(files, "write_file", counted(files.write_file, half))
        yield reached


def save(folder, update):
    arrays = {name: np.full(1000, update, "float32") for name in ("a", "b")}
    checkpoint.save(folder, {"update": update, "config": {}}, model=arrays, momentum=arrays)


@pytest.mark.parametrize("error", [Killed(), FULL], ids=["killed", "disk full"])
def test_a_save_that_ends_at_any_operation_leaves_a_whole_checkpoint_and_a_pointer_to_one(monkeypatch, tmp_path, error):
    save(tmp_path / "before", 2)
    save(tmp_path / "before", 4)
    (tmp_path / "before" / "checkpoints" / "update-00000001.part").mkdir()  # of a process killed earlier
    for number in itertools.count(1):
        folder = tmp_path / f"ended-at-{number}"
        shutil.copytree(tmp_path / "before", folder)
        with ending_at(monkeypatch, number, error) as reached:
            try:
                save(folder, 6)
            except (Killed, UserError) as raised:
                expected = UserError if error is FULL else Killed
                assert type(raised) is expected and (error is not FULL or "No space left on device" in str(raised))
        if not reached:
            break
        newest, faults = checkpoint.verify(folder)
        pointer = folder / "checkpoints" / (folder / "checkpoints" / "latest").read_text().strip()
        assert newest.name in ("update-00000004", "update-00000006") and faults == {}
        assert not any(map(files.fault, [pointer, *checkpoint._all(folder)]))
        if error is FULL and newest.name == "update-00000004":
            assert not (folder / "checkpoints" / "update-00000006.part").exists()
        save(folder, 6)  # as the resumed run does
        save(folder, 8)
        assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
            "latest",
            "update-00000006",
            "update-00000008",
        ]
        assert checkpoint.verify(folder) == (folder / "checkpoints" / "update-00000008", {})
    assert number > 20


def test_best_weights_that_end_at_any_operation_are_whole_and_never_beside_the_digest_of_others(monkeypatch, tmp_path):
    model = paddle.nn.Linear(30, 40)
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        folder.mkdir()
        checkpoint.save_best(folder, model, update=1)
        with ending_at(monkeypatch, number, Killed()) as reached, contextlib.suppress(Killed):
            checkpoint.save_best(folder, model, update=2)
        if not reached:
            break
        assert read_weight_file(folder / "best.safetensors").metadata["update"] in ("1", "2")
        checkpoint.load_best(folder, model)
    assert number > 5


@contextlib.contextmanager
def file_size_limit(size):
    """No file can grow beyond so many bytes, as with ulimit -f."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.parametrize("first, save_every", [("best.safetensors", 6), ("checkpoints/update-00000003", 3)])
def test_a_run_on_a_full_disk_ends_with_a_clear_error_and_keeps_its_checkpoint(tiny_config, first, save_every):
    config = tiny_config(f"train.save_every={save_every}")
    trainer = Trainer(ImageClassification(config), config)
    for _ in range(2):
        trainer.step(trainer.read()[0])
    with RunLog(config) as log:
        trainer.save(log.folder)
    message = f"cannot write .*{first}: File too large; .*make room"
    with file_size_limit(20_000), pytest.raises(UserError, match=message), RunLog(config, kept_updates=2) as log:
        engine.train(trainer, log)
    assert checkpoint.verify(log.folder) == (log.folder / "checkpoints" / "update-00000002", {})
    assert sorted(path.name for path in (log.folder / "checkpoints").iterdir()) == ["latest", "update-00000002"]
    assert not list(log.folder.glob("*.part"))


def test_a_log_on_a_full_disk_ends_with_a_clear_error(tiny_config, capsys):  # capsys: the console is no file then
    full = pytest.raises(UserError, match="cannot write the run folder .*tiny: File too large")
    with contextlib.ExitStack() as until_closed, full, RunLog(tiny_config()) as log:
        until_closed.enter_context(file_size_limit(50))
        log.message("word " * 20)


def test_a_file_in_the_place_of_the_checkpoints_is_a_clear_error(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*checkpoints/update-00000002: .*; the checkpoints before it are whole"):
        save(tmp_path, 2)


def test_a_read_only_folder_is_a_clear_error_and_keeps_its_checkpoint():
    with tempfile.TemporaryDirectory() as name, without_privileges(name):
        folder = Path(name) / "run"
        save(folder, 2)
        (folder / "checkpoints").chmod(0o555)
        with pytest.raises(UserError, match=r"cannot write .*update-00000004: Permission denied"):
            save(folder, 4)
        assert checkpoint.verify(folder) == (folder / "checkpoints" / "update-00000002", {})
        (folder / "checkpoints").chmod(0o755)


@contextlib.contextmanager
def without_privileges(folder):
    """Root may write anywhere, so that it becomes the owner of `folder` and nobody else meanwhile."""
    root, nobody = 0, 65534
    if os.geteuid() == root:
        os.chown(folder, nobody, -1)
        os.seteuid(nobody)
    try:
        yield
    finally:
        if os.getuid() == root:
            os.seteuid(root)


@pytest.mark.parametrize("number, enters", [(errno.ENOLCK, True), (errno.ENOSYS, True), (errno.EIO, False)])
def test_a_disk_that_knows_no_locks_lets_everybody_in(tmp_path, monkeypatch, number, enters):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with contextlib.nullcontext() if enters else pytest.raises(OSError), files.locked(tmp_path / "lock", "taken"):
        pass
    assert list(tmp_path.iterdir()) == ([] if enters else [tmp_path / "lock"])


def test_what_runs_share_is_made_once_though_they_begin_together(tmp_path, capsys):
    made, begun = tmp_path / "cache" / "made", []

    def make():
        begun.append(1)
        time.sleep(0.2)
        made.write_text("whole")

    with ThreadPoolExecutor() as pool:
        for one in [pool.submit(files.once, made.parent, made.exists, make) for _ in range(3)]:
            one.result()
    assert begun == [1] and made.read_text() == "whole"
    assert f"waiting for another process that prepares data in {made.parent}" in capsys.readouterr().err


def test_where_nothing_can_be_locked_nobody_waits(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):  # of `make`, which says what is wrong
        files.once(tmp_path / "file", lambda: False, (tmp_path / "file").mkdir)
