"""The check of a device on this CPU for real; what it decides on GPUs, of which there are none here, from made answers."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from benchmarks import device_check, device_golden, device_worker
from rdrop_paddle import UserError

GPU = dict(on_gpu=True, cards=2, half="bfloat16", words="a card")
CPU = dict(on_gpu=False, cards=0, half=None, words="a CPU")


@pytest.fixture
def answers(monkeypatch):
    """answers(machine, change) -> [what was asked]; the answers are good ones, as `change(what, found)` leaves them."""

    def pretend(machine, change=lambda what, found: found):
        asked = []

        def ask(what, *words, environment=None, ranks=1):
            asked.append((what, *words, environment, ranks))
            updates = dict(losses=[2.3, 2.2, 2.1], norms=[1.0, 1.0, 1.0], seconds=[9.0, 2.0, 2.0], digest="ab" * 32)
            good = dict(
                describe=machine,
                golden=dict(difference=1e-6, name="logits", attention="flash"),
                updates=updates | dict(peak_memory=14.0, samples=32, ranks=ranks),
                export=dict(passed=True, difference=1e-7),
            )
            return change(what, dict(good[what]))

        monkeypatch.setattr(device_check, "ask", ask)
        return asked

    return pretend


def verdicts():
    return {row.check: row.verdict for row in device_check.run()[1]}


def test_two_cards_are_checked_in_both_precisions_and_together(answers, capsys, main_of):
    asked = answers(GPU)
    assert set(verdicts().values()) == {"PASS"} and len(verdicts()) == 8
    recipes = {words[2] for words in asked if words[0] == "updates" and words[1] == "bfloat16"}
    assert recipes == {"configs/vit_b16_cifar100_rdrop.yaml"} and any(words[-1] == 2 for words in asked)
    assert main_of("check_device.py")() == 0
    table = capsys.readouterr().out
    assert "2.00 s for 32 images, 14.00 GB" in table and "the whole recipe would take 88.9 h" in table and "flash" in table


def test_what_a_machine_has_not_is_said_not_to_have_been_run(answers):
    answers(GPU | dict(cards=1))
    assert verdicts()["two ranks"] == "not run"
    asked = answers(CPU)
    assert [check for check, verdict in verdicts().items() if verdict == "not run"] == [
        "train.amp=O1",
        "updates of ViT-B/16, 384 px",
    ]
    assert not any("vit_b16" in str(word) for words in asked for word in words)


def fails(what, found):
    if what == "golden":
        raise device_check.Failure("exit status -6: Error: CUDA error(700)")
    return found


@pytest.mark.parametrize(
    "change, failed",
    [
        (fails, 1),
        (lambda what, found: found | dict(difference=2e-4) if what == "golden" else found, 1),
        (lambda what, found: found | dict(difference=float("nan")) if what == "golden" else found, 1),
        (lambda what, found: found | dict(losses=[2.3, float("nan"), 2.1], ranks=1) if what == "updates" else found, 2),
        (lambda what, found: found | dict(digest=str(np.random.default_rng().random())) if what == "updates" else found, 1),
        (lambda what, found: found | dict(ranks=1) if what == "updates" else found, 1),
        (lambda what, found: found | dict(passed=False) if what == "export" else found, 1),
    ],
)
def test_a_check_that_fails_is_in_the_status_and_ends_no_other(answers, capsys, change, failed, main_of):
    answers(CPU, change)
    assert main_of("check_device.py")() == 1
    table = capsys.readouterr().out
    assert table.count("| FAIL |") == failed and table.count("| PASS |") == 5 - failed


def test_the_figures_of_this_cpu_are_those_in_the_file_and_a_small_change_of_any_is_seen():
    figures, golden = device_golden.figures(), device_golden.read()
    assert device_golden.worst_difference(figures, golden)[0] < 1e-5
    for name in golden:
        changed = figures | {name: np.asarray(figures[name]) * 1.0003}
        difference, where = device_golden.worst_difference(changed, golden)
        assert device_check.BOUNDS["float32"] < difference < 1e-3 and where == name
        if name.startswith("gradient"):
            one_entry = np.array(golden[name])
            one_entry[0] += 2e-4 * one_entry[-2]
            assert device_golden.worst_difference(figures | {name: one_entry}, golden)[0] == pytest.approx(2e-4, rel=0.1)
    nothing = figures | {"gradient of head.bias": figures["gradient of head.bias"] * np.nan}
    assert np.isnan(device_golden.worst_difference(nothing, golden)[0])


@pytest.mark.parametrize("has_bfloat16, half", [(True, "bfloat16"), (False, "float16")])
def test_a_card_is_described_and_older_ones_compute_in_float16(monkeypatch, has_bfloat16, half):
    cuda = dict(
        device_count=4,
        get_device_name="Tesla V100-SXM2-32GB",
        get_device_capability=(7, 0),
        get_device_properties=SimpleNamespace(total_memory=34_000_000_000),
    )
    for name, answer in cuda.items():
        monkeypatch.setattr(paddle.device.cuda, name, lambda answer=answer: answer)
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.amp, "is_bfloat16_supported", lambda: has_bfloat16)
    monkeypatch.setattr(paddle.amp, "is_float16_supported", lambda: True)
    found = device_worker.describe()
    assert (found["on_gpu"], found["cards"], found["half"]) == (True, 4, half)
    assert found["words"].endswith("Tesla V100-SXM2-32GB, 34 GB, compute capability 7.0")


def test_a_process_that_fails_is_named_by_its_error():
    with pytest.raises(device_check.Failure, match="^exit status 2: error: train.amp is O1 but this is a CPU"):
        device_check.ask("updates", "bfloat16", "configs/digits_quickstart.yaml")


def test_a_process_that_does_not_answer_is_ended(monkeypatch):
    monkeypatch.setattr(device_check, "PATIENCE", 0.5)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = children.read_text()
    with pytest.raises(device_check.Failure, match="no answer after 0.5 s"):
        device_check.ask("describe")
    assert children.read_text() == before
    monkeypatch.setattr(device_check.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="Paddle does not start: exit status 1"):
        device_check.run()


@pytest.mark.slow
@pytest.mark.launcher
def test_this_cpu_passes(run_tool):
    done = run_tool("check_device.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| PASS |") >= 4 and "| FAIL |" not in done.stdout
    assert "| train.amp=O1 | not run |" in done.stdout
