import json
import math

import numpy as np
import paddle
import pytest
from conftest import ROOT, logged, train_text

from rdrop_paddle import UserError, evaluate, load_config
from rdrop_paddle.durability import checkpoint
from rdrop_paddle.loss import RDropLoss
from rdrop_paddle.text.continuation import Continued
from rdrop_paddle.text.language_modelling import SHOWN, LanguageModelling
from rdrop_paddle.text.token_stream import IGNORED
from rdrop_paddle.text.tokens import END, UNKNOWN
from rdrop_paddle.training.criterion import FusedLinearCriterion
from rdrop_paddle.training.trainer import Trainer


def train(task, **ways):
    return train_text(LanguageModelling, task.config, **ways)


def loud(task):
    """The task with weights large enough for sure answers."""
    for seed, parameter in enumerate(task.model.parameters()):
        parameter.set_value(np.random.default_rng(seed).normal(0, 0.3, parameter.shape).astype("float32"))
    return task


def test_labels_are_the_tokens_of_a_line_and_its_end_after_the_end_of_another(language_modelling):
    task = language_modelling()
    tokens, labels, indices = (tensor.numpy() for tensor in next(task.batches("val")))
    for row, number in enumerate(indices):
        (ids,) = task.tokens.encode(0, [task.lines("val")[number]])
        assert labels[row].tolist() == [*ids, END] + [IGNORED] * (labels.shape[1] - len(ids) - 1)
        assert tokens[row, : len(ids) + 1].tolist() == [END, *ids]


def test_the_loss_is_that_of_the_logits_where_there_are_labels(language_modelling):
    task = loud(language_modelling("model.drop_rate=0.3", "rdrop.alpha=2"))
    tokens, labels, _ = batch = next(task.batches("val"))
    paddle.seed(3)
    *found, positions = task.loss_terms(task.model, batch, 2)
    paddle.seed(3)
    logits = task.model(tokens, 2).chunk(2)
    mask = labels == IGNORED
    expected = RDropLoss(2, "batchmean").terms(*logits, paddle.where(mask, paddle.zeros_like(labels), labels), mask)
    np.testing.assert_allclose([float(t) for t in found], [float(t) for t in expected], rtol=1e-5)
    assert float(positions) == int((~mask).sum()) < labels.size and float(found[2]) > 0


@pytest.mark.parametrize("more", [[], ["data.break_mode=none", "eval.context=7"]], ids=str)
def test_a_model_that_knows_nothing_has_the_vocabulary_as_its_perplexity(language_modelling, more):
    task = language_modelling("data.tokens_per_sample=12", *more)
    task.model.embedding.weight.set_value(paddle.zeros_like(task.model.embedding.weight))
    score = evaluate(task, "test")
    vocabulary, lines = task.tokens.sizes[0], task.lines("test")
    assert score["perplexity"] == pytest.approx(vocabulary, rel=1e-6)
    assert score["tokens"] == sum(len(ids) + 1 for ids in task.tokens.encode(0, lines))
    assert score["words"] == sum(len(line.split()) + 1 for line in lines)
    assert score["word_perplexity"] == pytest.approx(vocabulary ** (score["tokens"] / score["words"]), rel=1e-6)
    assert task.in_words(score).startswith(f"perplexity {vocabulary:.2f} per token (")


def test_the_context_is_what_a_score_depends_on_and_longer_ones_say_what_one_forward_says(language_modelling):
    blocks = ["data.break_mode=none", "data.tokens_per_sample=30", "data.max_tokens=240"]
    scores = {}
    for context in (0, 29):
        task = loud(language_modelling(*blocks, f"eval.context={context}"))
        scores[context] = evaluate(task, "val")
        assert scores[context]["tokens"] == len(task.stream("val"))
    assert scores[0]["perplexity"] != pytest.approx(scores[29]["perplexity"], rel=1e-3)
    task.model.eval()
    stream, nll = task.stream("val"), 0.0
    for token in range(len(stream)):  # each alone, after at most 29 and what they follow
        seen = stream.tokens[max(token - 29, 0) : token + 1]
        logits = task.model(paddle.to_tensor(seen[None].astype("int64")))[0, -1]
        nll -= float(paddle.nn.functional.log_softmax(logits)[int(stream.tokens[token + 1])])
    assert scores[29]["perplexity"] == pytest.approx(math.exp(nll / len(stream)), rel=1e-5)


@pytest.mark.parametrize("more", [[], ["data.break_mode=none", "eval.context=5"]], ids=str)
def test_any_number_of_ranks_counts_each_window_once_and_prints_the_same(language_modelling, more):
    task, said = loud(language_modelling(*more)), []
    task.model.eval()
    for ranks in (1, 2, 3):
        shares, indices = [], []
        for rank in range(ranks):
            task.rank, task.ranks = rank, ranks
            with paddle.no_grad(), task.for_evaluation("val", False) as evaluator:
                for batch in task.batches("val"):
                    shares.append(task.evaluate(evaluator, batch).numpy())
                    indices += batch[-1].tolist()
        assert sorted(indices) == [*range(task.size("val"))]
        said.append(task.in_words(task.score(np.sum(shares, axis=0))))
    assert said[0] == said[1] == said[2]


class OfPass(paddle.nn.Layer):
    """In the place of dropout: a mask of its own for either pass, the same for every position."""

    def forward(self, x):
        first, second = x.chunk(2)
        mask = np.random.default_rng(0).random([2, x.shape[-1]]).astype("float32") * 2
        return paddle.concat([first * paddle.to_tensor(mask[0]), second * paddle.to_tensor(mask[1])])


def test_the_gradient_of_r_drop_does_not_depend_on_the_micro_batches(language_modelling):
    found = []
    for parts in ([range(12)], [range(2), range(2, 9), range(9, 12)]):
        no_dropout = ("rdrop.alpha=0", "model.drop_rate=0", "model.attention_drop_rate=0")
        task = loud(language_modelling(*no_dropout, "data.tokens_per_sample=7"))
        task.config.rdrop.alpha = 2
        task.criterion = FusedLinearCriterion(task.config)
        task.model.decoder.dropout = OfPass()
        trainer = Trainer(task, task.config)
        figures = trainer.backward([task._batch("train", np.asarray(part)) for part in parts], 1)
        found.append((figures.numpy(), {name: p.grad.numpy() for name, p in task.model.named_parameters()}))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    assert found[0][0][2] > 0.01  # the KL
    for name, gradient in found[0][1].items():
        largest = 1 if name.endswith("k_proj.bias") else np.abs(gradient).max()  # those are 0 but for rounding
        np.testing.assert_allclose(gradient, found[1][1][name], atol=1e-5 * largest, err_msg=name)


def test_a_resumed_run_equals_one_left_alone_to_the_bit(language_modelling, tmp_path):
    more = ("data.break_mode=none", "rdrop.alpha=0.5")
    straight = train(language_modelling("name=straight", *more))
    train(language_modelling("name=resumed", *more), until=3)
    resumed = train(language_modelling("name=resumed", *more), resume=True)
    for name, parameter in straight.task.model.named_parameters():
        assert parameter.numpy().tobytes() == dict(resumed.task.model.named_parameters())[name].numpy().tobytes(), name
    losses = [[r["loss"] for r in logged(tmp_path / "output" / name) if "loss" in r] for name in ("straight", "resumed")]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    best = LanguageModelling(
        load_config(tmp_path / "output" / "straight" / "config.yaml", ["name=other", "data.path=/nowhere"])
    )
    best.load_weights(tmp_path / "output" / "straight" / "best.safetensors")
    assert best.tokens.fingerprint() == straight.task.tokens.fingerprint()
    (final,) = [record for record in logged(tmp_path / "output" / "straight") if record.get("final")]
    held_out = [record["perplexity"] for record in logged(tmp_path / "output" / "straight") if record.get("split") == "val"]
    assert straight.best == min(held_out) and final["split"] == "test" and final["perplexity"] < 60


def test_words_are_tokens_and_rare_or_new_ones_unknown(language_modelling, corpus):
    (corpus / "train.txt").write_text("b a a\n\na b <unk> c\n")
    (corpus / "val.txt").write_text("a d b <unk>\n")
    task = language_modelling("data.vocabulary=words", "data.vocabulary_size=null", "data.min_count=2", "data.break_mode=none")
    assert task.tokens.pieces(0, range(task.tokens.sizes[0])) == ["<pad>", "<s>", "</s>", "<unk>", "a", "b"]
    assert task.stream("train").tokens.tolist() == [END, 5, 4, 4, END, END, 4, 5, UNKNOWN, UNKNOWN, END]
    score = evaluate(task, "val")
    assert (score["tokens"], score["words"], score["unknown"]) == (5, 5, 2)
    assert score["perplexity"] == score["word_perplexity"]
    assert "5 tokens, 2 of them unknown, context 0" in task.in_words(score)
    task.config.data.tokens_per_sample, task.config.eval.context = 2, 1
    task._windows.clear()
    assert evaluate(task, "val")["unknown"] == 2  # those that are seen again are not counted again


def test_training_samples_do_not_overlap_whatever_the_context_of_an_evaluation(language_modelling):
    task = language_modelling("data.break_mode=none", "data.tokens_per_sample=12", "eval.context=7")
    windows = task.windows("train")
    assert windows.starts.tolist() == windows.scored.tolist() == [0, *windows.ends[:-1]]
    assert windows.lengths().sum() == len(task.stream("train")) and task.windows("val").starts[1] < task.windows("val").ends[0]


def test_a_checkpoint_knows_epoch_and_text_of_both_parts(language_modelling, corpus):
    task = language_modelling()
    state = task.data_state(task.updates_of_epoch + 2)
    assert (state["epoch"], state["updates_of_epoch"]) == (1, 2)
    for split in ("train", "val"):
        (corpus / f"{split}.txt").write_text("Hund\n" + (corpus / f"{split}.txt").read_text())
        changed = LanguageModelling(task.config)
        changed.tokens = task.tokens
        assert changed.data_state(0)[split] != state[split]


def test_empty_lines_are_no_samples_and_long_ones_several(language_modelling, corpus):
    (corpus / "val.txt").write_text("Hund\n\n\n" + " ".join(["Hund"] * 30) + "\n")
    task = language_modelling()
    assert task.size("val") == 3 and task.windows("val").lengths().tolist() == [2, 20, 11]


def test_what_visualdl_shows_and_that_no_answers_are_written(language_modelling):
    task = language_modelling()
    task.model.eval()
    assert len(task.examples()) == len(task.answers()) == SHOWN
    assert all("**" in text and "(text: " in text for text in task.answers().values())
    with pytest.raises(UserError, match="leave --predictions out"):
        task.recording()


def test_a_language_model_is_not_exported_and_what_it_has_not_is_refused(main_of, run_tool, tmp_path):
    (tmp_path / "config.yaml").write_text("task: language_modelling\n")
    given = ["-c", tmp_path / "config.yaml", "--weights", tmp_path / "absent.safetensors"]
    for more in ([], ["--onnx"], ["--ctranslate2"]):
        with pytest.raises(UserError, match="a language model is not exported: of a text at once it would give logits"):
            main_of("export.py")(*given, "--output", tmp_path / "exported", *more)
    for options in (["--top", 3], ["--passes", 2], ["--attention", "map.png"]):
        with pytest.raises(UserError, match="--top, --passes and --attention are not for language models: see the section"):
            main_of("predict.py")(*given, *options)
    done = run_tool("predict.py", *given, "--top", 3)
    assert done.returncode == 2 and done.stderr.startswith("error: --top, --passes and --attention are not for language")


def test_predict_and_the_hub_continue_a_text_a_line(language_modelling, main_of, tmp_path, capsys):
    task = loud(language_modelling("decode.temperature=0"))
    checkpoint.save_best(tmp_path, task.model, task.belongings(), update=1)
    (tmp_path / "config.yaml").write_text(task.config.to_yaml())
    texts = [*task.lines("test")[:2], ""]
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    task.model.eval()
    expected = task.continue_text(texts)
    given = ["-c", tmp_path / "config.yaml", "--weights", tmp_path / "best.safetensors"]
    assert main_of("predict.py")(*given, tmp_path / "texts.txt") == 0
    assert capsys.readouterr().out == "".join(f"{one.prompt}{one.continuation}\n" for one in expected)
    assert main_of("predict.py")(*given, "--json", "-", tmp_path / "texts.txt") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [one._asdict() for one in expected]
    model = paddle.hub.load(str(ROOT), "language_model", source="local", run=tmp_path)
    assert model.continue_text(texts) == [one.prompt + one.continuation for one in expected]


def test_a_continuation_of_several_lines_is_one_line_out(language_modelling, main_of, tmp_path, capsys, monkeypatch):
    task = language_modelling()
    checkpoint.save_best(tmp_path, task.model, task.belongings(), update=1)
    (tmp_path / "config.yaml").write_text(task.config.to_yaml())
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    several = [Continued("one", " line\n and\n\na half"), Continued("two", "")]  # as GPT-2's tokens may say
    monkeypatch.setattr(LanguageModelling, "continue_text", lambda *_: several)
    given = ["-c", tmp_path / "config.yaml", "--weights", tmp_path / "best.safetensors", tmp_path / "texts.txt"]
    assert main_of("predict.py")(*given) == 0
    assert capsys.readouterr().out == "one line  and  a half\ntwo\n"
    assert main_of("predict.py")(*given, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["continuation"] == several[0].continuation


def test_not_all_layers_may_be_shared(language_modelling):
    with pytest.raises(UserError, match="shared_blocks 2 leaves none of the model's 2 layers to differ in: give at most 1"):
        language_modelling("rdrop.shared_blocks=2")


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["train.accumulation=null"], "train.accumulation is null"),
        (["data.tokens_per_sample=2000"], "data.tokens_per_sample 2000 is above model.max_length 1024"),
        (["data.max_tokens=500"], "data.tokens_per_sample 512 is above data.max_tokens 500"),
        (["eval.context=512"], "eval.context 512 leaves none of data.tokens_per_sample 512 to score"),
        (["decode.max_length=1024"], "decode.max_length 1024 leaves no room in model.max_length 1024"),
        (["model.drop_rate=0", "model.attention_drop_rate=0"], "model.drop_rate is 0, so that the two passes would not differ"),
        (["data.vocabulary_size=null"], "data.vocabulary is bpe and data.vocabulary_size null"),
        (["data.min_count=2"], "data.min_count is 2, which is of data.vocabulary=words"),
    ],
)
def test_contradictions_are_found_when_the_config_is_read(overrides, message):
    with pytest.raises(UserError, match=message):
        load_config(None, ["task=language_modelling", *overrides])
