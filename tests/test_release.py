"""The released weights: what their model cards and the README say of them is so."""

import hashlib
import re
from typing import NamedTuple

import paddle
import pytest
from conftest import ROOT

from rdrop_paddle import load_config


class Release(NamedTuple):
    line: str  # what tools/eval.py ends with: its score and target
    margin: float  # of the target below the score
    rounding: float  # by which another machine's score may differ
    megabytes: float

    def scores(self, text):
        """(score, target) of an evaluation's last line."""
        found = re.fullmatch(self.line, text.strip().splitlines()[-1])
        return float(found["score"]), float(found["target"])


ACCURACY = r"accuracy (?P<score>0\.(?P<correct>\d{4})) \((?P=correct)/10000\) target (?P<target>0\.\d{4}) PASS"
BLEU = r"BLEU (?P<score>\d\d\.\d\d) \(nrefs:1\|case:mixed\|.*; chrF .*\) target (?P<target>\d\d\.\d\d) PASS"
RELEASED = {
    "vit_ti16_cifar100_rdrop": Release(ACCURACY, 0.001, 0.0005, 11.5),
    "multi30k_deen_rdrop": Release(BLEU, 0.3, 0.2, 12),
}
every_release = pytest.mark.parametrize("name", RELEASED)


def folder(name):
    return ROOT / "results" / name


@every_release
def test_the_card_names_these_weights_and_their_score(name):
    content = (folder(name) / "model.safetensors").read_bytes()
    card, line = (folder(name) / "README.md").read_text(), (folder(name) / "eval.txt").read_text().strip()
    assert hashlib.sha256(content).hexdigest() in card and len(content) < RELEASED[name].megabytes * 1e6
    assert line in card and line in (ROOT / "README.md").read_text()


@every_release
def test_the_target_is_the_score_less_the_margin(name):
    score, target = RELEASED[name].scores((folder(name) / "eval.txt").read_text())
    assert target == pytest.approx(score - RELEASED[name].margin)
    assert load_config(folder(name) / "config.yaml").eval.target == target


@pytest.mark.slow
@pytest.mark.real
@every_release
@pytest.mark.parametrize("ranks", [0, pytest.param(2, marks=pytest.mark.launcher)])
def test_they_reach_their_target_on_the_real_test_set(name, ranks, run_tool, real_data):
    config, weights = folder(name) / "config.yaml", folder(name) / "model.safetensors"
    done = run_tool("eval.py", "-c", config, "--weights", weights, ranks=ranks, root=real_data)
    assert done.returncode == 0, done.stdout + done.stderr
    found = RELEASED[name].scores(done.stdout)
    score, target = RELEASED[name].scores((folder(name) / "eval.txt").read_text())
    assert found == (pytest.approx(score, abs=RELEASED[name].rounding), target)


def test_the_hub_has_the_translator_which_needs_no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("RDROP_DATA", str(tmp_path))
    model = paddle.hub.load(str(ROOT), "multi30k_deen_rdrop", source="local")
    assert not model.training and "dog" in model.translate(["Ein Hund rennt über die Wiese."])[0].lower().split()
