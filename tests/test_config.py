import re
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from conftest import BASE, ROOT

from rdrop_paddle import UserError, load_config, tasks
from rdrop_paddle.config import Config, Measure, accumulation, flatten
from rdrop_paddle.config_layers import DEFAULTS

# keys that configs of before had none of, with the values by which they mean the same
LATER = {"task": "image_classification", "train.accumulation": None, "eval.target": None}
LATER |= {"rdrop.stop_target_gradient": False, "rdrop.shared_blocks": 0, "data.flip": False, "train.collective_timeout": 600}
LATER |= {"train.optimizer": "momentum", "train.betas": [0.9, 0.999], "train.epsilon": 1e-8, "train.label_smoothing": 0.0}
LATER |= {"train.schedule": "cosine", "train.power": 1.0, "train.warmup_init_lr": 0.0}
LATER |= {"train.ema_decay": None, "train.recompute": False, "train.skip_nonfinite": 0, "train.sharding": 0}
LATER |= {"model.scaled": True, "model.embedding_norm": False}
LATER |= {"model.keep_head": False, "model.mean": [0.5, 0.5, 0.5], "model.std": [0.5, 0.5, 0.5]}
CONFIGS = [BASE, *sorted((ROOT / "configs").glob("*.yaml"))]


@pytest.mark.parametrize("path", sorted(ROOT.glob("results/**/config.yaml")), ids=lambda path: path.parent.name)
def test_every_published_config_loads_and_means_what_it_says(path):
    said, found = flatten(yaml.safe_load(path.read_text())), flatten(asdict(load_config(path)))
    if "eval.target_accuracy" in said:
        said["eval.target"] = said.pop("eval.target_accuracy")
    assert {key: found[key] for key in said} == said
    later = {key: found[key] for key in found.keys() - said.keys()}  # keys that there were none of
    assert later == {key: value for key, value in LATER.items() if key in later}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_reads_back_as_it_is(path, tmp_path):
    config = load_config(path)
    (tmp_path / "resolved.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "resolved.yaml") == config


@pytest.mark.parametrize("path", [p for p in CONFIGS if p != BASE], ids=lambda path: path.stem)
def test_every_config_begins_with_a_lab_note_and_its_command(path):
    text = path.read_text()
    assert text.startswith("#") and f"-c configs/{path.name}" in text
    assert load_config(path).name == path.stem


@pytest.mark.parametrize("path", sorted(DEFAULTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_default_has_a_comment(path):
    bare = [line for line in path.read_text().splitlines() if re.match(r"\s+\w+: ", line) and "  # " not in line]
    assert not bare


def test_later_layers_win_and_numbers_in_short_notation_are_numbers(tmp_path):
    (tmp_path / "mine.yaml").write_text("train: {lr: 8e-3, steps: 900}\n")
    config = load_config(tmp_path / "mine.yaml", ["train.steps=1000"])
    assert (config.train.lr, config.train.steps, config.train.momentum) == (0.008, 1000, 0.9)


def test_a_list_may_be_given_in_a_file_and_by_an_override(tmp_path):
    assert load_config(BASE).train.betas == [0.9, 0.999]
    (tmp_path / "mine.yaml").write_text("train: {betas: [0.9, 0.98]}\n")
    assert load_config(tmp_path / "mine.yaml").train.betas == [0.9, 0.98]
    assert load_config(tmp_path / "mine.yaml", ["train.betas=[0,0.95]"]).train.betas == [0.0, 0.95]


def test_the_inverse_square_root_needs_a_warm_up_to_fall_from():
    with pytest.raises(UserError, match="train.schedule is inverse_sqrt.*train.warmup_steps=1 or more"):
        load_config(BASE, ["train.schedule=inverse_sqrt", "train.warmup_steps=0"])
    load_config(BASE, ["train.schedule=inverse_sqrt", "train.warmup_steps=1"])


def test_a_bare_off_means_off():
    assert load_config(BASE, ["train.amp=off"]).train.amp == "off"


LIKE_SOMETHING_ELSE = ["2024_01_01", "2024-01-01", "007", "0x1F", "1e3", "1.50", "1:30", "on", "No", "true", "=", "${name}"]
LIKE_YAML = ["null", "~", "", "a: b", "a #b", "[a", "*a", " a ", "a=b", "\\${a"]


@pytest.mark.parametrize("text", LIKE_SOMETHING_ELSE + LIKE_YAML)
def test_text_is_taken_as_typed_and_written_so_that_it_is_read_back(text, tmp_path):
    config = load_config(None, [f"data.path={text}"])
    assert config.data.path == text
    (tmp_path / "resolved.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "resolved.yaml") == config


@pytest.mark.parametrize("text", LIKE_SOMETHING_ELSE)
def test_text_in_a_file_is_what_stands_there(text, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"name: {text}  # a comment\ndata: {{path: '{text}'}}\n")
    config = load_config(tmp_path / "mine.yaml")
    assert (config.name, config.data.path) == (text, text)


def test_quotes_around_a_value_are_none_of_it():
    config = load_config(None, ["name='on'", 'model.weights=""', "data.path=it's", 'train.steps="900"'])
    assert (config.name, config.model.weights, config.data.path, config.train.steps) == ("on", "", "it's", 900)


def test_what_is_no_text_is_read_by_its_type(tmp_path):
    (tmp_path / "mine.yaml").write_text("data: {flip: on}\ntrain: {steps: 1_000, clip_norm: ~, ema_decay: , seed: 010}\n")
    config = load_config(tmp_path / "mine.yaml", ["train.recompute=yes", "train.lr=1e-2", "data.images_per_class=null"])
    train = config.train
    assert (train.steps, train.lr, train.clip_norm, train.ema_decay, train.seed) == (1000, 0.01, None, None, 10)
    assert (config.data.flip, train.recompute, config.data.images_per_class) == (True, True, None)


@pytest.mark.parametrize(
    "override, message",
    [
        ("train.stps=3", "unknown key train.stps; the nearest valid key is train.steps"),
        ("trian.steps=3", "unknown key trian; the nearest valid key is train"),
        ("train.steps=abc", "train.steps.*'abc'"),
        ("train.steps=1.5", "train.steps.*1.5"),
        ("train.steps=null", "train.steps"),
        ("train.lr=nan", "train.lr is nan"),
        ("train.ema_decay=1.1", "train.ema_decay is 1.1: give a number >= 0 and <= 1"),
        ("train.skip_nonfinite=-1", "train.skip_nonfinite is -1: give a number >= 0"),
        ("train.lr=-1", "train.lr is -1.0: give a number >= 0"),
        ("model.drop_rate=1.5", "model.drop_rate is 1.5: give a number >= 0 and <= 1"),
        ("data.crop_scale=0", "data.crop_scale is 0.0: give a number above 0"),
        ("rdrop.passes=3", "rdrop.passes is 3: give one of 1, 2"),
        ("rdrop.passes=1", "rdrop.alpha is 9.6 but rdrop.passes is 1"),
        ("rdrop.shared_blocks=-1", "rdrop.shared_blocks is -1: give a number >= 0"),
        ("rdrop.reduction=none", "rdrop.reduction is none"),
        ("train.warmup_steps=10000", "train.warmup_steps 10000 must be below"),
        ("train.warmup_init_lr=-1", "train.warmup_init_lr is -1.0: give a number >= 0"),
        ("train.power=0", "train.power is 0.0: give a number above 0"),
        ("train.schedule=sqrt", "train.schedule is sqrt: give one of cosine, inverse_sqrt, linear, polynomial"),
        ("train.optimizer=adam", "train.optimizer is adam: give one of momentum, adamw"),
        ("train.betas=[0.9]", r"train.betas is \[0.9\]: give 2 numbers >= 0 and below 1"),
        ("train.betas=[0.9,0.98,0.99]", "give 2 numbers"),
        ("train.betas=[0.9,1]", r"train.betas is \[0.9, 1.0\]: give 2 numbers >= 0 and below 1"),
        ("train.betas=[-0.1,0.9]", "give 2 numbers >= 0 and below 1"),
        ("train.betas=[0.9,nan]", "give 2 numbers >= 0 and below 1"),
        ("train.betas=[0.9,abc]", "train.betas.*'abc'"),
        ("train.betas=0.9", r"train.betas: give a list such as \[0.9, 0.98\]"),
        ("train.betas=null", "train.betas"),
        ("train.label_smoothing=1.1", "train.label_smoothing is 1.1: give a number >= 0 and <= 1"),
        ("data.flip=maybe", "data.flip"),
        ("name=a/b", "plain folder name"),
        ("name=..", "plain folder name"),
        ("steps", "write key=value"),
        ("train.lr=[", "train.lr"),
        ("train=3", "train"),
        ("train.steps=1:30", "train.steps.*'1:30'"),
        ("train={steps: 900, steps: 901}", "line 1: key given twice: steps"),
        ("name=???", r"\?\?\? stands for a value that is missing"),
    ],
)
def test_a_bad_override_is_one_line_that_names_it(override, message):
    with pytest.raises(UserError, match=message) as error:
        load_config(BASE, [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["task=translate"], "task=translate: task is 'translate': did you mean .*? Known: image_classification"),
        (["task=[1]"], "task is '?\\[1\\]"),
        (["train.accumulation=4"], "train.accumulation follows from train.batch_size and train.micro_batch_size"),
        (["train.batch_size=null"], "train.batch_size is null: give the number of images"),
        (["eval.target=93.29"], "eval.target is 93.29: accuracy is from 0 to 1"),
        (["eval.target_accuracy=93.29"], "eval.target is 93.29: accuracy is from 0 to 1"),
        (["eval.target=-1"], "eval.target is -1.0: give a number >= 0"),
        (["model.mean=0.5"], "model.mean"),
        (["model.mean=[0.5,a,0.5]"], "model.mean"),
        (["model.mean=[0.5,0.5]"], r"model.mean is \[0.5, 0.5\]: give 3 numbers >= 0"),
        (["model.mean=[0.5,nan,0.5]"], "model.mean is .*nan.*: give 3 numbers >= 0"),
        (["model.std=[0.5,0.0,0.5]"], "model.std is .*: give 3 numbers above 0"),
        (["model.keep_head=true"], "model.keep_head is true but model.weights is empty: there is no head to keep"),
    ],
)
def test_what_does_not_fit_the_task_is_one_line(overrides, message):
    with pytest.raises(UserError, match=message):
        load_config(None, overrides)


def test_the_former_name_of_the_target_still_loads(tmp_path):
    assert load_config(None, ["eval.target_accuracy=0.9"]).eval.target == 0.9
    (tmp_path / "mine.yaml").write_text("eval: {target_accuracy: 0.8}\n")
    assert load_config(tmp_path / "mine.yaml").eval.target == 0.8
    assert load_config(tmp_path / "mine.yaml", ["eval.target=0.7"]).eval.target == 0.7
    (tmp_path / "both.yaml").write_text("eval: {target_accuracy: 0.8, target: 0.9}\n")
    with pytest.raises(UserError, match="both.yaml: eval.target_accuracy is the former name of eval.target"):
        load_config(tmp_path / "both.yaml")


@pytest.mark.parametrize("task", tasks.TASKS)
def test_every_task_has_defaults_a_config_and_a_leading_score(task):
    config = load_config(None, [f"task={task}"])
    assert config.task == task and (DEFAULTS / f"{task}.yaml").exists()
    assert isinstance(config, tasks.config_class(task)) and isinstance(config, Config)
    assert config.measure.name and config.unit


def test_a_score_that_is_better_lower_meets_its_target_from_above():
    perplexity, accuracy = Measure("perplexity", higher_is_better=False), Measure("accuracy")
    assert [perplexity.reaches(value, 24.9) for value in (24.8, 24.9, 25.0)] == [True, True, False]
    assert [accuracy.reaches(value, 0.9) for value in (0.8, 0.9, 1.0)] == [False, True, True]
    assert perplexity.is_better(30.0, float("nan")) and not perplexity.is_better(float("nan"), 30.0)
    assert not perplexity.reaches(float("nan"), 24.9) and not accuracy.reaches(float("nan"), 0.9)


@pytest.mark.parametrize(
    "content, message",
    [
        ("train: {steps: [", "line 1|line 2"),
        ("- 1\n", "mapping"),
        ("", "ok"),
        ("mdl: {}", "model"),
        ("\xff", "mine"),
        ("null: 1", "mine"),
        ("name: null", "mine.yaml, name: .*None"),
        ("train:\n  lr: 1\n  steps: 900\n  lr: 2\n", "mine.yaml, line 4: key given twice: lr$"),
        ("data: {}\ntrain: {}\ndata: {}\n", "mine.yaml, line 3: key given twice: data$"),
        ("train:\n\tsteps: 900\n", "mine.yaml, line 2: indented with tabs, which YAML does not take: use spaces$"),
        ("train:\n  steps: 900\n  \tlr: 1\n", "mine.yaml, line 3: indented with tabs"),
        ("train.lr: 0.1\n", "mine.yaml: write the key train.lr as {train: {lr: ...}}, lr within its section$"),
        ("name: a: b\n", "mine.yaml, line 1: mapping values are not allowed"),
        ("name: a\n---\nname: b\n", "mine.yaml, line 2: expected a single document in the stream but found another"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(content, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(content, encoding="latin1")
    if message == "ok":  # nothing differs from the defaults
        assert load_config(path) == load_config(BASE)
        return
    with pytest.raises(UserError, match=message) as error:
        load_config(path)
    assert "mine.yaml" in str(error.value) and "\n" not in str(error.value)


def test_one_pass_has_no_blocks_to_share():
    with pytest.raises(UserError, match="rdrop.shared_blocks is 2 but rdrop.passes is 1"):
        load_config(BASE, ["rdrop.passes=1", "rdrop.alpha=0", "rdrop.shared_blocks=2"])


def test_two_passes_without_dropout_have_no_divergence_to_train():
    with pytest.raises(UserError, match="model.drop_rate is 0, so that .* model.drop_rate=0.1, or rdrop.alpha=0"):
        load_config(BASE, ["model.drop_rate=0"])
    load_config(BASE, ["model.drop_rate=0", "model.proj_drop_rate=0.1"])
    load_config(BASE, ["model.drop_rate=0", "rdrop.alpha=0"])  # the doubled batch
    load_config(BASE, ["model.drop_rate=0", "rdrop.alpha=0", "rdrop.passes=1"])


@pytest.mark.parametrize("amp", [["train.amp=O2"], ["train.amp=O1", "train.amp_dtype=float16"]])
def test_skipping_needs_float32_weights_and_no_loss_scaling(amp):
    with pytest.raises(UserError, match="train.skip_nonfinite needs train.amp off, or O1 with bfloat16"):
        load_config(BASE, ["train.skip_nonfinite=1", *amp])
    load_config(BASE, ["train.skip_nonfinite=1", "train.amp=O1"])


def test_evaluating_on_nothing_is_an_error():
    with pytest.raises(UserError, match="eval.split is val but data.val_fraction is 0"):
        load_config(BASE, ["eval.split=val", "data.val_fraction=0"])


def test_an_absent_file_is_named():
    with pytest.raises(UserError, match="cannot read the config absent.yaml: No such file"):
        load_config(Path("absent.yaml"))


def test_accumulation_is_derived_and_a_rest_is_an_error_with_three_ways_out(tiny_config):
    assert accumulation(tiny_config("train.batch_size=512").train, ranks=4) == 4
    with pytest.raises(UserError, match="give for example 64, 128, 192"):
        accumulation(tiny_config("train.batch_size=100").train, ranks=2)
