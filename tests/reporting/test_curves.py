import json
import shutil

import numpy as np
import pytest
from conftest import ROOT
from visualdl import LogWriter

from rdrop_paddle import UserError
from rdrop_paddle.reporting.curves import curve, read_log, repeated_steps

RUN = ROOT / "results" / "digits_quickstart" / "digits_rdrop_seed0"


@pytest.fixture
def run_folder(tmp_path):
    """run_folder(name, {step: loss}) -> a run folder whose metrics.jsonl holds these."""

    def write(name, losses):
        folder = tmp_path / name
        folder.mkdir()
        lines = [json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in losses.items()]
        (folder / "metrics.jsonl").write_text("".join(lines))
        return folder

    return write


@pytest.fixture
def visualdl_file(tmp_path):
    """visualdl_file({tag: [(step, value), ...]}) -> the file that VisualDL's own writer makes of it."""

    def write(scalars):
        with LogWriter(logdir=str(tmp_path / "theirs")) as writer:
            for tag, points in scalars.items():
                for step, value in points:
                    writer.add_scalar(tag, value, step)
        (file,) = (tmp_path / "theirs").iterdir()
        return file

    return write


def read_all(*paths):
    return {path: read_log(path) for path in paths}


def test_mean_and_range_over_runs_are_numpys_at_the_steps_that_all_have(run_folder):
    losses = np.random.default_rng(0).normal(size=[3, 20])
    folders = [run_folder(f"seed{n}", dict(enumerate(row[: 20 - 2 * n], start=1))) for n, row in enumerate(losses)]
    found = curve(read_all(*folders), "train/loss")
    assert found.steps.tolist() == list(range(1, 17))
    for of in ("mean", "low", "high"):
        numpys = {"mean": np.mean, "low": np.min, "high": np.max}[of](losses[:, :16], axis=0)
        np.testing.assert_allclose(getattr(found, of), numpys, rtol=1e-12)


def test_too_many_steps_are_averaged_in_blocks_of_each_run_by_itself(run_folder):
    losses = np.random.default_rng(0).normal(size=[3, 20])
    logs = read_all(*(run_folder(f"seed{n}", dict(enumerate(row, start=1))) for n, row in enumerate(losses)))
    found = curve(logs, "train/loss", most=7)
    blocks = losses[:, :18].reshape(3, 6, 3).mean(axis=2)
    blocks = np.concatenate([blocks, losses[:, 18:].mean(axis=1, keepdims=True)], axis=1)
    assert found.block == 3
    assert found.steps.tolist() == [2, 5, 8, 11, 14, 17, 19.5]
    for of, numpys in (("mean", np.mean), ("low", np.min), ("high", np.max)):
        np.testing.assert_allclose(getattr(found, of), numpys(blocks, axis=0), rtol=1e-12)
    assert curve(logs, "train/loss", most=20).block == curve(logs, "train/loss").block == 1


def test_a_run_folder_and_its_visualdl_log_give_the_same_curves(tmp_path):
    shutil.copytree(RUN / "vdl", tmp_path / "copy" / "vdl")
    first, *others = (read_log(path) for path in (RUN, RUN / "vdl", *(RUN / "vdl").iterdir(), tmp_path / "copy"))
    assert {"train/loss", "train/kl", "val/accuracy", "test/accuracy"} <= set(first)
    assert len(first["train/loss"]) == 20 and first["test/accuracy"] == [(1000, 652 / 719)]
    for other in others:
        assert set(other) == set(first)
        for tag in first:
            np.testing.assert_allclose(other[tag], first[tag], rtol=1e-6)  # VisualDL keeps float32


def test_the_score_of_the_best_weights_is_no_point_of_the_held_out_curve(run_folder):
    folder = run_folder("run", {1: 2.0})
    scores = [{"step": 1, "split": "val", "accuracy": 0.5}, {"step": 1, "split": "val", "accuracy": 0.7, "final": True}]
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(score) + "\n" for score in scores)
        file.write('{"step": 2, "lo')  # killed while writing
    assert read_log(folder) == {"train/loss": [(1, 2.0)], "val/accuracy": [(1, 0.5)]}


def test_several_values_of_a_step_are_counted_and_become_mean_and_range(visualdl_file):
    of_ranks = [(10, 0.25), (10, 0.75), (5, 0.5), (10, 0.5), (20, 0.5), (20, 1.0)]
    log = read_log(visualdl_file({"eval/acc": of_ranks, "loss": [(1, 3.0), (2, 2.0)]}))
    assert repeated_steps(log) == {"eval/acc": (2, 3, 3)}
    found = curve({"theirs": log}, "eval/acc", most=2)  # more values at some steps than at others: no blocks of steps
    assert found.block == 1 and found.steps.tolist() == [5, 10, 20]
    assert [found.mean.tolist(), found.low.tolist(), found.high.tolist()] == [
        [0.5, 0.5, 0.75],
        [0.5, 0.25, 0.5],
        [0.5, 0.75, 1.0],
    ]


def test_files_of_several_ranks_in_one_folder_are_read_together(visualdl_file):
    file = visualdl_file({"loss": [(1, 3.0), (2, 2.0)]})
    shutil.copy(file, file.with_name("vdlrecords.1.log"))
    assert repeated_steps(read_log(file.parent)) == {"loss": (2, 2, 2)}


def test_what_cannot_be_read_is_named(run_folder, visualdl_file, tmp_path):
    empty, damaged = run_folder("empty", {}), visualdl_file({"loss": [(1, 3.0)]})
    damaged.write_bytes(damaged.read_bytes()[:-3])
    foreign = run_folder("foreign", {})
    (foreign / "metrics.jsonl").write_text('{"iteration": 1, "loss": 2.0}\n')
    texts, late = run_folder("words", {}), run_folder("late", {})
    (texts / "metrics.jsonl").write_text('{"step": 1, "loss": "abc"}\n')
    (late / "metrics.jsonl").write_text('{"step": "a", "loss": 2.0, "final": true}\n')
    for path, words in (
        (texts, "words is damaged: loss is 'abc' at step 1"),
        (late, "late is damaged: loss is 2.0 at step 'a'"),
        (tmp_path / "absent", "there is no .*absent"),
        (tmp_path, "holds neither metrics.jsonl nor a VisualDL log"),
        (empty, "empty holds no scalar"),
        (foreign, "a line of it has no step"),
        (damaged, "cannot read .*vdlrecords.* as a VisualDL log"),
        (ROOT / "README.md", "cannot read .*README.md as a VisualDL log"),
    ):
        with pytest.raises(UserError, match=words):
            read_log(path)


def test_a_tag_that_is_not_there_is_an_error_that_lists_those_that_are(run_folder):
    logs = read_all(run_folder("early", {1: 2.0}), run_folder("late", {2: 2.0}))
    with pytest.raises(UserError, match="early has no tag val/accuracy: choose with --tag of train/loss"):
        curve(logs, "val/accuracy")
    with pytest.raises(UserError, match="early, .*late have no step of train/loss in common"):
        curve(logs, "train/loss")
