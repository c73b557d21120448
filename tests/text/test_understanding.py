"""The task: its scores against scikit-learn and scipy, its batches, what belongs to its weights."""

import csv
import functools
import json
import shutil

import numpy as np
import paddle
import pytest
from conftest import LABELLED, LABELS, logged
from scipy import stats
from sklearn import metrics

from rdrop_paddle import UserError, evaluate, load_config
from rdrop_paddle.durability import checkpoint
from rdrop_paddle.reporting.runlog import RunLog
from rdrop_paddle.text.understanding import SHOWN, Understanding
from rdrop_paddle.training import engine
from rdrop_paddle.training.trainer import Trainer

NUMBERS = ["data.label=score", "data.target=number"]


def train(task, resume=False, until=None):
    """A finished Trainer, or with `until` one that was stopped behind the checkpoint of that update."""
    paddle.seed(7 if resume else 0)  # nothing is to be right because it began in the same way
    config, trainer = task.config, Trainer(task, task.config)
    if resume:
        trainer.restore(f"{config.output}/{config.name}")
    with RunLog(config, kept_updates=trainer.updates_done) as log:
        if until:
            log.belongings(task.belongings())
            for _ in range(until):
                trainer.step(trainer.read()[0])
                means = trainer.fetch(log.folder)
                means.pop("positions")
                costs = dict(reader_cost=0.0, batch_cost=0.0, examples_per_second=0.0, peak_memory=0.0)
                log.training(trainer.updates_done, lr=0.0, **means, **costs)
            trainer.save(log.folder)
        else:
            engine.train(trainer, log)
    return trainer


def saved(task, folder, **belongings):
    checkpoint.save_best(folder, task.model, task.belongings() | belongings, update=1)
    return folder / "best.safetensors"


def one_by_one(task, split):
    """The outputs of each example of a split, computed alone and without padding: float32 [N, outputs]."""
    task.model.eval()
    examples = task.examples_of(split)
    return np.concatenate(
        [task.model(*(paddle.to_tensor(row[None].astype("int64")) for row in rows)).numpy() for rows in zip(*examples[:2])]
    )


def undecided(task):
    """The task with a head that does not take one class for all."""
    task.model.head.bias.set_value(task.model.head.bias - one_by_one(task, "test").mean(axis=0))
    return task


@pytest.fixture
def official(tables, monkeypatch, tmp_path):
    """official("MRPC", columns, fields) makes train.tsv and dev.tsv of the made texts there under RDROP_DATA."""

    def make(folder, header, fields):
        monkeypatch.setenv("RDROP_DATA", str(tmp_path / "data"))
        target = tmp_path / "data" / "glue" / folder
        target.mkdir(parents=True)
        for split, name in (("train", "train"), ("test", "dev")):
            rows = [line.split("\t") for line in (tables / f"{split}.tsv").read_text().splitlines()[1:]]
            lines = [fields(text, other, str(int(label == "yes"))) for text, other, label, _ in rows]
            (target / f"{name}.tsv").write_text("".join(f"{line}\n" for line in ([header] if header else []) + lines))

    return make


def test_of_own_classes_the_score_is_the_accuracy(understanding):
    task = understanding()
    labels, predicted = task.examples_of("test").labels, one_by_one(task, "test").argmax(axis=1)
    score = evaluate(task, "test")
    assert score["accuracy"] == metrics.accuracy_score(labels, predicted) and 0 < score["correct"] < score["total"] == 21
    assert task.in_words(score) == f"accuracy {score['accuracy']:.4f} ({score['correct']}/21)"
    assert [LABELS[label] for label in labels] == task.labelled("test").labels


def test_the_scores_of_mrpc_are_accuracy_and_f1(understanding, official):
    official("MRPC", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", lambda a, b, label: f"{label}\t1\t2\t{a}\t{b}")
    task = undecided(understanding("data.name=mrpc", "data.path=", "data.text_pair=null"))
    labels, predicted = task.examples_of("test").labels, one_by_one(task, "test").argmax(axis=1)
    score = evaluate(task, "test")
    assert score["accuracy"] == metrics.accuracy_score(labels, predicted)
    assert score["F1"] == pytest.approx(metrics.f1_score(labels, predicted), abs=1e-12) and 0 < score["F1"] < 1
    assert task.config.measure.name == "accuracy" and task.in_words(score).endswith(f"/21; F1 {score['F1']:.4f})")


def test_the_score_of_cola_is_matthews(understanding, official):
    official("CoLA", None, lambda a, b, label: f"gj04\t{label}\t\t{a} {b}")
    task = undecided(understanding("data.name=cola", "data.path=", "data.text_pair=null"))
    labels, predicted = task.examples_of("test").labels, one_by_one(task, "test").argmax(axis=1)
    score = evaluate(task, "test")
    expected = metrics.matthews_corrcoef(labels, predicted)
    assert score["Matthews"] == pytest.approx(expected, abs=1e-12) and expected != 0
    assert task.config.measure.name == "Matthews" == next(iter(score))
    assert task.in_words(score).startswith(f"Matthews {score['Matthews']:.4f} (accuracy ")


def test_the_scores_of_numbers_are_correlations(understanding):
    task = understanding(*NUMBERS)
    labels, predicted = task.examples_of("test").labels, one_by_one(task, "test")[:, 0]
    score = evaluate(task, "test")
    assert score["Pearson"] == pytest.approx(stats.pearsonr(predicted, labels)[0], abs=1e-5)
    assert score["Spearman"] == pytest.approx(stats.spearmanr(predicted, labels)[0], abs=1e-12)
    assert score["mean"] == (score["Pearson"] + score["Spearman"]) / 2
    assert task.config.measure.name == "Pearson" and score["Pearson"] != 0


@pytest.mark.parametrize("more", [[], NUMBERS], ids=["classes", "numbers"])
def test_predictions_do_not_depend_on_the_batch_and_are_written_in_the_datas_order(understanding, tmp_path, more):
    tables = []
    for size in (1, 8, 64):
        task = understanding(*more, f"eval.batch_size={size}")
        evaluate(task, "test")
        task.write(tmp_path / "found.csv", "test")
        with open(tmp_path / "found.csv", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    expected = one_by_one(task, "test")
    for rows in tables:
        assert [row["index"] for row in rows] == [str(n) for n in range(21)]
        if more:
            np.testing.assert_allclose([float(row["prediction"]) for row in rows], expected[:, 0], rtol=1e-4, atol=1e-5)
            assert [float(row["label"]) for row in rows] == pytest.approx(task.labelled("test").labels, rel=1e-5)
            continue
        assert [row["label_name"] for row in rows] == task.labelled("test").labels
        assert [row["prediction_name"] for row in rows] == [LABELS[n] for n in expected.argmax(axis=1)]
        shares = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
        found = [[float(row[f"probability_{name}"]) for name in LABELS] for row in rows]
        np.testing.assert_allclose(found, shares, atol=2e-6)


@pytest.mark.parametrize("more", [[], NUMBERS], ids=["classes", "numbers"])
def test_the_gradient_does_not_depend_on_the_micro_batch(understanding, more):
    found = []
    for size in (2, 8, 16):
        task = understanding("rdrop.alpha=2", f"train.micro_batch_size={size}", "train.clip_norm=null", *more)
        for layer in task.model.sublayers():
            if isinstance(layer, paddle.nn.Dropout):
                layer.p = 0
        trainer = Trainer(task, task.config)
        figures = trainer.backward(trainer.read()[0], update=1).tolist()
        found.append([np.asarray(figures)] + [parameter.grad.numpy() for parameter in task.model.parameters()])
    for others in found[1:]:
        for one, other in zip(found[0], others):
            np.testing.assert_allclose(one, other, atol=1e-5 * max(np.abs(one).max(), 1))


def test_micro_batches_are_of_about_one_length_and_padded_to_their_longest(understanding):
    task = understanding("train.micro_batch_size=4")
    batches, lengths = task.batches("train"), []
    for _ in range(4):
        tokens, types, labels, indices = (tensor.numpy() for tensor in next(batches))
        examples = task.examples_of("train")
        for row, kinds, label, index in zip(tokens, types, labels, indices):
            length = len(examples.ids[index])
            assert row[:length].tolist() == examples.ids[index].tolist() and (row[length:] == task.tokens.padding).all()
            assert kinds[:length].tolist() == examples.types[index].tolist() and label == examples.labels[index]
        lengths += [len(examples.ids[index]) for index in indices]
        assert tokens.shape[1] == lengths[-1]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


@pytest.mark.parametrize("more", [[], NUMBERS], ids=["classes", "numbers"])
def test_a_resumed_run_equals_one_left_alone_to_the_bit(understanding, tables, tmp_path, more):
    straight = train(understanding("name=straight", *more))
    train(understanding("name=resumed", *more), until=3)
    (tables / "vocab.txt").unlink()  # the run has its tokens
    task = Understanding(load_config(tmp_path / "output" / "resumed" / "config.yaml"))
    resumed = train(task, resume=True)
    for name, parameter in straight.task.model.named_parameters():
        assert parameter.numpy().tobytes() == dict(resumed.task.model.named_parameters())[name].numpy().tobytes(), name
    losses = [[r["loss"] for r in logged(tmp_path / "output" / name) if "loss" in r] for name in ("straight", "resumed")]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    terms = {"mse", "difference"} if more else {"ce", "kl"}
    assert terms <= logged(tmp_path / "output" / "straight")[0].keys()
    assert ("kl" in logged(tmp_path / "output" / "straight")[0]) == (not more)


def test_a_run_does_not_go_on_with_other_labels(understanding, tables):
    train(understanding(), until=3)
    text = (tables / "train.tsv").read_text()
    (tables / "train.tsv").write_text(text.replace("\tyes\t", "\tno\t", 1))
    with pytest.raises(UserError, match="train"):
        train(understanding(), resume=True)


def test_weights_are_used_without_the_training_data_with_their_tokens_and_classes(understanding, tables, tmp_path):
    task = understanding()
    expected = evaluate(task, "test")
    path = saved(task, tmp_path)
    for name in ("train.tsv", "val.tsv", "vocab.txt"):
        (tables / name).unlink()
    lines = (tables / "test.tsv").read_text().splitlines()
    other = Understanding(task.config)
    other.load_weights(path)
    assert evaluate(other, "test") == expected and other.class_names() == list(LABELS)
    (tables / "test.tsv").write_text("\n".join(lines[:1] + [line.replace("\tyes\t", "\tmaybe\t") for line in lines[1:]]))
    other = Understanding(task.config)
    other.load_weights(path)
    with pytest.raises(
        UserError, match=r"test.tsv, line \d+: the label is 'maybe', which training does not know; it knows 'no',"
    ):
        evaluate(other, "test")


@pytest.mark.parametrize(
    "more, belongings, message",
    [
        ([], {"tokenizer": None}, "has no tokens in its header, and neither tokenizer.json nor vocab.txt lies beside it"),
        ([], {"classes": ["no", "yes"]}, "head.weight"),
        ([], {"classes": [0, 1, 2]}, "the header of .* is no list of the names of classes"),
        (["model.pooling=mean"], {}, "model.pooling is mean here and pooler in"),
        (NUMBERS, {}, r"gives classes \(no, perhaps, yes\), and the labels of data.name folder are numbers"),
        ([], {"model": {"task": "translation"}}, "was trained for translation, and the config is of understanding: take"),
        ([], {"model": {"pairs": False}}, "takes single texts, and data.name folder has pairs of texts: take the run's config"),
        (
            ["data.name=rte", "data.text_pair=null"],
            {"model": {"data": "mrpc"}},
            "was trained on mrpc, and data.name is rte: take the run's config",
        ),
        ([], {"classes": []}, "gives numbers, and the labels of data.name folder are classes"),
    ],
)
def test_weights_that_do_not_belong_to_the_config_are_refused(understanding, tmp_path, more, belongings, message):
    task = understanding()
    kept = task.belongings() | belongings
    checkpoint.save_best(tmp_path, task.model, {k: v for k, v in kept.items() if v is not None}, update=1)
    with pytest.raises(UserError, match=message):
        Understanding(load_config(None, [*overrides_of(task), *more])).load_weights(tmp_path / "best.safetensors")


def overrides_of(task):
    """What makes the config of a task again."""
    from dataclasses import asdict

    from rdrop_paddle.config import flatten

    flat = flatten(asdict(task.config))
    return [f"{key}={json.dumps(value) if not isinstance(value, str) else value}" for key, value in flat.items()]


def test_initial_weights_give_all_but_the_head_and_their_tokens(understanding, tables, tmp_path):
    trained = understanding(*NUMBERS)
    path = saved(trained, tmp_path)
    shutil.move(tables / "vocab.txt", tmp_path / "elsewhere.txt")
    task = Understanding(load_config(None, [*overrides_of(trained), "model.tokenizer=", f"model.weights={path}",
                                            "data.label=label", "data.target=class"]))  # fmt: skip
    task.load_initial_weights()
    assert task.weight_report.names("random") == ["head.weight", "head.bias"] and task.model.head.weight.shape == [16, 3]
    for name, parameter in task.model.named_parameters():
        if not name.startswith("head."):
            assert (parameter.numpy() == dict(trained.model.named_parameters())[name].numpy()).all()
    assert task.tokens.to_json() == trained.tokens.to_json()


def test_a_model_needs_tokens_from_somewhere(understanding_overrides):
    task = Understanding(load_config(None, [*understanding_overrides, "model.tokenizer="]))
    with pytest.raises(UserError, match="model.tokenizer is empty and so is model.weights"):
        _ = task.tokens


def test_long_inputs_are_counted_and_cut(understanding, capsys):
    task = understanding("data.max_length=8")
    longest = max(map(len, task.examples_of("test").ids))
    whole = understanding("data.max_length=24").examples_of("test").ids
    count = sum(len(ids) > 8 for ids in whole)
    said = capsys.readouterr().err
    assert longest == 8 and f"{count} of 21 inputs of test are longer than data.max_length 8 tokens and cut" in said
    assert said.count("and cut") == 1


def test_what_visualdl_and_the_log_show(understanding):
    task = understanding("rdrop.alpha=4")
    shown = task.examples()
    assert len(shown) == SHOWN and task.labelled("train").pairs[0] in shown["train/example 0"]
    assert task.describe()["labels"] == "no, perhaps, yes"
    assert task.describe()["examples"] == f"{LABELLED['train']}, 3 updates an epoch, 6 updates in all"
    assert task.config.official_alpha() == "officially 0.5, summed over batches of 16"
    assert understanding(*NUMBERS, "rdrop.alpha=0.5").config.official_alpha() == "officially 1"


@pytest.mark.parametrize(
    "more, message",
    [
        (["train.accumulation=2"], "train.accumulation follows from train.batch_size"),
        (["train.batch_size=null"], "train.batch_size is null: give the number of examples"),
        (["model.drop_rate=0", "model.attention_drop_rate=0"], "the two passes would not differ"),
        (["data.max_length=600"], "data.max_length is 600 but the model has positions for model.max_length 512"),
        (["model.types=1"], "model.types is 1 but the texts are pairs"),
        (["data.name=stsb", "train.label_smoothing=0.1"], "train.label_smoothing is for classes"),
        (["data.name=stsb", "rdrop.reduction=sum"], "rdrop.reduction=batchmean"),
        (["data.name=cola", "eval.target=45.8"], "eval.target is 45.8: Matthews is"),
        (["eval.split=dev"], "eval.split is dev: give one of test, test_mismatched, val"),
    ],
)
def test_contradictions_are_found_when_the_config_is_read(more, message):
    with pytest.raises(UserError, match=message):
        load_config(None, ["task=understanding", *more])


def test_all_layers_may_not_be_shared(understanding_overrides):
    with pytest.raises(UserError, match="shared_blocks 2 leaves none of the model's 2 layers to differ in: give at most 1"):
        Understanding(load_config(None, [*understanding_overrides, "rdrop.shared_blocks=2"]))


@pytest.mark.launcher
def test_any_number_of_ranks_prints_the_same_score_and_writes_the_same_predictions(
    understanding, understanding_overrides, run_tool, call_tool, tmp_path
):
    (tmp_path / "config.yaml").write_text("task: understanding\n")
    weights, found = saved(understanding(*NUMBERS), tmp_path), []
    for ranks in (0, 2, 3):
        kept = tmp_path / f"{ranks}.csv"
        arguments = ["-c", tmp_path / "config.yaml", "-o", *understanding_overrides, *NUMBERS]
        run = functools.partial(run_tool, ranks=ranks) if ranks else call_tool
        done = run("eval.py", *arguments, "--weights", weights, "--predictions", kept)
        assert done.returncode == 0, done.stdout
        found.append((done.stdout.strip().splitlines()[-1], kept.read_text()))
    assert found[0] == found[1] == found[2] and found[0][0].startswith("Pearson ") and found[0][1].count("\n") == 22
