import json

import numpy as np
import pytest
from visualdl import LogReader

from rdrop_paddle import UserError, load_config
from rdrop_paddle.reporting.runlog import RunLog, check_run_folder, environment

VALUES = dict(
    loss=2.5, ce=2.0, kl=0.5, lr=0.1, grad_norm=3.0, images_per_second=10.0, reader_cost=0.1, batch_cost=1.0, peak_memory=1.5
)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_run_folder_describes_the_run(tiny_config):
    config = tiny_config()
    with RunLog(config, ranks=2, device="cpu") as log:
        log.message("parameters 3")
        log.training(1, **VALUES)
        log.evaluation(3, "val", {"accuracy": 0.5, "correct": 1, "total": 2})
        log.evaluation(6, "test", {"accuracy": 0.25, "correct": 1, "total": 4}, final=True)
        log.outcome("accuracy 0.2500 (1/4)")
    assert (log.folder / "eval.txt").read_text() == "accuracy 0.2500 (1/4)\n"
    assert load_config(log.folder / "config.yaml") == config
    described = json.loads((log.folder / "environment.json").read_text())
    assert described["ranks"] == 2 and described["packages"]["visualdl"]
    assert records(log.folder) == [
        {"step": 1, **VALUES},
        {"step": 3, "split": "val", "accuracy": 0.5, "correct": 1, "total": 2},
        {"step": 6, "split": "test", "accuracy": 0.25, "correct": 1, "total": 4, "final": True},
    ]
    text = (log.folder / "train.log").read_text()
    assert "parameters 3" in text and "loss 2.5000" in text and "peak_memory 1.50 GB  eta 00:05" in text


def test_visualdl_shows_scalars_images_and_hyper_parameters(tiny_config):
    with RunLog(tiny_config()) as log:
        log.examples({"train/augmented": np.random.default_rng(0).integers(0, 255, [16, 16, 3], dtype="uint8")})
        log.examples({"val/translated": "Ein Hund rennt. → A dog runs."}, update=3)
        log.training(1, **VALUES)
        log.training(2, **VALUES | {"loss": 1.5})
        log.evaluation(3, "val", {"accuracy": 0.5, "correct": 1, "total": 2})
    (file,) = (log.folder / "vdl").iterdir()
    reader = LogReader(file_path=str(file))
    tags = reader.get_tags()
    assert {f"train/{name}" for name in VALUES} | {"val/accuracy"} <= set(tags["scalar"])
    assert not {"val/correct", "val/total"} & set(tags["scalar"])
    assert [(s.id, round(s.value, 3)) for s in reader.get_data("scalar", "train/loss")] == [(1, 2.5), (2, 1.5)]
    assert tags["image"] == ["train/augmented"] and tags["text"] == ["val/translated"] and "hyper_parameters" in tags
    (row,) = reader.get_data("hyper_parameters", *tags["hyper_parameters"])
    texts = {parameter.name: parameter.string_value for parameter in row.hparam.hparamInfos}
    assert (texts["optimizer"], texts["schedule"]) == ("momentum", "cosine")


def test_a_continued_run_keeps_what_was_logged_before_its_checkpoint(tiny_config):
    with RunLog(tiny_config()) as log:
        for update in (1, 2, 3):
            log.training(update, **VALUES)
        log.evaluation(1, "val", {"loss": 7.0})
        log.evaluation(2, "val", {"loss": 8.0})  # done again, because the checkpoint of update 2 is older than it
        log.evaluation(2, "test", {"accuracy": 0.1}, final=True)
    with (log.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    with RunLog(tiny_config(), kept_updates=2) as log:
        log.training(3, **VALUES | {"loss": 9.0})
    assert [(r["step"], r["loss"]) for r in records(log.folder)] == [(1, 2.5), (2, 2.5), (1, 7.0), (3, 9.0)]
    (file,) = (log.folder / "vdl").iterdir()  # VisualDL shows one file of a folder
    assert [s.value for s in LogReader(file_path=str(file)).get_data("scalar", "train/loss")] == [2.5, 2.5, 9.0]


def test_metrics_are_strict_json_whatever_the_figures(tiny_config):
    for kept in (0, 1):  # the second time the record is read back and shown again
        with RunLog(tiny_config(), kept_updates=kept) as log:
            log.training(1 + kept, **VALUES | {"loss": float("nan"), "kl": float("inf"), "grad_norm": float("-inf")})
            log.sync()
    lines = (log.folder / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    nothing = {"loss": None, "kl": None, "grad_norm": None}
    assert found == [{"step": 1, **VALUES, **nothing}, {"step": 2, **VALUES, **nothing}]


def test_other_ranks_write_nothing(tiny_config):
    with RunLog(tiny_config(), rank=1, ranks=2) as log:
        log.message("hello")
        log.training(1, **VALUES)
        log.evaluation(1, "val", {"accuracy": 0.5})
        log.examples({"train/augmented": np.zeros([8, 8, 3], "uint8")})
        log.outcome("accuracy 0.5000 (1/2)")
        log.progress(1)
        log.sync()
    assert not log.folder.exists()


def test_two_runs_are_never_mixed(tiny_config, tmp_path):
    config = tiny_config()
    check_run_folder(config, resume=False)
    (tmp_path / "output" / "tiny").mkdir(parents=True)
    check_run_folder(config, resume=False)
    (tmp_path / "output" / "tiny" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"run folder .*tiny is not empty: continue it with --resume"):
        check_run_folder(config, resume=False)
    check_run_folder(config, resume=True)
    with pytest.raises(UserError, match="--resume cannot continue a run with train.amp O2"):
        check_run_folder(tiny_config("train.amp=O2"), resume=True)


def test_a_run_folder_that_cannot_be_made_is_a_user_error(tiny_config, tmp_path):
    (tmp_path / "output").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write the run folder .*tiny: Not a directory"):
        RunLog(tiny_config())


def test_the_environment_names_what_results_depend_on():
    found = environment(1, "cpu")
    assert {"numpy", "pillow", "visualdl"} <= found["packages"].keys()
    assert any(name.startswith("paddlepaddle") for name in found["packages"])
