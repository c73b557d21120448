"""The released weights: what their model card and the README say of them is so."""

import hashlib
import re

import pytest
from conftest import ROOT

from rdrop_paddle import load_config

FOLDER = ROOT / "results" / "vit_ti16_cifar100_rdrop"
CARD = (FOLDER / "README.md").read_text()
SCORE = (FOLDER / "eval.txt").read_text().strip()
LINE = re.compile(r"accuracy 0\.(\d{4}) \((\d+)/10000\) target 0\.(\d{4}) PASS")


def test_the_card_names_these_weights_and_their_accuracy():
    content = (FOLDER / "model.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() in CARD and len(content) < 11.5e6
    assert SCORE in CARD and SCORE in (ROOT / "README.md").read_text()


def test_the_target_is_the_accuracy_less_a_tenth_of_a_point():
    accuracy, correct, target = map(int, LINE.fullmatch(SCORE).groups())
    assert accuracy == correct and target == accuracy - 10
    assert load_config(FOLDER / "config.yaml").eval.target == pytest.approx(target / 10000)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("ranks", [0, pytest.param(2, marks=pytest.mark.launcher)])
def test_they_reach_their_target_on_the_real_test_set(run_tool, real_data, ranks):
    done = run_tool(
        "eval.py", "-c", FOLDER / "config.yaml", "--weights", FOLDER / "model.safetensors", ranks=ranks, root=real_data
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = LINE.fullmatch(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("accuracy")))
    _, correct, target = map(int, LINE.fullmatch(SCORE).groups())
    assert abs(int(found.group(2)) - correct) <= 5  # other machines round otherwise
    assert int(found.group(3)) == target
