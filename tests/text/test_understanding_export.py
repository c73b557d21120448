import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from rdrop_paddle.durability import checkpoint
from rdrop_paddle.text.understanding_export import export
from rdrop_paddle.training.export import BATCHES, DESCRIPTION, ONNX


def test_a_classifier_is_exported_with_its_tokens_and_answers_as_the_model_at_any_length(understanding, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("paddle2onnx")
    task = understanding()
    checkpoint.save_best(tmp_path, task.model, task.belongings(), update=1)
    report = task.load_weights(tmp_path / "best.safetensors")
    checks = export(task, tmp_path / "exported", report, onnx=True)
    runtimes = ("paddle.inference", "onnxruntime")
    assert [(check.runtime, check.batch, check.passed) for check in checks] == [
        (name, batch, True) for batch in BATCHES for name in runtimes
    ]
    description = json.loads((tmp_path / "exported" / DESCRIPTION).read_text())
    assert description["class_names"] == ["no", "perhaps", "yes"] and description["weights_sha256"] == report.sha256
    assert "tokenizer.json" in description["sha256"]
    encoding = Tokenizer.from_file(str(tmp_path / "exported" / "tokenizer.json")).encode("Hund rennt", "zwei Kinder spielen")
    session = runtime.InferenceSession(str(tmp_path / "exported" / ONNX))
    fed = {"tokens": np.asarray([encoding.ids]), "types": np.asarray([encoding.type_ids])}
    logits = session.run(["logits"], fed)[0][0].astype("float64")
    shares = np.exp(logits) / np.exp(logits).sum()
    expected = task.classify([("Hund rennt", "zwei Kinder spielen")])[0]
    assert dict(zip(description["class_names"], shares)) == pytest.approx(expected, abs=1e-5)
