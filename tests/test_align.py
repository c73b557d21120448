"""The comparisons with torch, on random weights, digits and made sentences; tools/align.py runs them whole on the real ones."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks.align import Alignment
from benchmarks.align_language_modelling import LanguageModellingAlignment
from benchmarks.align_summarisation import SummarisationAlignment
from benchmarks.align_translation import TranslationAlignment
from benchmarks.align_understanding import UnderstandingAlignment
from benchmarks.comparison import relative_difference, summary
from rdrop_paddle.fused_linear_loss import FusedLinearRDropLoss
from rdrop_paddle.loss import RDropLoss
from rdrop_paddle.training import criterion


@pytest.fixture
def without_data(tmp_path, monkeypatch):
    """Where results go; RDROP_DATA is empty."""
    monkeypatch.setenv("RDROP_DATA", str(tmp_path / "empty"))
    return tmp_path / "alignment"


@pytest.fixture
def alignment(without_data):
    return Alignment(without_data)


@pytest.fixture
def of_translation(without_data):
    return TranslationAlignment(without_data)


@pytest.fixture
def of_summarisation(without_data):
    return SummarisationAlignment(without_data)


@pytest.fixture
def of_language_modelling(without_data):
    return LanguageModellingAlignment(without_data)


@pytest.fixture
def of_understanding(without_data):
    return UnderstandingAlignment(without_data)


def test_a_difference_beyond_the_bound_fails_and_both_sides_are_kept(alignment):
    found, expected = {"a": np.ones(3), "b": np.array([1.0, 2.2])}, {"a": np.ones(3), "b": np.array([1.0, 2.0])}
    row = alignment.compare("loss", "two tensors", found, expected, 1e-2)
    assert not row.passed and row.difference == pytest.approx(0.1) and "worst: b" in row.compared
    assert alignment.compare("loss", "two tensors", expected, expected, 0.0).passed
    assert "FAIL" in summary([row])
    kept = np.load(alignment.output / "loss_two_tensors_ref.npy", allow_pickle=True).item()
    np.testing.assert_array_equal(kept["b"], expected["b"])
    assert "b: check passed: " in (alignment.output / "loss_two_tensors_diff.log").read_text()


@pytest.mark.parametrize("strange", [np.full(3, np.nan), np.ones(2), np.array([1.0, np.inf, 1.0])])
def test_what_cannot_be_compared_is_infinitely_far(strange):
    assert relative_difference(strange, np.ones(3)) == relative_difference(np.ones(3), strange) == float("inf")


def test_a_tensor_on_one_side_only_is_an_error(alignment):
    with pytest.raises(KeyError, match="on one side only"):
        alignment.compare("loss", "tensors", {"a": np.ones(3)}, {"a": np.ones(3), "b": np.ones(3)}, 1.0)


def test_the_loss_and_its_gradients_agree_with_torch(alignment):
    rows = alignment.loss()
    assert len(rows) == 2 and all(row.passed for row in rows), summary(rows)


def test_every_gradient_agrees_with_torch(alignment):
    rows = alignment.backward()
    assert len(rows) == 1 and rows[0].passed, summary(rows)


def test_the_ai_studio_layers_gradient_does_not_agree(alignment, monkeypatch):
    """Trap 10: without the target's gradient the check must fail."""
    monkeypatch.setattr(criterion, "RDropLoss", lambda *given, **_: RDropLoss(*given, stop_target_gradient=True))
    assert not alignment.backward()[0].passed


@pytest.mark.slow
def test_all_checks_pass_on_random_weights(alignment):
    rows = alignment.run()
    assert len(rows) == 14 and all(row.passed for row in rows), summary(rows)


def test_the_fused_loss_and_its_gradients_agree_with_torch(of_translation):
    rows = of_translation.loss()
    assert len(rows) == 2 and all(row.passed for row in rows), summary(rows)


def test_loss_and_gradients_of_translation_agree_with_marians_unless_the_kls_target_is_stopped(of_translation, monkeypatch):
    rows = of_translation.backward()
    assert len(rows) == 2 and all(row.passed for row in rows), summary(rows)
    stopped = {"stop_target_gradient": True}
    monkeypatch.setattr(
        criterion, "FusedLinearRDropLoss", lambda *given, **more: FusedLinearRDropLoss(*given, **more | stopped)
    )
    of_loss, of_gradients = of_translation.backward()
    assert of_loss.passed and not of_gradients.passed


def test_loss_and_gradients_of_summarisation_agree_with_barts(of_summarisation):
    rows = of_summarisation.backward()
    assert len(rows) == 2 and all(row.passed for row in rows), summary(rows)


@pytest.mark.slow
@pytest.mark.parametrize("name, count", [("of_translation", 9), ("of_summarisation", 7), ("of_language_modelling", 7)])
def test_all_checks_of_text_to_text_and_of_language_modelling_pass_on_made_sentences(request, name, count):
    rows = request.getfixturevalue(name).run()
    assert len(rows) == count and all(row.passed for row in rows), summary(rows)


def test_loss_and_gradients_of_understanding_agree_with_berts_unless_the_kls_target_is_stopped(of_understanding, monkeypatch):
    rows = of_understanding.backward()
    assert len(rows) == 2 and all(row.passed for row in rows), summary(rows)
    monkeypatch.setattr(
        criterion, "RDropLoss", lambda *given, **more: RDropLoss(*given, **more | {"stop_target_gradient": True})
    )
    of_loss, of_gradients = of_understanding.backward()
    assert of_loss.passed and not of_gradients.passed


@pytest.mark.slow
def test_all_checks_of_understanding_pass_on_made_sentences(of_understanding):
    rows = of_understanding.run()
    assert len(rows) == 7 and all(row.passed for row in rows), summary(rows)
