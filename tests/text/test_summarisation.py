import json
import math
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import ROOT, logged, train_text
from rouge_score.rouge_scorer import RougeScorer

from rdrop_paddle import UserError, evaluate, load_config
from rdrop_paddle.durability import checkpoint
from rdrop_paddle.loss import cross_entropy
from rdrop_paddle.text.summarisation import Summarisation

SMALL = [
    "task=summarisation",
    "model.name=custom",
    *(f"model.{side}_layers=1" for side in ("encoder", "decoder")),
    "model.embed_dim=16",
    "model.ffn_dim=24",
    "model.num_heads=2",
    "model.max_length=16",
    "data.name=folder",
    "data.vocabulary_size=60",
    "data.max_tokens=120",
    "train.steps=2",
    "train.warmup_steps=1",
    "decode.beam=2",
    "decode.min_length=2",
    "decode.max_length_b=6",
    "decode.max_tokens=60",
]
WORDS = ["red", "ball", "dog", "runs", "child", "plays", "grass", "green"]


@pytest.fixture
def overrides(tmp_path, monkeypatch):
    monkeypatch.setenv("RDROP_DATA", str(tmp_path / "data"))
    folder, rng = tmp_path / "corpus", np.random.default_rng(0)
    folder.mkdir()
    for split, count in (("train", 40), ("val", 7), ("test", 9)):
        texts = [rng.choice(WORDS, rng.integers(4, 12)) for _ in range(count)]
        for side, length in (("source", None), ("target", 3)):
            (folder / f"{split}.{side}").write_text("".join(f"{' '.join(words[:length])}.\n" for words in texts))
    return [*SMALL, f"data.path={folder}", f"output={tmp_path / 'output'}", "name=small"]


@pytest.fixture
def summarisation(overrides):
    """summarisation("train.steps=2", ...) -> Summarisation with random weights large enough for answers that differ"""

    def make(*more):
        paddle.seed(0)
        task = Summarisation(load_config(None, [*overrides, *more]))
        for seed, parameter in enumerate(task.model.parameters()):
            parameter.set_value(np.random.default_rng(seed).normal(0, 0.5, parameter.shape).astype("float32"))
        return task

    return make


def test_the_scores_of_a_split_are_rouge_scores_and_the_models_perplexity(summarisation, tmp_path):
    task = summarisation()
    task.model.eval()
    found = [best[0].text for best in task.generate((tmp_path / "corpus" / "test.source").read_text().splitlines())]
    assert len(set(found)) > 1
    summaries = "".join(f"{text} {'dog ' * number}\n" for number, text in enumerate(found))
    (tmp_path / "corpus" / "test.target").write_text(summaries)
    score = evaluate(task, "test")
    scorer, references = RougeScorer(["rouge1", "rougeL"], use_stemmer=True), task.pairs("test").target
    for name, kind in (("ROUGE-1", "rouge1"), ("ROUGE-L", "rougeL")):
        expected = np.mean([scorer.score(reference, text)[kind].fmeasure for text, reference in zip(found, references)])
        assert score[name] == pytest.approx(100 * expected, abs=1e-7) and expected > 0
    source, target_in, labels, _ = task._batch(task.encoded("test"), range(task.size("test")))
    nll = float(cross_entropy(task.model(source, target_in), labels, labels == task.tokens.padding))
    assert score["perplexity"] == pytest.approx(math.exp(nll), rel=1e-5)
    assert next(iter(score)) == task.config.measure.name == "ROUGE-1"
    assert task.in_words(score).startswith(f"ROUGE-1 {score['ROUGE-1']:.2f} (rouge-score 0.1.2, F-measure")
    task.write(tmp_path / "found.txt", "test")
    assert (tmp_path / "found.txt").read_text().splitlines() == found


def test_sources_without_positions_are_cut_in_training_too_and_said(summarisation, tmp_path, capsys):
    for split in ("train", "val"):
        for side in ("source", "target"):
            path = tmp_path / "corpus" / f"{split}.{side}"
            path.write_text(f"{'dog ' * 40 if side == 'source' else 'dog'}\n" + path.read_text())
    task = summarisation()
    assert task.size("train") == 41 and task.size("val") == 8
    for split in ("train", "val"):
        cut = task.encoded(split).source[0]
        assert len(cut) == 16 and cut[-1] == task.tokens.end
    said = capsys.readouterr().err
    assert "1 of 41 sources of train cut to model.max_length 16 tokens" in said and "left out" not in said


def test_a_resumed_run_equals_one_left_alone_to_the_bit_and_its_best_weights_are_those_by_perplexity(overrides, tmp_path):
    shorter = [f"train.{key}=2" for key in ("accumulation", "save_every", "eval_every")]
    settings = [*overrides, *shorter, "train.steps=4", "train.log_every=1", "data.max_tokens=60", "rdrop.alpha=0.5"]
    configs = {name: load_config(None, [*settings, f"name={name}"]) for name in ("straight", "resumed")}
    straight = train_text(Summarisation, configs["straight"])
    train_text(Summarisation, configs["resumed"], until=2)
    (tmp_path / "corpus" / "test.target").write_text("a summary\n" * 9)  # it is read for the final score alone
    resumed = train_text(Summarisation, configs["resumed"], resume=True)
    for name, parameter in straight.task.model.named_parameters():
        assert parameter.numpy().tobytes() == dict(resumed.task.model.named_parameters())[name].numpy().tobytes(), name
    records = {name: logged(tmp_path / "output" / name) for name in configs}
    losses = [[record["loss"] for record in found if "loss" in record] for found in records.values()]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    held_out = [record["perplexity"] for record in records["straight"] if record.get("split") == "val"]
    assert straight.best == min(held_out) and len(held_out) == 2
    with pytest.raises(UserError, match="train"):
        (tmp_path / "corpus" / "train.target").write_text("another summary\n" * 40)
        train_text(Summarisation, configs["resumed"], resume=True)


def test_a_summariser_is_not_exported_and_has_no_classes_to_name(overrides, main_of, tmp_path):
    (tmp_path / "config.yaml").write_text("task: summarisation\n")
    given = ["-c", tmp_path / "config.yaml", "--weights", tmp_path / "absent.safetensors"]
    with pytest.raises(UserError, match="a summariser is not exported: use tools/predict.py, or summariser of hubconf.py"):
        main_of("export.py")(*given, "--output", tmp_path / "exported")
    for option in ("--top", "--passes"):
        with pytest.raises(UserError, match="--top and --passes are for classifiers: decode.beam summaries at most"):
            main_of("predict.py")(*given, option, 2)


def test_weights_have_their_tokens_and_settings_with_them(summarisation, overrides, tmp_path):
    trained = summarisation()
    expected = evaluate(trained, "test")
    checkpoint.save_best(tmp_path, trained.model, trained.belongings(), update=1)
    (tmp_path / "corpus" / "train.source").write_text("another text\n" * 40)
    weights = Path(shutil.copy(tmp_path / "best.safetensors", tmp_path / "alone.safetensors"))
    task = Summarisation(load_config(None, overrides))
    task.load_weights(weights)
    assert evaluate(task, "test") == expected
    with pytest.raises(UserError, match="model.scaled is True here and False in the header of .* Give model.scaled=False"):
        Summarisation(load_config(None, [*overrides, "model.scaled=true"])).load_weights(weights)
    trained.tokens.languages = ("de", "en")
    checkpoint.save_best(tmp_path, trained.model, trained.belongings(), update=1)
    with pytest.raises(UserError, match="best.safetensors translates de to en: give weights of a summariser"):
        task.load_weights(tmp_path / "best.safetensors")


def test_a_minimum_that_no_summary_can_reach_is_found_when_the_config_is_read():
    with pytest.raises(UserError, match="decode.min_length 55 is above what any answer can have, 30 tokens"):
        load_config(None, ["task=summarisation", "decode.max_length_b=30"])
    with pytest.raises(UserError, match="decode.min_length 55 is above what any answer can have, 19 tokens"):
        load_config(None, ["task=summarisation", "model.max_length=20"])


def test_predict_and_the_hub_give_a_summary_a_text(summarisation, overrides, main_of, tmp_path, capsys):
    task = summarisation()
    checkpoint.save_best(tmp_path, task.model, task.belongings(), update=1)
    (tmp_path / "config.yaml").write_text(task.config.to_yaml())
    texts = [*task.pairs("test").source[:2], ""]
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    task.model.eval()
    expected = [[dict(text=one.text, score=one.score) for one in best] for best in task.generate(texts)]
    main_of("predict.py")(
        "-c", tmp_path / "config.yaml", "--weights", tmp_path / "best.safetensors", "--json", "-", tmp_path / "texts.txt"
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [dict(source=text, summaries=summaries) for text, summaries in zip(texts, expected)]
    assert len(rows[0]["summaries"]) == 2 and rows[2]["summaries"] == []
    model = paddle.hub.load(str(ROOT), "summariser", source="local", run=tmp_path)
    assert model.summarise(texts) == [best[0]["text"] if best else "" for best in expected]
