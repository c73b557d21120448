"""The names of the classes go with the weights, whatever becomes of the folder that they were trained on."""

import csv
import json
import shutil

import numpy as np
import paddle
import pytest
from conftest import BASE, ROOT
from PIL import Image
from safetensors import safe_open

from rdrop_paddle import UserError
from rdrop_paddle.durability import checkpoint
from rdrop_paddle.durability.checkpoint import model_arrays, save_weights
from rdrop_paddle.reporting.runlog import RunLog
from rdrop_paddle.training import engine
from rdrop_paddle.training.trainer import Trainer
from rdrop_paddle.vision import cifar
from rdrop_paddle.vision.task import ImageClassification

COLOURS = {"blue": (30, 40, 220), "green": (20, 200, 30), "red": (210, 30, 20)}
NAMES = list(COLOURS)


@pytest.fixture
def settings(tmp_path, tiny_overrides):
    """Overrides for a folder of small pictures of three colours, which is made."""
    for part, count in (("train", 8), ("val", 3)):
        for name, colour in COLOURS.items():
            for number in range(count):
                path = tmp_path / "colours" / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng(number).integers(-20, 20, [8, 8, 3])
                Image.fromarray((np.asarray(colour) + noise).clip(0, 255).astype("uint8")).save(path)
    sizes = ["model.classes=3", "train.batch_size=6", "train.micro_batch_size=6", "train.warmup_steps=1", "train.lr=0.05"]
    return [*tiny_overrides, "data.name=folder", f"data.path={tmp_path / 'colours'}", *sizes, "data.val_fraction=0.25"]


@pytest.fixture
def run_folder(settings, tiny_config):
    """Of a run on that folder, with checkpoints of updates 3 and 6."""
    paddle.seed(3)  # of the initial weights: six updates from others may end at chance
    config = tiny_config(*settings)
    with RunLog(config) as log:
        engine.train(Trainer(ImageClassification(config), config), log)
    return log.folder


@pytest.fixture
def tool(main_of, settings, tmp_path, monkeypatch, capsys):
    """tool("predict", *arguments) -> what it printed; in this process, which has Paddle already."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments, config=True):
        main = main_of(f"{name}.py")
        capsys.readouterr()
        assert main(*(["-c", BASE, *arguments, "-o", *settings] if config else arguments)) == 0
        return capsys.readouterr()

    return run


def predicted(tool, weights, folder, tmp_path):
    """The name of the likeliest class of each picture of a folder."""
    tool("predict", "--weights", weights, folder, "--json", tmp_path / "result.json")
    return [image["top"][0]["class"] for image in json.loads((tmp_path / "result.json").read_text())["images"]]


def test_names_are_in_the_run_folder_and_in_the_header_of_every_weight_file(run_folder):
    assert json.loads((run_folder / "classes.json").read_text()) == NAMES
    files = [run_folder / "best.safetensors", *(checkpoint.latest(run_folder)).glob("*.safetensors")]
    assert {path.stem for path in files} >= {"best", "model"}
    for path in files:
        with safe_open(str(path), framework="numpy") as file:
            assert json.loads(file.metadata()["classes"]) == NAMES


def test_a_folder_that_was_renamed_or_removed_changes_no_prediction_and_no_export(run_folder, tool, tmp_path):
    weights = run_folder / "best.safetensors"
    pictures = shutil.copytree(tmp_path / "colours" / "val", tmp_path / "pictures")
    before = predicted(tool, weights, pictures, tmp_path)
    for part in ("train", "val"):
        (tmp_path / "colours" / part / "red").rename(tmp_path / "colours" / part / "aaa")
    assert predicted(tool, weights, pictures, tmp_path) == before
    shutil.rmtree(tmp_path / "colours")
    assert predicted(tool, weights, pictures, tmp_path) == before and set(before) <= set(NAMES)
    tool("export", "--weights", weights, "--output", tmp_path / "exported")
    assert json.loads((tmp_path / "exported" / "description.json").read_text())["class_names"] == NAMES


def test_an_evaluation_refuses_other_names_and_another_order(run_folder, tool, tmp_path):
    weights, colours = run_folder / "best.safetensors", tmp_path / "colours"
    assert "(" in tool("eval", "--weights", weights).out
    for part in ("train", "val"):
        (colours / part / "red").rename(colours / part / "aaa")
    with pytest.raises(UserError, match=f"class 0 is blue to the weights and aaa in {colours}: the data need") as error:
        tool("eval", "--weights", weights)
    assert "\n" not in str(error.value)
    for part in ("train", "val"):
        (colours / part / "aaa").rename(colours / part / "scarlet")
    with pytest.raises(UserError, match="class 2 is red to the weights and scarlet in"):
        tool("eval", "--weights", weights)


def test_in_a_process_of_its_own_that_is_one_line_and_status_2(run_folder, settings, run_tool, tmp_path):
    (tmp_path / "colours" / "train" / "red").rename(tmp_path / "colours" / "train" / "aaa")
    (tmp_path / "colours" / "val" / "red").rename(tmp_path / "colours" / "val" / "aaa")
    done = run_tool("eval.py", "-c", run_folder / "config.yaml", "--weights", run_folder / "best.safetensors")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: class 0 is blue to the weights")]


def test_weights_without_names_have_those_of_the_data_and_none_silently(tool, tiny_config, settings, tmp_path):
    weights = tmp_path / "weights.safetensors"
    save_weights(model_arrays(ImageClassification(tiny_config(*settings)).model), weights)
    pictures = shutil.copytree(tmp_path / "colours" / "val", tmp_path / "pictures")
    before = predicted(tool, weights, pictures, tmp_path)
    assert set(before) <= set(NAMES)
    shutil.rmtree(tmp_path / "colours")
    printed = tool("predict", "--weights", weights, pictures)
    assert "the classes have numbers for names: none were kept with the weights" in printed.err
    assert f"class {NAMES.index(before[0])}" in printed.out and "numbers" not in printed.out
    (tmp_path / "classes.json").write_text(json.dumps(NAMES))
    assert predicted(tool, weights, pictures, tmp_path) == before


@pytest.mark.parametrize(
    "content, message",
    [
        ('["blue", "green"]', "classes.json names 2 classes and model.classes is 3: it is of other weights"),
        ('{"blue": 0, "green": 1, "red": 2}', "classes.json is no list of the names of classes"),
        ('["blue", "green", 3]', "classes.json is no list of the names of classes"),
        ('["blue', "cannot read .*classes.json, beside the weights: .*mend it or move it away"),
    ],
)
def test_a_file_of_names_that_is_none_is_named(tool, tiny_config, settings, tmp_path, content, message):
    weights = tmp_path / "weights.safetensors"
    save_weights(model_arrays(ImageClassification(tiny_config(*settings)).model), weights)
    (tmp_path / "classes.json").write_text(content)
    with pytest.raises(UserError, match=message):
        tool("predict", "--weights", weights, tmp_path / "colours")


def test_converted_weights_keep_their_names_where_the_format_has_a_place(run_folder, tool, tmp_path):
    published = tmp_path / "published" / "model.safetensors"
    published.parent.mkdir()
    printed = tool("convert_weights", run_folder / "best.safetensors", published, config=False).out
    assert "no place" not in printed
    shutil.rmtree(tmp_path / "colours" / "train" / "red")  # a folder of two classes now
    assert set(predicted(tool, published, tmp_path / "colours" / "val", tmp_path)) <= set(NAMES)
    other = published.with_suffix(".pdparams")
    assert (
        "put classes.json and model.json of the run folder beside it"
        in tool("convert_weights", published, other, config=False).out
    )
    for name in ("classes", "model"):
        shutil.copy(run_folder / f"{name}.json", published.parent)
    assert set(predicted(tool, other, tmp_path / "colours" / "val", tmp_path)) <= set(NAMES)


def test_names_that_are_no_utf_8_are_kept(tiny_config, settings, tmp_path):
    name = b"\xff or \xe8".decode("utf-8", "surrogateescape")
    for part in ("train", "val"):
        (tmp_path / "colours" / part / "red").rename(tmp_path / "colours" / part / name)
    config = tiny_config(*settings)
    task = ImageClassification(config)
    checkpoint.save_best(tmp_path, task.model, task.belongings())
    again = ImageClassification(config)
    again.load_weights(tmp_path / "best.safetensors")
    assert again.class_names() == ["blue", "green", name] == again.images("test").class_names


def test_a_head_is_kept_or_begins_at_zero(run_folder, settings, tiny_config):
    """At a learning rate of nothing, what was learnt is there when the head is kept, and chance when it is not."""

    def fine_tuned(*overrides):
        config = tiny_config(*settings, f"model.weights={run_folder / 'best.safetensors'}", "train.lr=1e-9", *overrides)
        task = ImageClassification(config)
        task.load_initial_weights()
        task.read_splits()
        trainer = Trainer(task, config)
        trainer.step(trainer.read()[0])
        return task, engine.evaluate(task, "test")

    whole = ImageClassification(tiny_config(*settings))
    whole.load_weights(run_folder / "best.safetensors")
    trained = engine.evaluate(whole, "test")
    task, score = fine_tuned("model.keep_head=true")
    assert score == trained and score["correct"] > 3 and not task.weight_report.names("reset")
    task, score = fine_tuned()
    assert score["correct"] == 3 and task.weight_report.names("reset") == ["head.weight", "head.bias"]


def test_a_kept_head_is_for_the_same_classes_and_as_many(run_folder, settings, tiny_config, tmp_path):
    keep = [*settings, f"model.weights={run_folder / 'best.safetensors'}", "model.keep_head=true"]
    task = ImageClassification(tiny_config(*keep, "model.classes=4"))
    with pytest.raises(UserError, match=r"does not fit the model: head.weight misshapen \(\[16, 3\] in the file, \[16, 4\]"):
        task.load_initial_weights()
    (tmp_path / "colours" / "train" / "red").rename(tmp_path / "colours" / "train" / "aaa")
    (tmp_path / "colours" / "val" / "red").rename(tmp_path / "colours" / "val" / "aaa")
    task = ImageClassification(tiny_config(*keep))
    task.load_initial_weights()
    with pytest.raises(UserError, match="class 0 is blue to the weights and aaa in"):
        task.read_splits()
    task = ImageClassification(tiny_config(*keep, "model.keep_head=false"))  # a new head has the names of its data
    task.load_initial_weights()
    task.read_splits()
    assert task.belongings()["classes"] == ["aaa", "blue", "green"]


def test_the_released_names_are_those_of_cifar_100_and_of_the_published_predictions():
    folder = ROOT / "results" / "vit_ti16_cifar100_rdrop"
    names = json.loads((folder / "classes.json").read_text())
    assert names == cifar.CIFAR100.class_names.split()
    with (folder / "predictions.csv").open() as file:
        assert all(names[int(row["label"])] == row["label_name"] for row in csv.DictReader(file))
