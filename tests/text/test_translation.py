import functools
import math
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
import sacrebleu
from conftest import logged, train_text
from safetensors import safe_open

from rdrop_paddle import UserError, evaluate, load_config
from rdrop_paddle.durability import checkpoint
from rdrop_paddle.loss import RDropLoss, cross_entropy
from rdrop_paddle.reporting.runlog import run_folder
from rdrop_paddle.text.generation import generate
from rdrop_paddle.text.sequence_to_sequence import SHOWN
from rdrop_paddle.text.tokens import END, PADDING
from rdrop_paddle.text.translation import Translation
from rdrop_paddle.training.trainer import Trainer

train = functools.partial(train_text, Translation)


def all_of(task, split):
    """Every pair of a split in one batch."""
    return task._batch(task.encoded(split), range(task.size(split)))


def test_a_target_begins_with_the_end_and_its_labels_with_its_first_token(translation):
    task = translation()
    source, target_in, labels, _ = (tensor.numpy() for tensor in all_of(task, "val"))
    for number, text in enumerate(task.pairs("val").target):
        (ids,) = task.tokens.encode(1, [text])
        length = len(ids) + 1
        assert labels[number].tolist() == [*ids, END] + [PADDING] * (labels.shape[1] - length)
        assert target_in[number, :length].tolist() == [END, *ids]
    assert source[0, : len(task.encoded("val").source[0])].tolist()[-1] == END


def test_the_loss_is_that_of_the_logits_without_padding_and_smoothing_is_of_the_cross_entropy_alone(translation):
    task = translation("model.drop_rate=0.3", "train.label_smoothing=0.2", "rdrop.alpha=2")
    model, (source, target_in, labels, _) = task.model, (batch := all_of(task, "val"))
    paddle.seed(3)
    loss, ce, kl, positions = task.loss_terms(model, batch, 2)
    paddle.seed(3)
    logits = model(source, target_in, 2).chunk(2)
    expected = RDropLoss(2, "batchmean", label_smoothing=0.2).terms(*logits, labels, labels == PADDING)
    np.testing.assert_allclose([float(t) for t in (loss, ce, kl)], [float(t) for t in expected], rtol=1e-5)
    assert float(positions) == sum(map(len, task.encoded("val").target))


@pytest.mark.parametrize(
    "saved, now, kept",
    [
        ("eval.select_by=BLEU", "eval.select_by=perplexity", False),
        ("eval.select_by=perplexity", "eval.select_by=BLEU", False),
        ("decode.beam=4", "decode.beam=3", True),  # held-out sentences are not searched
        ("eval.select_by=BLEU", ["eval.select_by=BLEU", "decode.beam=3"], False),
        ("eval.select_by=BLEU", ["eval.select_by=BLEU", "decode.max_tokens=99"], True),
    ],
)
def test_a_resumed_run_compares_no_scores_of_different_kinds(translation, saved, now, kept):
    short = ("train.steps=3", "train.save_every=1", "train.eval_every=1")
    train(translation(*short, saved).config)
    config = translation(*short, *np.atleast_1d(now)).config
    resumed = Trainer(Translation(config), config)
    resumed.restore(run_folder(config))
    best = checkpoint.load_state(checkpoint.newest_whole(run_folder(config))[0])["best"]
    assert best is not None and resumed.best == (best if kept else None)
    assert len(resumed.notes) == ("max_tokens" not in str(now))


def test_the_scores_of_a_split_are_sacrebleus_and_the_models_perplexity(translation):
    task = translation()
    score = evaluate(task, "test")
    task.model.eval()
    found = generate(task.model, task.tokens, task.pairs("test").source, task.config.decode)
    best, references = [one[0].text for one in found], task.pairs("test").target
    assert score["BLEU"] == sacrebleu.corpus_bleu(best, [references]).score
    assert score["chrF"] == sacrebleu.corpus_chrf(best, [references]).score
    source, target_in, labels, _ = all_of(task, "test")
    nll = float(cross_entropy(task.model(source, target_in), labels, labels == PADDING))
    assert score["perplexity"] == pytest.approx(math.exp(nll), rel=1e-5)
    assert score["tokens"] == sum(map(len, task.encoded("test").target))
    assert [task.tokens.decode(1, task.hypotheses[n]) for n in range(len(best))] == best


@pytest.mark.parametrize("selected_by, leading", [("perplexity", "perplexity"), ("BLEU", "BLEU")])
def test_the_best_weights_are_selected_by_what_the_config_says(translation, selected_by, leading):
    task = translation(f"eval.select_by={selected_by}")
    trainer = train(task.config)
    folder = f"{task.config.output}/{task.config.name}"
    held_out = [record for record in logged(folder) if record.get("split") == "val"]
    assert [("BLEU" in record, "perplexity" in record) for record in held_out] == [(leading == "BLEU", True)] * 2
    best = (max if leading == "BLEU" else min)(record[leading] for record in held_out)
    assert trainer.best == best
    with safe_open(f"{folder}/best.safetensors", framework="numpy") as file:
        assert float(file.metadata()[f"val_{leading}"]) == best
    (final,) = [record for record in logged(folder) if record.get("final")]
    assert list(final)[2:4] == ["BLEU", "chrF"] and final["split"] == "test"


def test_a_resumed_run_equals_one_left_alone_to_the_bit_and_keeps_its_tokens(translation, corpus, tmp_path):
    straight = train(translation("name=straight").config)
    train(translation("name=resumed").config, until=3)
    for learned in (tmp_path / "data" / "tokens").iterdir():
        learned.unlink()  # it may go on where nobody has learned them
    resumed = train(translation("name=resumed").config, resume=True)
    for name, parameter in straight.task.model.named_parameters():
        assert parameter.numpy().tobytes() == dict(resumed.task.model.named_parameters())[name].numpy().tobytes(), name
    losses = [[r["loss"] for r in logged(tmp_path / "output" / name) if "loss" in r] for name in ("straight", "resumed")]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    assert not list((tmp_path / "data" / "tokens").iterdir())


def test_a_run_does_not_go_on_with_other_text(translation, corpus):
    train(translation().config, until=3)
    text = (corpus / "train.en").read_text()
    (corpus / "train.en").write_text(text.replace("dog", "cat"))
    with pytest.raises(UserError, match="train"):
        train(translation().config, resume=True)


def test_weights_have_their_tokens_with_them(translation, corpus, tmp_path):
    config = translation("train.steps=3").config
    trainer = train(config)
    expected = evaluate(trainer.task, "test")
    trained = tmp_path / "output" / "small"
    text = (corpus / "train.de").read_text()  # the training text may change: it is not looked at
    (corpus / "train.de").write_text(text.upper())
    alone = Path(shutil.copy(trained / "best.safetensors", tmp_path))
    for weights in (trained / "best.safetensors", alone):
        task = Translation(load_config(trained / "config.yaml", ["name=other"]))
        task.load_weights(weights)
        assert evaluate(task, "test") == expected


def test_converted_weights_are_rounded_and_keep_their_tokens(translation, call_tool, tmp_path):
    trained = translation()
    checkpoint.save_best(tmp_path, trained.model, trained.belongings(), update=1)
    smaller = tmp_path / "alone" / "model.safetensors"
    smaller.parent.mkdir()
    done = call_tool("convert_weights.py", tmp_path / "best.safetensors", smaller, "--float16")
    assert done.returncode == 0, done.stdout
    other = translation("train.seed=1")
    other.load_weights(smaller)
    assert other.tokens.to_json() == trained.tokens.to_json()
    rounded = {name: array.astype("float16") for name, array in checkpoint.model_arrays(trained.model).items()}
    found = checkpoint.model_arrays(other.model)
    assert all((found[name] == array).all() for name, array in rounded.items()) and len(found) == len(rounded)
    done = call_tool("convert_weights.py", tmp_path / "best.safetensors", tmp_path / "model.npz")
    assert done.returncode == 2 and "the weights of no ViT are .safetensors alone" in done.stdout + done.stderr


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["data.source=en", "data.target=de"], "translates de to en and the config en to de: data.source=de data.target=en"),
        (["model.num_heads=4"], "model.num_heads is 4 here and 2 in the header of .* Give model.num_heads=2"),
        (["model.activation=gelu"], "model.activation is gelu here and relu in the header of"),
    ],
)
def test_settings_that_are_not_the_weights_are_refused(translation, tmp_path, overrides, message):
    trained = translation()
    path = tmp_path / "model.safetensors"
    checkpoint.save_best(tmp_path, trained.model, trained.belongings(), update=1)
    (tmp_path / "best.safetensors").rename(path)
    with pytest.raises(UserError, match=message):
        translation(*overrides).load_weights(path)


def test_weights_without_tokens_are_refused(translation, tmp_path):
    checkpoint.save_best(tmp_path, translation().model, {}, update=1)
    with pytest.raises(UserError, match="has no tokens in its header, and no tokenizer.json lies beside it"):
        translation().load_weights(tmp_path / "best.safetensors")


def test_pairs_without_positions_are_left_out_of_training_and_cut_elsewhere(translation, corpus, capsys):
    for split in ("train", "val"):
        for language, word in (("de", "Hund"), ("en", "dog")):
            path = corpus / f"{split}.{language}"
            path.write_text(" ".join([word] * 60) + "\n" + path.read_text())
    task = translation()
    assert task.size("train") == 96 and task.size("val") == 21
    assert [len(side[0]) for side in task.encoded("val")[1:]] == [40, 40] and task.encoded("val").source[0][-1] == END
    said = capsys.readouterr().err
    assert "1 pairs of train are longer than model.max_length 40 tokens and left out" in said
    assert "1 pairs of val are longer than model.max_length 40 tokens and cut" in said
    evaluate(task, "val")


def test_all_of_the_encoder_may_be_shared_and_not_all_layers(translation):
    task = translation("rdrop.shared_blocks=1", "rdrop.alpha=1")
    loss, _, kl, _ = task.loss_terms(task.model, all_of(task, "val"), 2)
    assert float(kl) > 0 and math.isfinite(float(loss))
    with pytest.raises(UserError, match="shared_blocks 2 leaves none of the model's 2 layers to differ in: give at most 1"):
        translation("rdrop.shared_blocks=2")


def test_what_visualdl_shows(translation):
    task = translation()
    task.model.eval()
    given, answers = task.examples(), task.answers()
    assert len(given) == len(answers) == SHOWN
    first = answers["val/translation 0"]
    assert task.pairs("val").source[0] in first and task.pairs("val").target[0] in first


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["train.accumulation=null"], "train.accumulation is null"),
        (["train.batch_size=64"], "train.batch_size counts sentences: leave it null"),
        (["data.target=de"], "data.source and data.target are both de"),
        (["data.vocabulary=separate"], "one embedding needs data.vocabulary=joint"),
        (["model.drop_rate=0"], "model.drop_rate is 0, so that the two passes would not differ"),
        (["decode.min_length=256"], "decode.min_length 256 is above what any answer can have, 255 tokens by"),
    ],
)
def test_contradictions_are_found_when_the_config_is_read(overrides, message):
    with pytest.raises(UserError, match=message):
        load_config(None, ["task=translation", *overrides])


@pytest.mark.launcher
def test_two_ranks_train_and_any_number_of_ranks_counts_the_same(translation_overrides, run_tool, call_tool, tmp_path):
    settings = ["-c", write_config(tmp_path), "-o", *translation_overrides]
    done = run_tool("train.py", *settings, ranks=2, root=tmp_path / "data")
    assert done.returncode == 0, done.stdout
    weights, found = tmp_path / "output" / "small" / "best.safetensors", []
    for ranks in (0, 2, 3):
        kept = tmp_path / f"{ranks}.txt"
        arguments = [*settings, "--weights", weights, "--hypotheses", kept]
        run = functools.partial(run_tool, ranks=ranks) if ranks else call_tool
        done = run("eval.py", *arguments, root=tmp_path / "data")
        assert done.returncode == 0, done.stdout
        found.append((done.stdout.strip().splitlines()[-1], kept.read_text()))
    assert found[0] == found[1] == found[2]
    assert found[0][0].startswith("BLEU ") and found[0][1].count("\n") == 25


def write_config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("task: translation\n")
    return path
