"""The arithmetic of benchmarks/speed.py, and a small measurement for real."""

import functools
import importlib
import itertools
import json
import sys

import numpy as np
import paddle
import pytest
from conftest import BASE
from safetensors.numpy import save_file

from benchmarks import again, speed, summarisation, translation, understanding
from benchmarks.image_classification import forward_flop
from rdrop_paddle import RDropLoss, Transformer, TransformerEncoder, UserError, cross_entropy, load_config
from rdrop_paddle.config_layers import DEFAULTS
from rdrop_paddle.durability.checkpoint import model_arrays
from rdrop_paddle.durability.files import json_bytes
from rdrop_paddle.tasks import build_task
from rdrop_paddle.text.token_stream import IGNORED
from rdrop_paddle.text.tokens import FILE, PADDING
from rdrop_paddle.text.transformer_sizes import with_numbers
from rdrop_paddle.training import engine
from rdrop_paddle.training.trainer import Trainer

TRANSLATION = DEFAULTS / "translation.yaml"
UNDERSTANDING = DEFAULTS / "understanding.yaml"


# 10^9 multiplications of a forward with 1000 classes, as timm's tables print them
@pytest.mark.parametrize(
    "name, image_size, published", [("vit_ti16", 224, 1.26), ("vit_b16", 224, 17.58), ("vit_b16", 384, 55.54)]
)
def test_flop_are_the_published_ones(name, image_size, published):
    config = load_config(BASE, [f"model.name={name}", f"model.image_size={image_size}", "model.classes=1000"])
    assert forward_flop(config.model) / 2e9 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("name", ["tiny", "iwslt_de_en"])
def test_flop_of_translation_are_two_for_each_number_in_a_matrix(name):
    config = load_config(None, ["task=translation", f"model.name={name}", "data.vocabulary_size=500"])
    numbers = {key: value for key, value in vars(with_numbers(config.model)).items() if key not in ("name", "weights")}
    model = Transformer(source_vocabulary=500, target_vocabulary=500, padding=0, **numbers)
    assert translation.flop_of_position(config) == 2 * sum(p.size for p in model.parameters() if p.ndim == 2)


def test_torchs_loss_of_text_is_that_of_its_logits():
    torch = pytest.importorskip("torch")
    from benchmarks import torch_transformer

    sizes = dict(encoder_layers=2, decoder_layers=1, embed_dim=16, ffn_dim=24, num_heads=4, max_length=9)
    kinds = dict(activation="relu", positions="sinusoidal", scaled=True, embedding_norm=False)
    model = torch_transformer.Transformer(vocabulary=30, padding=0, drop_rate=0.2, attention_drop_rate=0.1, **sizes, **kinds)
    torch.manual_seed(0)
    *inputs, labels = torch.randint(1, 30, [3, 4, 9])
    labels[1:, 5:] = 0
    for passes, smoothing in ((1, 0.1), (2, 0.1), (2, 0.0)):
        torch.manual_seed(1)
        settings = dict(passes=passes, alpha=2.0, label_smoothing=smoothing)
        found = torch_transformer.loss_of(model, inputs, labels, 0, **settings)
        torch.manual_seed(1)
        logits = model.project(model(*(tokens.repeat(passes, 1) for tokens in inputs))).detach().numpy()
        label = paddle.to_tensor(labels.numpy())
        given = (*paddle.to_tensor(logits).chunk(passes), label, label == 0)
        of_one = functools.partial(cross_entropy, label_smoothing=smoothing)
        criterion = RDropLoss(2.0, "batchmean", smoothing) if passes == 2 else of_one
        assert found.item() == pytest.approx(criterion(*given).item(), rel=1e-6)


@pytest.mark.parametrize(
    "task, ignored, more",
    [
        ("translation", PADDING, []),
        ("summarisation", PADDING, ["decode.min_length=1", "decode.max_length_b=5"]),
        ("language_modelling", IGNORED, ["decode.max_length=5", "data.tokens_per_sample=12"]),
    ],
)
def test_torchs_side_of_a_text_task_has_the_same_batches_loss_and_update(corpus, tmp_path, task, ignored, more):
    torch = pytest.importorskip("torch")
    from benchmarks import torch_transformer

    for ending, language in (("source", "de"), ("target", "en"), ("txt", "de")):
        (corpus / f"train.{ending}").write_text((corpus / f"train.{language}").read_text())
    layers = ["layers=2"] if task == "language_modelling" else ["encoder_layers=2", "decoder_layers=1"]
    sizes = ["embed_dim=16", "ffn_dim=24", "num_heads=4", "drop_rate=0", "attention_drop_rate=0", "max_length=13"]
    places = ["data.name=folder", f"data.path={corpus}", f"output={tmp_path}", "data.vocabulary_size=60", "name=small"]
    training = ["optimizer=momentum", "lr=0.1", "warmup_steps=1", "accumulation=2"]
    settings = [*(f"model.{one}" for one in ("name=custom", *layers, *sizes)), *(f"train.{one}" for one in training)]
    one_pass = ["rdrop.passes=1", "rdrop.alpha=0", "data.max_tokens=70"]
    config = load_config(None, [f"task={task}", *settings, *places, *one_pass, *more])
    ours, side = build_task(config), importlib.import_module(f"benchmarks.torch_{task}")
    theirs, batches = side.model_and_batches(config)
    torch_transformer.load(theirs, model_arrays(ours.model))
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.size for p in ours.model.parameters())

    def same_losses(our_batches, their_batches):
        for (*our_sides, _), their_sides in zip(our_batches, their_batches):
            for our_side, their_side in zip(our_sides, their_sides):
                np.testing.assert_array_equal(our_side.numpy(), their_side)
            *inputs, labels = map(torch.from_numpy, their_sides)
            given = dict(passes=1, alpha=0.0, label_smoothing=config.train.label_smoothing)
            found = torch_transformer.loss_of(theirs, inputs, labels, ignored, **given)
            yield found.item() == pytest.approx(ours.loss_terms(ours.model, [*our_sides, None], 1)[0].item(), rel=1e-5)

    assert all([*same_losses(itertools.islice(ours.batches("train"), 4), batches)])
    trainer = Trainer(ours, config)
    _, batches = side.model_and_batches(config)
    once = torch_transformer.training(theirs, batches, ignored, config, rank=0, ranks=1)
    trainer.step(trainer.read()[0])
    assert once() == (trainer.fetch(tmp_path)["positions"], 0.0)
    assert all([*same_losses(trainer.read()[0], batches)])


@pytest.mark.parametrize("task, change", [("language_modelling", "model.norm=post"), ("summarisation", "model.tying=none")])
def test_torchs_side_says_what_it_has_not(corpus, task, change):
    pytest.importorskip("torch")
    side = importlib.import_module(f"benchmarks.torch_{task}")
    config = load_config(None, [f"task={task}", "data.name=folder", f"data.path={corpus}", change])
    for ending in ("txt", "source", "target"):
        (corpus / f"train.{ending}").write_text("a b c\nd e f\n")
    with pytest.raises(UserError, match=f"torch's side has {change.split('=')[0]}=.* alone"):
        side.worker(config, dict(evaluation=False), rank=0, ranks=1)
    with pytest.raises(UserError, match="is measured in training only: leave --evaluation out"):
        side.worker(config, dict(evaluation=True), rank=0, ranks=1)


@pytest.fixture
def understanding_overrides(tmp_path):
    """A config of seconds: a small BERT on a table of labelled pairs, whose tokens are letters."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcd", ""]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    for split in ("train", "test"):
        rows = ["text\tpair\tlabel", *["a b\tc\tyes", "a\tb c d a b\tno"] * 10, ""]
        (tmp_path / f"{split}.tsv").write_text("\n".join(rows))
    places = [f"{key}={tmp_path}" for key in ("model.tokenizer", "data.path", "output")]
    sizes = dict(layers=2, embed_dim=8, ffn_dim=12, num_heads=2, max_length=20)
    numbers = [f"model.{name}={number}" for name, number in sizes.items()]
    return ["model.name=custom", *numbers, "data.name=folder", "data.text_pair=pair", "data.max_length=20", *places]


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_torchs_side_of_understanding_has_the_same_parameters_and_logits(understanding_overrides, pooling):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from benchmarks import torch_bert

    config = load_config(UNDERSTANDING, [*understanding_overrides, f"model.pooling={pooling}"])
    given = dict(vocabulary=8, padding=0, classes=3, **understanding.model_numbers(config))
    ours, theirs = TransformerEncoder(**given), torch_bert.Bert(**given)
    torch_bert.load(theirs, model_arrays(ours))
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.size for p in ours.parameters())
    ours.eval(), theirs.eval()
    tokens, types = [[2, 4, 3, 5, 6, 3], [2, 7, 3, 4, 3, 0]], [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0]]
    found = ours(paddle.to_tensor(tokens), paddle.to_tensor(types)).numpy()
    expected = theirs(torch.tensor(tokens), torch.tensor(types)).detach().numpy()
    assert found == pytest.approx(expected, abs=1e-6) and abs(found).max() > 1e-3


def test_flop_of_summarisation_count_the_text_as_often_as_it_is_longer_than_its_summary(tmp_path):
    (tmp_path / "train.source").write_text("a long text\n" * 3), (tmp_path / "train.target").write_text("summary of it\n" * 3)
    given = ["data.name=folder", f"data.path={tmp_path}", "model.name=tiny", "data.vocabulary_size=500"]
    found = summarisation.flop_of_position(load_config(None, ["task=summarisation", *given]))
    config = load_config(None, ["task=translation", "model.name=tiny", "data.vocabulary_size=500"])
    of_two, of_one = (translation.flop_of_position(config, sources) for sources in (2, 1))
    assert found == pytest.approx(of_one + (11 / 13 - 1) * (of_two - of_one)) and of_two < 2 * of_one


def test_flop_of_understanding_are_two_for_each_number_in_a_layers_matrix_and_token(understanding_overrides):
    config = load_config(UNDERSTANDING, understanding_overrides)
    model = TransformerEncoder(vocabulary=8, classes=2, **understanding.model_numbers(config))
    in_layers = sum(p.size for p in model.layers.parameters() if p.ndim == 2)
    assert understanding.flop_of_position(config) == pytest.approx(2 * in_layers * 7.5, rel=0.1)  # 6 tokens, or 9


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--evaluation"]])
def test_understanding_is_measured_against_torch_on_the_same_examples(run_tool, understanding_overrides, tmp_path, options):
    pytest.importorskip("transformers")
    options = [*options, "--against", "torch", "--rounds", 1, "--repeats", 1, "--json", tmp_path / "speed.json"]
    done = run_tool("benchmark.py", "-c", UNDERSTANDING, "-o", *understanding_overrides, *options)
    assert done.returncode == 0, done.stderr
    ((ours, torchs),) = json.loads((tmp_path / "speed.json").read_text())["rounds"]
    assert "examples/s, first over second" in done.stdout and ours["gflop"] == torchs["gflop"]
    for measured in (ours, torchs):
        counted = 20 if "--evaluation" in options else 8
        assert measured["examples_per_second"] / measured["updates_per_second"] == pytest.approx(
            counted, rel=0.2
        )  # medians of two


def measurement(throughput, gflop=10.0, ceiling=100.0):
    return speed.Measurement(throughput, throughput / 2, 0.01, 1.5, gflop, ceiling)


def test_sides_are_compared_round_by_round():
    rounds = [
        [measurement(30.0), measurement(20.0)],
        [measurement(12.0), measurement(4.0)],
        [measurement(8.0), measurement(8.0)],
    ]
    assert speed.ratios(rounds) == [1.5, 3.0, 1.0]
    assert speed.ratio_text(speed.ratios(rounds)) == "1.50 (1.00 to 3.00, 3 rounds)"
    sides = [speed.Side("c.yaml", (), ranks=2, threads=1), speed.Side("c.yaml", (), framework="torch", threads=2)]
    rows = speed.table(sides, rounds, "images").splitlines()
    assert rows[2] == "| paddle, 2 x 1 thread(s) | 12.00 (8.00 to 30.00) | 6.000 | 1.0% | 1.50 GB | 10 | 60% of 100 GFLOP/s |"
    assert rows[3].startswith("| torch, 1 x 2 thread(s) | 8.00 (4.00 to 20.00) | 4.000 | - |")


def test_sides_take_turns(monkeypatch):
    seen = []
    monkeypatch.setattr(speed, "measure", lambda side: seen.append(side) or side)
    assert speed.take_turns(["a", "b"], 3) == [["a", "b"]] * 3
    assert seen == ["a", "b"] * 3


def test_the_other_side_is_torch_or_has_changes_of_its_own():
    side = speed.Side("c.yaml", ("train.lr=1",), ranks=2, threads=1)
    torch = side.against(["torch"])
    assert (torch.framework, torch.ranks, torch.threads, torch.overrides) == ("torch", 1, None, side.overrides)
    assert side.against(["torch", "ranks=2", "threads=1"]).label() == "torch, 2 x 1 thread(s)"
    other = side.against(["rdrop.alpha=0", "ranks=1", "threads=3"])
    assert (other.ranks, other.threads, other.changes, other.overrides) == (1, 3, ("rdrop.alpha=0",), side.overrides)
    assert other.label() == "paddle, 1 x 3 thread(s), rdrop.alpha=0"
    evaluation = speed.Side("c.yaml", (), evaluation=True, warmup=0, repeats=2).against(["torch"])
    assert (evaluation.warmup, evaluation.repeats) == (1, 12)
    with pytest.raises(UserError, match="--against ranks: 'none' is no integer from 1 on"):
        side.against(["ranks=none"])


def test_a_file_tells_its_machine_and_is_measured_again_with_the_same_sides(monkeypatch, tmp_path):
    side = speed.Side(str(BASE), ("train.lr=1", "rdrop.alpha=1"), ranks=2, repeats=3)
    sides = [side, side.against(["torch", "ranks=2", "threads=1"])]
    path = tmp_path / "speed.json"
    path.write_text(speed.as_text(sides, [[measurement(3.0), measurement(2.0)]], "images"))
    assert again.sides_of(path) == sides
    monkeypatch.setattr(speed, "measure", lambda side: measurement(6.0 if side.framework == "paddle" else 3.0))
    monkeypatch.setattr(sys, "argv", ["again.py", str(path), "--rounds", "2"])
    assert again.main() == 0
    found = json.loads(path.read_text())
    assert again.sides_of(path) == sides and found["ratio"]["pairs"] == [2.0, 2.0]
    assert found["machine"] == speed.machine() and found["machine"]["packages"]["paddlepaddle"] == paddle.__version__


def test_missing_weights_are_told_before_anything_is_measured(monkeypatch, tmp_path):
    trained = speed.Side(str(BASE), (), evaluation=True, weights=str(tmp_path / "best.safetensors"))
    for name, side in {"first": speed.Side(str(BASE), ()), "second": trained}.items():
        (tmp_path / name).write_text(speed.as_text([side], [[measurement(3.0)]], "images"))
    monkeypatch.setattr(speed, "measure", lambda side: pytest.fail("measured"))
    monkeypatch.setattr(sys, "argv", ["again.py", str(tmp_path / "first"), str(tmp_path / "second")])
    with pytest.raises(UserError, match="no weights at .*best.safetensors"):
        again.main()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"sides": [{"speed": 1}]}'])
def test_what_is_no_such_file_is_an_error_that_names_it(tmp_path, text):
    (tmp_path / "speed.json").write_text(text)
    with pytest.raises(UserError, match="speed.json is no file of tools/benchmark.py --json"):
        again.sides_of(tmp_path / "speed.json")


@pytest.mark.slow
@pytest.mark.launcher
def test_training_on_two_ranks_against_torch(run_tool, tiny_overrides, tmp_path):
    pytest.importorskip("torch")
    options = ["--ranks", 2, "--against", "torch", "ranks=2", "--rounds", 1, "--repeats", 1, "--json", tmp_path / "speed.json"]
    done = run_tool("benchmark.py", "-c", BASE, "-o", *tiny_overrides, "rdrop.shared_blocks=1", *options)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "speed.json").read_text())
    ours, torchs = found["rounds"][0]
    assert f"{found['ratio']['median']:.2f}" in done.stdout.splitlines()[-1]
    assert found["ratio"]["median"] == ours["images_per_second"] / torchs["images_per_second"]
    for measured in (ours, torchs):
        assert measured["images_per_second"] == pytest.approx(64 * measured["updates_per_second"])
        assert 0.05 < measured["peak_memory"] < 8 and measured["ceiling"] > 1
    assert 0 < ours["reader_share"] < 1 and torchs["reader_share"] == 0
    assert ours["gflop"] == torchs["gflop"]


@pytest.mark.slow
def test_translation_is_measured_against_torch_on_the_same_tokens(run_tool, translation_overrides, tmp_path):
    pytest.importorskip("torch")
    options = ["--against", "torch", "--rounds", 1, "--repeats", 1, "--json", tmp_path / "speed.json"]
    done = run_tool("benchmark.py", "-c", TRANSLATION, "-o", *translation_overrides, *options)
    assert done.returncode == 0, done.stderr
    ((ours, torchs),) = json.loads((tmp_path / "speed.json").read_text())["rounds"]
    assert "tokens/s, first over second" in done.stdout and ours["gflop"] == torchs["gflop"]
    tokens = [measured["tokens_per_second"] / measured["updates_per_second"] for measured in (ours, torchs)]
    assert tokens[0] == pytest.approx(tokens[1]) and tokens[0] > 1


def test_torchs_side_translates_what_ours_evaluates(translation, tmp_path):
    pytest.importorskip("transformers")
    from benchmarks import torch_translation

    task = translation("decode.beam=2", "decode.max_length_a=0", "decode.max_length_b=4", "eval.split=val")
    weights, config = tmp_path / "best.safetensors", task.config
    save_file({name: tensor.numpy() for name, tensor in task.model.state_dict().items()}, weights)
    (tmp_path / FILE).write_bytes(json_bytes(task.tokens.to_json()))
    with pytest.raises(UserError, match="how long a search takes depends on the weights: give trained ones with --weights"):
        torch_translation.worker(config, dict(evaluation=True, weights=None), rank=0, ranks=1)
    once = torch_translation.worker(config, dict(evaluation=True, weights=str(weights)), rank=0, ranks=1)
    assert once() == (engine.evaluate(task, "val")["tokens"], 0.0)


def test_evaluation_is_measured_on_all_of_its_split(run_tool, tiny_overrides, tmp_path):
    json_file = tmp_path / "speed.json"
    done = run_tool("benchmark.py", "-c", BASE, "-o", *tiny_overrides, "--evaluation", "--rounds", 1, "--json", json_file)
    assert done.returncode == 0, done.stderr
    assert "| paddle, 1 x" in done.stdout and "second:" not in done.stdout
    ((measured,),) = json.loads(json_file.read_text())["rounds"]
    assert measured["images_per_second"] / measured["updates_per_second"] == pytest.approx(719)


def test_a_failing_side_says_why_and_bad_numbers_are_named(run_tool, tiny_overrides):
    done = run_tool("benchmark.py", "-c", BASE, "-o", *tiny_overrides, "--rounds", 1, "--against", "rdrop.shared_blocks=2")
    assert done.returncode == 2 and "rdrop.shared_blocks=2 failed: error: rdrop.shared_blocks 2 leaves none" in done.stderr
    done = run_tool("benchmark.py", "-c", BASE, "--ranks", "0")
    assert done.returncode == 2 and "argument --ranks: '0' is no integer from 1 on" in done.stderr
