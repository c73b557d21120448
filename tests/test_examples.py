"""The examples, with few updates: they learn, with two dropout masks, and as scripts outside of the repository."""

import importlib.util
import inspect
import subprocess
import sys

import nbclient
import nbformat
import paddle
import pytest
from conftest import ROOT

from rdrop_paddle import kl_loss


@pytest.fixture
def example():
    """example("resnet18") -> the module."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def check_that_alpha_counts(module, monkeypatch):
    """With another alpha the first update leads to other weights."""
    second_updates = []
    for other in (0.0, 10.0):
        monkeypatch.setattr(module, "kl_loss", lambda alpha, reduction, other=other: kl_loss(other, reduction))
        second_updates.append(module.main(steps=2)[1][1])
    assert second_updates[0][1] != second_updates[1][1]


def check_training(history, falls_to):
    """Of (loss, cross entropy, KL): the cross entropy falls to that share, the KL is not zero and part of the loss."""
    assert history[-1][1] < falls_to * history[0][1]
    for loss, cross_entropy, kl in history:
        assert kl > 1e-3 and loss == pytest.approx(cross_entropy + kl, rel=1e-4)


def test_resnet18_learns_in_a_loop_of_40_lines(example, monkeypatch):
    module = example("resnet18")
    assert len(inspect.getsource(module.main).splitlines()) <= 40
    images, test_images, label, test_label = module.digits()
    monkeypatch.setattr(module, "digits", lambda: (images, test_images[:50], label, test_label[:50]))  # for seconds
    _, history = module.main(steps=6)
    check_training(history, falls_to=0.8)
    check_that_alpha_counts(module, monkeypatch)


def test_the_high_level_api_learns_and_predicts_what_it_reports(example):
    reported, predicted = example("high_level_api").main(epochs=3)
    assert reported == pytest.approx(predicted) and reported > 0.6


def test_the_wrapper_runs_twice_in_training_only(example):
    network, criterion = paddle.nn.Dropout(0.5), kl_loss(reduction="batchmean")
    rdrop, images, label = example("high_level_api").RDrop(network, criterion), paddle.randn([16, 10]), paddle.arange(16) % 10
    logits = rdrop(images)
    assert logits.shape == [16, 10] and (logits != rdrop.second_logits).any()
    assert rdrop.loss(logits, label).item() == criterion(logits, rdrop.second_logits, label).item()
    second_logits = rdrop.second_logits
    rdrop.eval()
    assert (rdrop(images) == images).all() and rdrop.second_logits is second_logits
    assert "second_logits" not in rdrop.state_dict()
    assert rdrop.loss(images, label).item() == pytest.approx(paddle.nn.functional.cross_entropy(images, label).item())


def test_the_sequence_example_learns_and_padding_does_not_matter(example, monkeypatch):
    module = example("sequence")
    accuracy, history = module.main(steps=60)
    check_training(history, falls_to=0.9)
    assert accuracy > 0.25  # chance is 0.1
    criterion = kl_loss(reduction="batchmean")
    assert module.influence_of_padding(module.Sorter(), criterion) == 0

    class Careless(module.Sorter):
        def forward(self, tokens, pad_mask):
            return super().forward(tokens, paddle.zeros_like(pad_mask))

    assert module.influence_of_padding(Careless(), criterion) > 1e-3
    check_that_alpha_counts(module, monkeypatch)


def test_the_token_example_learns_and_tokens_without_a_label_count_for_nothing(example, monkeypatch):
    module = example("token_classification")
    monkeypatch.setattr(module, "made", lambda count, seed, made=module.made: made(min(count, 60), seed))  # for seconds
    found = module.main(steps=20)
    for alpha, (_, history) in found.items():
        assert history[-1][1] < 0.7 * history[0][1]
        for loss, cross_entropy, kl in history:
            assert loss == pytest.approx(cross_entropy + kl, rel=1e-4) and (kl > 1e-4) == (alpha is not None)
    tokens, label = module.batch(module.made(8, seed=3))
    model, criterion = module.Tagger(), kl_loss(1.0, "batchmean", ignore_index=module.NO_LABEL)
    model.eval()
    logits = model(tokens)
    other = paddle.where((label == module.NO_LABEL).unsqueeze(-1), paddle.randn(logits.shape), logits)
    assert (label == module.NO_LABEL).any() and (label[:, 1:] > 0).any()
    assert criterion(other, other * 2, label).item() == pytest.approx(criterion(logits, logits * 2, label).item(), rel=1e-6)


def test_the_examples_run_as_scripts_from_anywhere(tmp_path):
    files = [ROOT / "examples" / f"{name}.py" for name in ("resnet18", "high_level_api", "sequence", "token_classification")]
    for file in files:
        assert f"\npython examples/{file.name}\n" in file.read_text()
    code = f"import runpy\nfor file in {[*map(str, files)]}: runpy.run_path(file)['main'](1)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.count("test accuracy") == 5, done.stdout + done.stderr


def test_the_notebook_runs_and_the_passes_of_r_drop_differ_less():
    notebook = nbformat.read(ROOT / "examples" / "kl_loss.ipynb", as_version=4)
    shown = [output.text for output in notebook.cells[-1].outputs]
    nbclient.NotebookClient(notebook, timeout=120, resources=dict(metadata=dict(path=ROOT))).execute()
    found = [output.text for output in notebook.cells[-1].outputs if output.name == "stdout"]
    baseline, rdrop = (float(line.split()[-2]) for line in "".join(found).splitlines())
    assert rdrop < 0.8 * baseline
    assert len("".join(shown).splitlines()) == 2  # as the file shows it where nothing is run
