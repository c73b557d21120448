"""The exported layer evaluates as the layer does, and leaves it as it was."""

import errno
import os

import numpy as np
import paddle
import pytest

from rdrop_paddle import build_model, evaluate
from rdrop_paddle.errors import UserError
from rdrop_paddle.training import inference
from rdrop_paddle.training.trainer import Trainer
from rdrop_paddle.vision.task import ImageClassification

pytestmark = pytest.mark.skipif(not paddle.base.core.is_compiled_with_mkldnn(), reason="this Paddle has no oneDNN")


@pytest.fixture
def model(tiny_config):
    model = build_model(tiny_config("model.drop_rate=0.5").model)
    model.head.weight.set_value(paddle.randn(model.head.weight.shape))
    model.eval()
    return model


def images(model_config, count):
    return paddle.rand([count, 3, model_config.image_size, model_config.image_size]) * 2 - 1


def by_export(model, batch):
    with inference.exported(model) as exported:
        return exported(batch).numpy()


def test_an_exported_layer_computes_the_same_for_any_number_of_images(model, tiny_config, capfd):
    batches = [images(tiny_config().model, count) for count in (5, 1, 16)]
    expected = [model(batch).numpy() for batch in batches]
    with inference.exported(model) as exported:
        for batch, logits in zip(batches, expected):
            np.testing.assert_allclose(exported(batch).numpy(), logits, rtol=0, atol=1e-5 * abs(logits).max())
    assert "not support" not in capfd.readouterr().err  # what Paddle's C++ says while it exports


@pytest.mark.parametrize(
    "counts, at_once, seen", [((8, 8, 3), 10**9, [8] * 3), ((40, 5), 16 * 768, [16] * 4), ((2,), 1, [1] * 2)]
)
def test_the_engine_sees_one_size_alone(model, tiny_config, monkeypatch, counts, at_once, seen):
    """It takes memory for each size that it has seen; many images at once, of 3 * 8 * 8 * 4 bytes here, cost memory too."""
    sizes, run = [], inference.run
    monkeypatch.setattr(inference, "AT_ONCE", at_once)
    monkeypatch.setattr(inference, "run", lambda engine, *arrays: sizes.append(len(arrays[0])) or run(engine, *arrays))
    with inference.exported(model) as exported:
        for count in counts:
            assert len(exported(images(tiny_config().model, count))) == count
    assert sizes == seen


def test_while_the_engine_has_the_weights_the_layer_is_without_and_has_them_again_when_it_ends_or_fails(model, tiny_config):
    before = [parameter.numpy().tobytes() for parameter in model.parameters()]
    with pytest.raises(RuntimeError, match="reading failed"), inference.exported(model) as exported:
        exported(images(tiny_config().model, 4))
        assert not any(parameter._is_initialized() for parameter in model.parameters())
        raise RuntimeError("reading failed")
    assert [parameter.numpy().tobytes() for parameter in model.parameters()] == before


def test_a_disk_without_room_for_the_export_is_one_line_and_the_layer_keeps_its_weights(model, tiny_config, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(inference.np, "save", full)
    before = [parameter.numpy().tobytes() for parameter in model.parameters()]
    expected = pytest.raises(UserError, match="No space left on device; free some space, or set TMPDIR")
    with expected, inference.exported(model) as exported:
        exported(images(tiny_config().model, 4))
    assert [parameter.numpy().tobytes() for parameter in model.parameters()] == before


def test_the_layer_trains_on_after_it_was_exported_and_a_new_export_has_the_new_weights(model, tiny_config):
    batch = images(tiny_config().model, 4)
    names, first = list(model.state_dict()), by_export(model, batch)
    model.train()
    before = model(batch)
    (before**2).sum().backward()
    assert model.patch_embed.proj.weight.grad.abs().sum() > 0 and list(model.state_dict()) == names
    assert not np.array_equal(before.numpy(), model(batch).numpy())  # dropout is on
    paddle.optimizer.SGD(0.1, model.parameters()).step()
    model.eval()
    expected = model(batch).numpy()
    assert abs(expected - first).max() > 1e-3
    np.testing.assert_allclose(by_export(model, batch), expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_an_evaluation_counts_the_same_exported_or_not(tiny_config, monkeypatch):
    task = ImageClassification(tiny_config("model.drop_rate=0.5", "eval.batch_size=50"))  # 719 images: the last batch has 19
    task.model.head.weight.set_value(paddle.randn(task.model.head.weight.shape))
    plain = evaluate(task, "test")
    exports = []
    monkeypatch.setattr(inference, "save", lambda *given, save=inference.save: exports.append(1) or save(*given))
    work = 719 * sum(parameter.size for parameter in task.model.parameters())
    monkeypatch.setattr(inference, "WORTHWHILE", work)
    assert evaluate(task, "test") == plain and len(exports) == 1
    monkeypatch.setattr(inference, "WORTHWHILE", work + 1)
    assert evaluate(task, "test") == plain and len(exports) == 1


def test_training_goes_on_to_the_bit_as_without_an_export(tiny_config):
    def losses(exports):
        task = ImageClassification(tiny_config("model.drop_rate=0.1", "rdrop.alpha=1"))
        trainer = Trainer(task, task.config)
        if exports:
            task.model.eval()
            by_export(task.model, images(task.config.model, 4))
            task.model.train()
        for _ in range(6):
            trainer.step(trainer.read()[0])
        return trainer.fetch(None), [parameter.numpy().tobytes() for parameter in task.model.parameters()]

    paddle.base.core.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # as in a process that has exported nothing
    paddle.seed(0)
    expected = losses(exports=False)
    for exports in (True, False):
        paddle.seed(0)
        assert losses(exports) == expected
