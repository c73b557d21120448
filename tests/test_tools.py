"""The tools as a user runs them: real processes, the real launcher, exit statuses and last lines."""

import csv
import functools
import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest
from conftest import BASE, ROOT, Payload, logged
from PIL import Image
from safetensors.numpy import load_file

from rdrop_paddle import build_model, load_config
from rdrop_paddle.durability import files
from rdrop_paddle.durability.checkpoint import latest, model_arrays, save_weights
from rdrop_paddle.vision.task import ImageClassification

SLOW_TO_IMPORT = {"paddle", "visualdl", "torch", "transformers", "sklearn", "scipy", "numpy", "PIL", "matplotlib", "requests"}
LAST_LINE = re.compile(r"accuracy (\d\.\d{4}) \((\d+)/(\d+)\)( target \d\.\d{4} (PASS|FAIL))?")
STEPS = [
    "loading Paddle",
    "reading scikit-learn's digits, part train",
    "reading scikit-learn's digits, part test",
    "training begins; the first update takes longest",
]


def last_line(done):
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture
def weights(tiny_config, tmp_path):
    """Random weights of the tiny model; right about once in ten, with answers of several classes."""
    path, task = tmp_path / "weights.safetensors", ImageClassification(tiny_config())
    task.model.eval()
    logits, *_ = task.forward(task.model, next(task.batches("test")))
    task.model.head.bias.set_value(-logits.mean(axis=0))  # else one class wins nearly everywhere
    save_weights(model_arrays(task.model), path)
    return path


def error_of(done):
    """The one line of a user's error, in a process that exited with 2 and showed no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("error: ")]
    return line


def test_train_then_evaluate_then_resume(run_tool, tiny_overrides, tmp_path):
    done = run_tool("train.py", "-c", BASE, "-o", *tiny_overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stderr.splitlines() if line in STEPS] == STEPS
    assert "global batch     64 = 32 (micro) x 1 (ranks) x 2 (accumulation)" in done.stdout
    assert "attention        plain in float32, heads of width 8\n" in done.stdout
    assert "alpha 9.6 batchmean (officially 0.3, summed over micro-batches of 32)" in done.stdout
    folder = tmp_path / "output" / "tiny"
    found = {path.name for path in folder.iterdir()}
    assert found == {
        "config.yaml", "environment.json", "train.log", "metrics.jsonl", "vdl", "checkpoints",
        "best.safetensors", "best.safetensors.sha256", "classes.json", "model.json",
        "eval.txt"
    }  # fmt: skip
    assert latest(folder).name == "update-00000006"
    final = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert final["split"] == "test" and final["final"]

    result = tmp_path / "result.json"
    done = run_tool("eval.py", "-c", folder / "config.yaml", "--weights", folder / "best.safetensors", "--json", result)
    assert done.returncode == 0, done.stdout + done.stderr
    accuracy, correct, total, target, _ = LAST_LINE.fullmatch(last_line(done)).groups()
    assert (int(correct), int(total), target) == (final["correct"], 719, None)
    assert float(accuracy) == pytest.approx(int(correct) / 719, abs=5e-5)
    assert json.loads(result.read_text())["correct"] == final["correct"]

    (latest(folder)).rename(folder / "elsewhere")  # as if killed between the checkpoints of updates 3 and 6
    done = run_tool("train.py", "-c", BASE, "-o", *tiny_overrides, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after update 3" in done.stdout
    again = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert again == final and latest(folder).name == "update-00000006"

    kept = (folder / "best.safetensors").read_bytes()
    shutil.rmtree(folder / "checkpoints")  # as people do, who need the room
    done = run_tool("train.py", "-c", BASE, "-o", *tiny_overrides, "train.steps=9", "--resume")
    assert "has a finished run without its checkpoints" in error_of(done)
    assert (folder / "best.safetensors").read_bytes() == kept


@pytest.mark.parametrize("streams", ["| head -3", ">&- 2>&-"])
def test_training_goes_on_when_nobody_reads_what_it_says(tiny_overrides, tmp_path, streams):
    words = [sys.executable, ROOT / "tools" / "train.py", "-c", BASE, "-o", *tiny_overrides, "train.steps=40"]
    command = ["bash", "-o", "pipefail", "-c", f"{shlex.join(map(str, words))} {streams}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert len(done.stdout.splitlines()) == (3 if "head" in streams else 0)
    assert "best weights  test" in (tmp_path / "output" / "tiny" / "train.log").read_text()


@pytest.mark.launcher
def test_one_two_and_three_ranks_count_each_test_image_once(run_tool, call_tool, tiny_overrides, weights, tmp_path):
    arguments = ("eval.py", "-c", BASE, "--weights", weights, "-o", *tiny_overrides)
    lines, files = {}, [tmp_path / f"predictions{ranks}.csv" for ranks in (0, 2, 3)]
    for ranks, file in zip((0, 2, 3), files):
        run = functools.partial(run_tool, ranks=ranks) if ranks else call_tool
        lines[ranks] = last_line(run(*arguments, "--predictions", file))
    assert len(set(lines.values())) == 1, lines
    _, correct, total, *_ = LAST_LINE.fullmatch(lines[0]).groups()
    assert total == "719" and len({file.read_bytes() for file in files}) == 1
    with files[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(719))
    assert sum(row["label"] == row["prediction"] for row in rows) == int(correct)
    assert len({row["prediction"] for row in rows}) > 2  # or their order would be no matter


@pytest.mark.parametrize("ranks", [0, pytest.param(2, marks=[pytest.mark.launcher, pytest.mark.slow])])
def test_the_exit_status_is_the_verdict(run_tool, tiny_overrides, weights, ranks):
    for target, verdict, status in ((0.0, "PASS", 0), (0.99, "FAIL", 1)):
        done = run_tool(
            "eval.py", "-c", BASE, "--weights", weights, "-o", *tiny_overrides, f"eval.target_accuracy={target}", ranks=ranks
        )
        assert done.returncode == status
        assert LAST_LINE.fullmatch(last_line(done)).group(4) == f" target {target:.4f} {verdict}"


@pytest.mark.launcher
def test_under_the_launcher_a_users_error_is_status_2_too(run_tool, tiny_overrides, tmp_path):
    folder = tmp_path / "output" / "tiny"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")  # seen by rank 0 alone
    done = run_tool("train.py", "-c", BASE, "-o", *tiny_overrides, ranks=2)
    assert "is not empty" in error_of(done)
    overrides = [*tiny_overrides, "name=other", "train.batch_size=100"]  # seen by both
    done = run_tool("train.py", "-c", BASE, "-o", *overrides, ranks=2)
    assert "give for example 64, 128, 192" in error_of(done)


@pytest.mark.slow
@pytest.mark.launcher
def test_two_nodes_train_as_two_ranks_of_one_and_write_one_run_folder(run_tool, run_on_two_nodes, tiny_overrides, tmp_path):
    overrides = [*tiny_overrides, "train.steps=4", "train.warmup_steps=1"]
    assert run_tool("train.py", "-c", BASE, "-o", *overrides, "name=one", ranks=2).returncode == 0
    (first, log), (second, _) = run_on_two_nodes("train.py", "-c", BASE, "-o", *overrides, "name=two")
    assert (first, second) == (0, 0), log
    assert "global batch     64 = 32 (micro) x 2 (ranks) x 1 (accumulation)" in log
    output = tmp_path / "output"
    one, two = (logged(output / name) for name in ("one", "two"))
    assert len(one) == 7 and one == two  # to the bit
    best = [load_file(output / name / "best.safetensors") for name in ("one", "two")]
    assert all(array.tobytes() == best[1][name].tobytes() for name, array in best[0].items())
    assert sorted(path.name for path in output.iterdir()) == ["one", "two"]
    assert (output / "two" / "train.log").read_text().count("update 4/4") == len(list((output / "two" / "vdl").iterdir())) == 1
    assert [path.name for path in tmp_path.glob("node*/*")] == ["log", "log"]


@pytest.mark.launcher
def test_nodes_without_a_common_disk_are_one_line_and_status_2(run_on_two_nodes, tiny_overrides):
    for status, log in run_on_two_nodes("train.py", "-c", BASE, "-o", *tiny_overrides, "output=mine"):
        assert status == 2 and "Traceback" not in log
        assert re.search(r"^error: .*mine holds the same files on 1 of 2 ranks only: choose an output=...", log, re.MULTILINE)


@pytest.mark.launcher
def test_the_status_is_2_even_when_rank_0_fails_last(run_tool):
    assert error_of(run_tool("tests/durability/failing_worker.py", ranks=2)) == "error: no data"


def cifar(tmp_path):
    return ["data.name=cifar100", f"data.path={tmp_path / 'cifar-100-python.tar.gz'}", "model.classes=100"]


def cut_archive(small_cifar, tmp_path):
    path = small_cifar()[1]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return cifar(tmp_path)


def hostile_archive(small_cifar, tmp_path):
    small_cifar(Payload(os.mkdir, str(tmp_path / "payload")))
    return cifar(tmp_path)


def not_an_archive(small_cifar, tmp_path):
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(gzip.compress(b"no archive"))
    return cifar(tmp_path)


def full_run_folder(small_cifar, tmp_path):
    (tmp_path / "output" / "tiny").mkdir(parents=True)
    (tmp_path / "output" / "tiny" / "notes.txt").write_text("mine")
    return []


@pytest.mark.parametrize(
    "prepare, message",
    [
        (["train.stps=3"], "unknown key train.stps; the nearest valid key is train.steps"),
        (["train.steps=many"], "train.steps: Value 'many'"),
        (["train.batch_size=100"], "train.batch_size 100 is no multiple"),
        (["train.batch_size=8192"], "is more than the 862 training samples"),
        (["data.name=folder", "data.path=absent"], "data.path absent: an image folder needs"),
        (["data.name=cifar100", "data.path=absent.tar.gz"], "data.path absent.tar.gz does not exist"),
        (["model.weights=absent.npz"], "no weights at absent.npz, nor in"),
        (["model.classes=7"], "model.classes is 7 but digits has 10"),
        (["train.amp=O1"], "train.amp is O1 but this is a CPU"),
        (cut_archive, "damaged archive"),
        (hostile_archive, "member train: md5"),
        (not_an_archive, "damaged archive"),
        (full_run_folder, "is not empty"),
    ],
)
def test_bad_input_to_train_is_one_line_and_status_2(call_tool, tiny_overrides, small_cifar, tmp_path, prepare, message):
    overrides = prepare if isinstance(prepare, list) else prepare(small_cifar, tmp_path)
    done = call_tool("train.py", "-c", BASE, "-o", *tiny_overrides, *overrides)
    assert message in error_of(done)
    assert not (tmp_path / "payload").exists()
    left = [path.name for path in tmp_path.glob("output/*/*")]
    assert left in ([], ["notes.txt"])  # the mended command meets no half-made run folder


def test_a_second_process_in_a_run_folder_is_refused_while_the_first_one_lives(run_tool, tiny_overrides, tmp_path):
    folder = tmp_path / "output" / "tiny"
    train = ("train.py", "-c", BASE, "-o", *tiny_overrides)
    with files.locked(folder.with_name(".tiny.lock"), "held"):
        for resume in ([], ["--resume"]):
            assert f"another process is training in {folder}: wait for it" in error_of(run_tool(*train, *resume))
        assert not folder.exists()
    assert run_tool(*train).returncode == 0
    assert os.listdir(folder.parent) == ["tiny"]


def test_a_result_that_cannot_be_written_is_said_before_the_work(call_tool, tiny_overrides, weights, tmp_path):
    done = call_tool("eval.py", "-c", BASE, "--weights", weights, "--json", tmp_path, "-o", *tiny_overrides)
    assert f"cannot write --json {tmp_path}: Is a directory" in error_of(done)


def test_weights_of_the_wrong_shape_are_one_line_and_status_2(call_tool, tiny_overrides, weights):
    done = call_tool("eval.py", "-c", BASE, "--weights", weights, "-o", *tiny_overrides, "model.embed_dim=32")
    assert "cls_token misshapen ([1, 1, 16] in the file, [1, 1, 32] in the model)" in error_of(done)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "required: -c/--config"),
        (("-c", "absent.yaml"), "cannot read the config absent.yaml"),
        (("-c", BASE, "--resum"), "unrecognized arguments: --resum"),
        (("-c", BASE, "-o", "steps"), "write key=value"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(run_tool, arguments, message):
    assert message in error_of(run_tool("train.py", *arguments))


@pytest.mark.parametrize("tool", sorted(path.name for path in (ROOT / "tools").glob("*.py")))
def test_help_shows_the_commands_to_paste_without_waiting_for_paddle(tool):
    command = [sys.executable, "-X", "importtime", ROOT / "tools" / tool, "--help"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and f"python tools/{tool}" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported and not imported & SLOW_TO_IMPORT


def test_ai_studios_file_evaluates_with_its_config(call_tool, tiny_overrides, tiny_config, tmp_path):
    """A small model in the layout of cifar100-224_checkpoint.pdparams: DataParallel's prefix, no attention biases."""
    released = build_model(tiny_config("model.qkv_bias=false", "model.epsilon=1e-5").model)
    path = tmp_path / "cifar100-224_checkpoint.pdparams"
    paddle.save({f"_layers.{name}": tensor for name, tensor in released.state_dict().items()}, str(path))
    config = ROOT / "configs" / "vit_b16_cifar100_aistudio.yaml"
    done = call_tool("eval.py", "-c", config, "--weights", path, "--sha256", "0" * 64, "-o", *tiny_overrides)
    assert "sha256" in error_of(done) and "expected 0000" in error_of(done)
    done = call_tool("eval.py", "-c", config, "--weights", path, "-o", *tiny_overrides)
    assert done.returncode == 1 and "prefix _layers. removed" in done.stdout  # random weights: below the target
    assert LAST_LINE.fullmatch(last_line(done)).group(5) == "FAIL"


def test_converted_weights_evaluate_as_the_original(run_tool, call_tool, tiny_overrides, weights, tmp_path):
    target = tmp_path / "converted.pdparams"
    done = run_tool("convert_weights.py", weights, target)
    assert done.returncode == 0 and "head.weight" in done.stdout and f"wrote {target}" in done.stdout
    lines = [last_line(call_tool("eval.py", "-c", BASE, "--weights", w, "-o", *tiny_overrides)) for w in (weights, target)]
    assert lines[0] == lines[1] and LAST_LINE.fullmatch(lines[0])
    assert "exists already" in error_of(call_tool("convert_weights.py", weights, target))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "kept.safetensors").write_bytes(weights.read_bytes())
    assert call_tool("convert_weights.py", "kept.safetensors", tmp_path / "y.pdparams", root=tmp_path / "data").returncode == 0
    assert "no weights at absent.npz, nor in" in error_of(call_tool("convert_weights.py", "absent.npz", tmp_path / "x.npz"))


def test_every_tool_takes_the_average_on_demand_and_else_says_that_it_is_there(call_tool, tiny_overrides, weights, tmp_path):
    arrays = {name: paddle.to_tensor(array) for name, array in load_file(str(weights)).items()}
    average = arrays | {"head.bias": arrays["head.bias"] + 100 * paddle.eye(10)[3]}  # one that answers 3 to all
    both, photo = tmp_path / "both.pdparams", tmp_path / "photo.png"
    paddle.save({"model": arrays, "model_ema": average, "epoch": 3}, str(both))
    Image.new("RGB", (8, 8)).save(photo)
    use = ("-c", BASE, "--weights", both, "-o", *tiny_overrides, "eval.batch_size=64")
    said, found = "the average model_ema left aside, --ema takes it", {}
    for ema in ([], ["--ema"]):
        done = {
            "eval": call_tool("eval.py", *use, *ema),
            "predict": call_tool("predict.py", photo, *use, *ema, "--top", "1"),
            "export": call_tool("export.py", *use, *ema, "--output", tmp_path / f"exported{len(ema)}"),
            "convert": call_tool("convert_weights.py", both, tmp_path / f"converted{len(ema)}.safetensors", *ema),
        }
        for tool, one in done.items():
            text = one.stdout + one.stderr
            assert one.returncode == 0 and (said in text) == (not ema) and "the average model_ema" in text, (tool, text)
        found[bool(ema)] = last_line(done["eval"]), load_file(str(tmp_path / f"converted{len(ema)}.safetensors"))["head.bias"]
    assert not (found[False][1] > 50).any() and (found[True][1] > 50).nonzero()[0] == [3] and found[False][0] != found[True][0]
    done = call_tool("eval.py", "-c", BASE, "--weights", weights, "--ema", "-o", *tiny_overrides)
    assert "holds no average of the weights (EMA): leave --ema out" in error_of(done)


def test_weights_with_nan_end_an_evaluation_with_a_line_that_names_the_tensor(call_tool, tiny_overrides, weights):
    arrays = load_file(str(weights))
    arrays["head.weight"][3, 1] = np.nan
    save_weights(arrays, weights)
    done = call_tool("eval.py", "-c", BASE, "--weights", weights, "-o", *tiny_overrides)
    assert done.returncode == 2 and "head.weight holds NaN or infinity" in error_of(done)


@pytest.mark.slow
def test_one_update_of_the_papers_config_fits_in_12_gb(google_npz, tmp_path):
    """ViT-B/16 at 384 px from random weights in Google's format, with its 21k head and pre_logits."""
    config = ROOT / "configs" / "vit_b16_cifar100_rdrop.yaml"
    extra = {f"pre_logits/{kind}": np.zeros(shape, "float32") for kind, shape in [("kernel", [768, 768]), ("bias", [768])]}
    weights, _ = google_npz(build_model(load_config(config).model), extra | {"head/kernel": np.zeros([768, 21843], "float32")})
    overrides = ["train.batch_size=2", "train.micro_batch_size=2", "train.steps=2", "train.warmup_steps=0", "train.log_every=1"]
    overrides += [f"model.weights={weights}", f"output={tmp_path / 'output'}", "eval.split=val", "eval.batch_size=2"]
    overrides += ["data.name=digits", "model.classes=10", "data.val_fraction=0.01"]  # ten images to evaluate
    command = [sys.executable, ROOT / "tools" / "train.py", "-c", config, "-o", *overrides]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as running:
        output = running.stdout.read()
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    assert running.returncode == 0, output
    assert "113 loaded, 1 transposed, 24 fused, 12 reshaped, 2 reset, 2 dropped" in output
    assert usage.ru_maxrss < 12e6  # kB


@pytest.mark.launcher
def test_the_quickstart_compares_both_arms(tmp_path):
    """`make train`, cut to a few updates, in a copy of the project, because it writes to output/ there."""
    for name in ("configs", "rdrop_paddle", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name)
    command = [sys.executable, tmp_path / "tools" / "quickstart.py", "-o", "train.steps=3", "-o", "train.warmup_steps=1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^\| (baseline|R-Drop) +\| 0\.\d{4} \(\d+/719\) +\| +\d+ \|$", done.stdout, re.MULTILINE)
    assert rows == ["baseline", "R-Drop"]
    trained = load_config(tmp_path / "output" / "digits_rdrop_seed0" / "config.yaml").train
    assert (trained.steps, trained.warmup_steps) == (3, 1)
    dashboard = shlex.split(done.stdout.splitlines()[-1].partition("The curves:")[2])
    done = subprocess.run([*dashboard, "--help"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0 and (tmp_path / dashboard[-1]).samefile(tmp_path / "output")
    assert {path.name for path in (tmp_path / "output").iterdir()} >= {"digits_baseline_seed0", "digits_rdrop_seed0"}


@pytest.mark.real
@pytest.mark.launcher
def test_real_archive_and_weights_train_and_evaluate_on_two_ranks(run_tool, real_data, tmp_path):
    overrides = [f"output={tmp_path / 'output'}", "name=real", "train.steps=2", "train.warmup_steps=1", "train.batch_size=16"]
    overrides += ["train.micro_batch_size=8", "model.image_size=32", "eval.split=val", "train.log_every=1"]
    config = ROOT / "configs" / "vit_ti16_cifar100_rdrop.yaml"
    done = run_tool("train.py", "-c", config, "-o", *overrides, ranks=2, root=real_data)
    assert done.returncode == 0, done.stdout
    assert "112 loaded, 1 resized, 1 transposed, 24 fused, 12 reshaped, 2 reset" in done.stdout
    metrics = [json.loads(line) for line in (tmp_path / "output" / "real" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in metrics] == [1, 2, 2, 2]
    assert metrics[0]["loss"] == pytest.approx(4.605, abs=1e-3)  # a head of zeros: ln 100, and no divergence
    assert metrics[1]["kl"] > 0 and metrics[-1]["total"] == 1000
