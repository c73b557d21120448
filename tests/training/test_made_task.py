"""The engine with a task that is no image classification, see made_task.py."""

import json

import numpy as np
import paddle
import pytest
from made_task import LENGTHS, WORDS, MadeTask, made_config, outcome
from visualdl import LogReader

from rdrop_paddle import UserError
from rdrop_paddle.config import share_of_update
from rdrop_paddle.durability import checkpoint
from rdrop_paddle.loss import RDropLoss
from rdrop_paddle.reporting import summary
from rdrop_paddle.reporting.runlog import RunLog
from rdrop_paddle.training import engine
from rdrop_paddle.training.trainer import Trainer
from rdrop_paddle.weights import belongings

POSITIONS = sum(map(sum, LENGTHS))


@pytest.mark.launcher
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_gradient_of_unequal_micro_batches_depends_on_no_number_of_ranks(run_tool, tmp_path, ranks):
    done = run_tool("tests/training/made_task.py", tmp_path, ranks=ranks)
    assert done.returncode == 0, done.stdout
    found, expected = np.load(tmp_path / f"{ranks}.npz"), outcome()
    assert expected["kl"] > 0.01 and expected["positions"] == POSITIONS
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() <= 1e-5 * np.abs(value).max(), name
    assert f"{found['perplexity']:.10g}" == f"{expected['perplexity']:.10g}"


def test_a_global_batch_is_one_mean_over_its_positions():
    """As of all sequences in one micro-batch, padded to the longest."""
    config = made_config("rdrop.alpha=2.0", "train.clip_norm=null")
    trainer = Trainer(MadeTask(config), config)
    batches, _ = trainer.read()
    longest = max(batch[0].shape[1] for batch in batches)
    words, labels, pad_mask = (
        paddle.concat(
            [paddle.nn.functional.pad(b[n].astype("int64"), [0, 0, 0, longest - b[n].shape[1]], value=value) for b in batches]
        )
        for n, value in enumerate((0, 0, 1))
    )
    logits = trainer.task.model(paddle.concat([words, words]))
    loss = RDropLoss(2.0, "batchmean")(*logits.chunk(2), labels, pad_mask.astype("bool"))
    loss.backward()
    expected = {name: parameter.grad.numpy() for name, parameter in trainer.task.model.named_parameters()}
    trainer.task.model.clear_gradients()
    figures = trainer.backward(batches, update=1)
    assert figures[0].item() == pytest.approx(loss.item(), rel=1e-6)
    for name, parameter in trainer.task.model.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
def test_ranks_take_turns_and_none_goes_without(ranks):
    train = made_config().train
    shares = [share_of_update(train, rank, ranks) for rank in range(ranks)]
    assert sum(shares) == len(LENGTHS) and min(shares) >= 1 and max(shares) - min(shares) <= 1


def test_more_ranks_than_micro_batches_is_a_user_error():
    with pytest.raises(UserError, match="train.accumulation is 5, which leaves some of 6 ranks without a micro-batch"):
        share_of_update(made_config().train, 0, 6)


def test_the_run_folder_speaks_of_the_tasks_own_score_and_unit(tmp_path):
    config = made_config(f"output={tmp_path}", "train.eval_every=2", "train.log_every=2", "train.save_every=2")
    trainer = Trainer(MadeTask(config), config)
    with RunLog(config) as log:
        log.message(summary.describe(config, trainer.task, "cpu"))
        log.examples(trainer.task.examples())
        score = engine.train(trainer, log)
    records = [json.loads(line) for line in (log.folder / "metrics.jsonl").read_text().splitlines()]
    training = [record for record in records if "split" not in record]
    for record in training:
        assert record["tokens_per_second"] == pytest.approx(POSITIONS / record["batch_cost"], rel=1e-6)
    evaluations = [record["perplexity"] for record in records if record.get("split") == "val"]
    assert evaluations == sorted(evaluations, reverse=True) and records[-1]["perplexity"] == score["perplexity"]
    text = (log.folder / "train.log").read_text()
    assert "tokens/s" in text and "5 micro-batches of unequal size" in text and "val  perplexity" in text
    assert (log.folder / "eval.txt").read_text() == f"perplexity {score['perplexity']:.2f}\n"
    assert json.loads((log.folder / "words.json").read_text()) == WORDS
    for path in (log.folder / "best.safetensors", checkpoint.latest(log.folder) / "model.safetensors"):
        assert belongings.find(path, "words") == (WORDS, f"the header of {path}")
    (file,) = (log.folder / "vdl").iterdir()
    tags = LogReader(file_path=str(file)).get_tags()
    assert {"val/perplexity", "train/tokens_per_second"} <= set(tags["scalar"]) and tags["text"] == ["val/example"]
    for word in ("accuracy", "images"):
        assert word not in text and word not in "".join(path.read_text() for path in log.folder.glob("*.json*"))
