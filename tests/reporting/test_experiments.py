"""The runner of experiments: two real trainings through the tool, and otherwise a stand-in for tools/train.py."""

import csv
import json
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import yaml
from conftest import BASE, ROOT, TINY

from rdrop_paddle import UserError, load_config
from rdrop_paddle.reporting import comparisons, published
from rdrop_paddle.reporting.experiments import load_table, run_missing
from rdrop_paddle.reporting.gain_figure import gains_of

TRAIN = f"""
import json, pathlib, sys, time
sys.path.insert(0, {str(ROOT)!r})
from rdrop_paddle import load_config
config = load_config(sys.argv[2], [word for word in sys.argv[4:] if word != "--resume"])
resume, folder = sys.argv[-1] == "--resume", pathlib.Path(config.output) / config.name
with open("starts", "a") as starts:
    starts.write(config.name + " resumed" * resume + "\\n")
if config.train.lr == 1:
    sys.exit("ModuleNotFoundError: paddle")
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text(config.to_yaml())
(folder / "environment.json").write_text('{{"git_commit": "c0ffee"}}')
if config.train.lr == 2:
    print("error: the disk is full")
    sys.exit(2)
if config.train.lr == 3:
    print("FloatingPointError: update 1: loss nan; last good checkpoint: " + str(folder.absolute()))
    print("last line")
    sys.exit(1)
if pathlib.Path("wait").exists() and not resume:
    pathlib.Path("waiting").touch()
    time.sleep(60)
(folder / "vdl").mkdir()
(folder / "vdl" / "vdlrecords.1.log").touch()
records = [dict(step=step, loss=1.0, batch_cost=cost) for step, cost in ((10, 0.5), (20, 0.7), (25, 0.4))]
correct = 400 + 7 * config.train.seed
records.append(dict(step=25, split="val", accuracy=0.1, correct=1, total=10))
records.append(dict(step=25, split=config.eval.split, accuracy=correct / 719, correct=correct, total=719, final=True))
(folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\\n" for record in records))
(folder / "eval.txt").write_text(f"accuracy {{correct / 719:.4f}} ({{correct}}/719)\\n")
"""
RESULTS = Path("results")


@pytest.fixture
def write_table(tmp_path, monkeypatch):
    """write_table(runs, **more) -> the path of results/experiments.yaml, in a working directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(load_config(BASE, TINY).to_yaml())
    Path("understanding.yaml").write_text("task: understanding\n")
    RESULTS.mkdir()

    def write(*runs, **more):
        path = RESULTS / "experiments.yaml"
        path.write_text(yaml.safe_dump(dict(config="tiny.yaml", ranks=1, runs=list(runs)) | more))
        return path

    return write


@pytest.fixture
def run(write_table):
    """run(runs, only=..., **more of the table) -> the exit status, with the stand-in instead of tools/train.py."""
    Path("train.py").write_text(TRAIN)

    def start(*runs, only="*", **more):
        return run_missing(load_table(write_table(*runs, **more), load_config), "train.py", only)

    return start


def starts():
    return Path("starts").read_text().splitlines() if Path("starts").exists() else []


def rows():
    with (RESULTS / "runs.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_tool_trains_publishes_records_failures_and_skips_what_is_there(write_table, run_tool, tmp_path):
    fine = dict(name="fine", settings=["short", "baseline"])
    wrong = dict(name="wrong", settings=["short"], overrides=["train.lr=1e30"])
    settings = dict(short=["train.steps=4", "train.lr=0.1"], baseline=["rdrop.passes=1", "rdrop.alpha=0"])
    table = write_table(wrong, fine, settings=settings)
    done = run_tool("run_experiments.py", table)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "[1/2] wrong_seed0\n    failed with exit status 1: FloatingPointError: update 2: loss nan" in done.stdout
    assert done.stdout.endswith("to have it continued, and output/experiments/wrong_seed0 as well to have it begun anew\n")
    failed, finished = RESULTS / "wrong_seed0", RESULTS / "fine_seed0"
    assert {path.name for path in failed.iterdir()} == {"config.yaml", "environment.json", "metrics.jsonl", "failed.txt"}
    assert {path.name for path in finished.iterdir()} == {"config.yaml", "environment.json", "metrics.jsonl", "eval.txt", "vdl"}
    final = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert (finished / "eval.txt").read_text() == f"accuracy {final['accuracy']:.4f} ({final['correct']}/719)\n"
    assert f"[2/2] fine_seed0\n    accuracy {final['accuracy']:.4f} " in done.stdout
    found = {row["run"]: row for row in rows()}
    assert [*found] == ["wrong_seed0", "fine_seed0"]
    assert found["fine_seed0"].items() >= dict(status="finished", split="test", total="719", updates="4", passes="1").items()
    assert found["wrong_seed0"].items() >= dict(status="failed", accuracy="", updates="1", lr="1e+30", passes="2").items()
    for path in [path for path in RESULTS.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        assert not [place for place in (tmp_path, ROOT, Path.home()) if str(place).encode() in content], path
    before = {path: path.read_bytes() for path in RESULTS.rglob("*") if path.is_file()}
    again = run_tool("run_experiments.py", table)
    assert again.returncode == 0 and "2 of 2 runs are in results already" in again.stdout and "[" not in again.stdout
    assert "failed earlier, and continued when the folder is removed: wrong_seed0" in again.stdout
    assert before == {path: path.read_bytes() for path in RESULTS.rglob("*") if path.is_file()}


def test_only_what_is_missing_is_started_in_the_tables_order(run, capsys):
    table = [dict(name="b", seeds=[0, 3]), dict(name="a", overrides=["eval.split=val"]), dict(name="c")]
    assert run(*table, only="a_*") == 0
    assert [row["run"] for row in rows()] == ["a_seed0"]
    assert run(*table) == 0
    assert starts() == ["a_seed0", "b_seed0", "b_seed3", "c_seed0"]
    assert [row["run"] for row in rows()] == ["b_seed0", "b_seed3", "a_seed0", "c_seed0"]
    assert "1 of 4 runs are in results already\n[1/4] b_seed0\n" in capsys.readouterr().out
    assert (RESULTS / "b_seed0" / "vdl").is_dir() and not (RESULTS / "a_seed0" / "vdl").exists()  # of trials nobody looks
    assert not list(Path("output/experiments").glob("*/checkpoints"))
    with pytest.raises(UserError, match="--only d_\\* selects no run"):
        run(*table, only="d_*")


def test_a_row_says_what_the_run_was_and_took(run):
    run(
        dict(name="b", seeds=[0, 3]),
        dict(name="a", overrides=["eval.split=test", "data.flip=true", "train.batch_size=32", "eval.split=val"]),
    )
    first, second, third = rows()
    assert [row["name"] + row["seed"] + row["split"] for row in rows()] == ["b0test", "b3test", "a0val"]
    assert (second["correct"], second["accuracy"], second["updates"]) == ("421", "0.5855", "25")
    assert float(first["hours"]) == pytest.approx((10 * 0.5 + 10 * 0.7 + 5 * 0.4) / 3600, abs=1e-4)
    assert (first["milliseconds_per_update"], first["commit"]) == ("500.0", "c0ffee")
    assert [(row["flip"], row["batch_size"]) for row in (first, third)] == [("false", "64"), ("true", "32")]
    assert {"alpha", "passes", "shared_blocks", "lr", "image_size", "images_per_class"} <= first.keys()
    assert "momentum" not in first  # in which none of them differ
    assert third["command"] == (
        "python tools/train.py -c tiny.yaml -o eval.split=val data.flip=true train.batch_size=32 name=a_seed0 train.seed=0"
    )


def test_a_failing_run_is_recorded_and_continued_once_its_folder_is_removed(run, capsys, tmp_path):
    table = [dict(name="bad", overrides=["train.lr=3"]), dict(name="good")]
    assert run(*table) == 1
    assert starts() == ["bad_seed0", "good_seed0"]
    words = "FloatingPointError: update 1: loss nan; last good checkpoint: ./output/experiments/bad_seed0"
    assert (RESULTS / "bad_seed0" / "failed.txt").read_text() == words + "\n"
    assert "bad_seed0 failed: remove results/bad_seed0 to have it continued, and output" in capsys.readouterr().out
    assert [(row["status"], row["correct"]) for row in rows()] == [("failed", ""), ("finished", "400")]
    runs = Path("output/experiments")
    assert [path.parent.name for path in runs.glob("*/checkpoints")] == ["bad_seed0"]  # which would go on from there
    assert run(*table) == 0 and len(starts()) == 2
    for path in (RESULTS / "bad_seed0").iterdir():
        path.unlink()
    (RESULTS / "bad_seed0").rmdir()
    assert run(*table) == 1 and starts()[2:] == ["bad_seed0 resumed"]


def test_a_finished_run_is_begun_anew_once_its_folder_is_removed(run):
    assert run(dict(name="a")) == 0
    shutil.rmtree(RESULTS / "a_seed0")
    assert run(dict(name="a")) == 0 and starts() == ["a_seed0", "a_seed0"]  # not resumed: its checkpoints are gone


def test_a_published_run_is_on_the_disk_before_its_name_is_there_and_its_checkpoints_go(run, monkeypatch):
    synced, folder = [], RESULTS / "good_seed0"

    def sync(path):
        assert folder.exists() == (path == RESULTS)
        assert Path("output/experiments/good_seed0/checkpoints").exists() or path != RESULTS
        synced.append(path)

    monkeypatch.setattr(published.files, "sync", sync)
    monkeypatch.setattr(published, "write_csv", lambda experiments: None)
    assert run(dict(name="good")) == 0
    *files, last = synced
    assert {path.relative_to(RESULTS / "good_seed0.part") for path in files} == {
        path.relative_to(folder) for path in [folder, *folder.rglob("*")]
    }
    assert last == RESULTS


def test_what_says_nothing_of_a_run_is_told_and_not_taken_for_its_result(run, capsys):
    table = [dict(name="broken", overrides=["train.lr=1"]), dict(name="full", overrides=["train.lr=2"]), dict(name="good")]
    assert run(*table) == 1 and run(*table) == 1
    assert starts() == ["broken_seed0", "full_seed0", "good_seed0", "broken_seed0", "full_seed0 resumed"]
    assert [path.name for path in RESULTS.glob("*_seed0")] == ["good_seed0"] == [row["run"] for row in rows()]
    said = capsys.readouterr().out
    assert "failed with exit status 1: ModuleNotFoundError" in said and "exit status 2: error: the disk is full" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_training_and_the_next_start_resumes_it(run, number, capsys):
    Path("wait").touch()

    def stop():
        while not Path("waiting").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    start = time.monotonic()
    assert run(dict(name="long"), dict(name="later")) == 1
    assert time.monotonic() - start < 30 and starts() == ["long_seed0"] and rows() == []
    assert capsys.readouterr().out == "[1/2] long_seed0\nstopped: the same command goes on from the last checkpoint\n"
    Path("wait").unlink()
    assert run(dict(name="long"), dict(name="later")) == 0
    assert starts()[1:] == ["long_seed0 resumed", "later_seed0"]


def test_two_starts_at_once_are_refused(run):
    Path("wait").touch()
    errors = []

    def start_again():
        while not Path("waiting").exists():
            time.sleep(0.01)
        try:
            run(dict(name="long"))
        except UserError as error:
            errors.append(str(error))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=start_again, daemon=True).start()
    run(dict(name="long"))
    assert errors == ["experiments are running in output/experiments already: wait for them, or end them first"]


@pytest.mark.parametrize(
    "now, message",
    [
        (dict(name="a", overrides=["train.lr=0.5"]), "a_seed0: train.lr is 0.03 in results/a_seed0, and 0.5 in"),
        (
            dict(name="a", overrides=["train.lr=0.03", "eval.split=val"]),
            "a_seed0: eval.split is test in results/a_seed0, and val in",
        ),
        (
            dict(name="a", overrides=["train.lr=0.03", "train.eval_every=1"]),  # which selects other weights
            "a_seed0: train.eval_every is 3 in results/a_seed0, and 1 in",
        ),
        (dict(name="b"), "results/a_seed0 is published but not in results/experiments.yaml"),
    ],
)
def test_a_published_run_of_other_settings_is_refused(run, now, message):
    assert run(dict(name="a", overrides=["train.lr=0.03"])) == 0
    assert run(dict(name="a", overrides=["train.lr=0.03", "eval.batch_size=8", "train.log_every=5"])) == 0
    with pytest.raises(UserError, match=re.escape(message)):
        run(now)
    assert starts() == ["a_seed0"]


def test_the_micro_batch_is_part_of_what_a_summed_kl_gave(run):
    def table(**more):
        return [dict(name=name, overrides=[f"rdrop.reduction={name}", *more.get(name, [])]) for name in ("batchmean", "sum")]

    assert run(*table()) == 0
    assert run(*table(batchmean=["train.micro_batch_size=16"])) == 0
    with pytest.raises(UserError, match=r"sum_seed0: train.micro_batch_size is \d+ in results/sum_seed0, and 16 in"):
        run(*table(sum=["train.micro_batch_size=16"]))
    small = dict(name="small", overrides=["rdrop.reduction=sum", "train.micro_batch_size=16"])
    assert run(*table(), small, only="small_*") == 0
    assert [row["micro_batch_size"] for row in rows()] == ["32", "32", "16"]


def test_keys_that_end_in_the_same_word_have_columns_of_their_own(run):
    keys = ("model.epsilon", "train.epsilon", "train.eval_every")
    assert run(*(dict(name=f"run{n}", overrides=[f"{key}={n}" for key in keys]) for n in (1, 2))) == 0
    assert [[row[name] for name in ("model.epsilon", "train.epsilon", "eval_every")] for row in rows()] == [
        ["1.0", "1.0", "1"],
        ["2.0", "2.0", "2"],
    ]


@pytest.mark.parametrize(
    "runs, more, message",
    [
        ([dict(name="a", seed=1)], {}, "seed"),
        ([dict(nam="a")], {}, "nam"),
        ([dict(seeds=[1])], {}, "missing mandatory value: name"),
        ([dict(name="a", seeds=["x"])], {}, "seeds"),
        ([dict(name="a", seeds=[1, 1])], {}, "run a: seeds are"),
        ([dict(name="a"), dict(name="a", seeds=[1])], {}, "two runs are called a"),
        ([dict(name="a", settings=["few"])], dict(settings=dict(many=[])), "there are no settings few, but many"),
        ([dict(name="a"), dict(name="b", overrides=["train.lrr=1"])], {}, "run b: .*unknown key train.lrr"),
        (
            [dict(name="a", overrides=["data.name=rte"]), dict(name="b", overrides=["data.name=stsb"])],
            dict(config="understanding.yaml"),
            "its runs are of different tasks",
        ),
        ([dict(name="a", overrides=["train.seed=1"])], {}, "leave out train.seed=1"),
        ([dict(name="a", overrides=["model.weights=/home/me/w.npz"])], {}, "model.weights is /home/me/w.npz, a path of this"),
        ([dict(name="a")], dict(ranks=3), "run a: train.batch_size 64 is no multiple"),
        ([dict(name="a")], dict(ranks=0), "ranks is 0"),
        ([dict(name="a")], dict(comparisons=[dict(title="t", baseline="a", rdrop="b")]), "t: there is no run b"),
        ([dict(name="a")], dict(ablations=[dict(title="t", run="b")]), "t: there is no run b"),
        (
            [dict(name="a"), dict(name="b", overrides=["eval.split=val"])],
            dict(comparisons=[dict(title="t", baseline="a", rdrop="b")]),
            "t: a and b are evaluated on different splits",
        ),
    ],
)
def test_a_wrong_table_starts_nothing(run, runs, more, message):
    with pytest.raises(UserError, match=message):
        run(*runs, **more)
    assert starts() == []


@pytest.mark.parametrize("pairs", [2, 5, 31, 40])
def test_the_interval_is_that_of_scipys_paired_test(pairs):
    before, after = np.random.default_rng(pairs).normal(50, 1, [2, pairs])
    mean, half = comparisons.interval(list(after - before))
    expected = scipy.stats.ttest_rel(after, before).confidence_interval(0.95)
    np.testing.assert_allclose([mean - half, mean + half], expected, rtol=1e-9)


def write_runs(accuracies, **more):
    """runs.csv with {name: {seed: right of 10,000, or None for a failed run}}."""
    with (RESULTS / "runs.csv").open("w") as file:
        columns = ["name", "seed", "status", "correct", "total", "hours", "milliseconds_per_update"]
        writer = csv.writer(file)
        writer.writerow(columns)
        for name, seeds in accuracies.items():
            for seed, correct in seeds.items():
                status, correct, cost = ("failed", "", "") if correct is None else ("finished", correct, 100 + seed)
                writer.writerow([name, seed, status, correct, 10000, 0.5, cost])


def text(values):
    return f"{np.mean(values) / 100:.2f} +- {np.std(values, ddof=1) / 100:.2f}"


def test_the_summarys_numbers_are_scipys(write_table):
    seeds = [0, 1, 2, 3, 4]
    before, after = [4321, 4402, 4288, 4350, 4399], [4390, 4401, 4377, 4420, 4371]
    few = dict(title="few labels", baseline="baseline", rdrop="rdrop")
    full = dict(title="full data", baseline="baseline", rdrop="other")
    alone, four = dict(title="alone", run="rdrop"), dict(title="four times", run="other", reference="rdrop")
    runs = [dict(name=name, seeds=seeds) for name in ("baseline", "rdrop", "other")]
    table = load_table(write_table(*runs, comparisons=[few, full], ablations=[alone, four]), load_config)
    rdrop = dict(zip(reversed(seeds), reversed(after)))
    write_runs(dict(baseline=dict(zip(seeds, before)), rdrop=rdrop, other={3: 4500, 4: None}))
    low, high = scipy.stats.ttest_rel(after, before).confidence_interval(0.95)
    difference = f"{np.mean(after) / 100 - np.mean(before) / 100:+.2f} ({low / 100:+.2f} to {high / 100:+.2f}; 5 seeds)"
    assert comparisons.summary(table) == (
        "| setting | baseline | R-Drop | difference (95 % interval) | hours |\n|---|---|---|---|---|\n"
        f"| few labels | {text(before)} | {text(after)} | {difference} | 5.0 |\n"
        f"| full data | {text(before)} | 45.00 (1 of 5 seeds, 1 failed) | +1.50 (one seed) | 3.5 |\n\n"
        "| setting | accuracy | difference (95 % interval) | against | ms an update |\n|---|---|---|---|---|\n"
        f"| alone | {text(after)} | - | - | 100 |\n"
        "| four times | 45.00 (1 of 5 seeds, 1 failed) | +0.80 (one seed) | rdrop | 103 |"
    )


def test_the_mean_over_tables_is_of_the_seeds_that_all_have(write_table):
    few = dict(title="few labels", baseline="baseline", rdrop="rdrop")
    runs = [dict(name=name, seeds=[0, 1, 2]) for name in ("baseline", "rdrop")]
    table = load_table(write_table(*runs, comparisons=[few]), load_config)
    write_runs(dict(baseline={0: 4000, 1: 4100, 2: 4150}, rdrop={0: 4200, 1: 4200}))
    (RESULTS / "other").mkdir()
    for name in ("experiments.yaml", "runs.csv"):
        (RESULTS / "other" / name).write_bytes((RESULTS / name).read_bytes())
    other = load_table(RESULTS / "other" / "experiments.yaml", load_config)
    rows = (RESULTS / "other" / "runs.csv").read_text().replace("4000", "5000").replace("4200", "5600")
    (RESULTS / "other" / "runs.csv").write_text("".join(row for row in rows.splitlines(True) if "4150" not in row))
    low, high = scipy.stats.ttest_rel([49, 49], [45, 41]).confidence_interval(0.95)
    assert comparisons.mean_row([table, other]) == (
        f"| mean of these 2 | {text([4500, 4100])} (2 of 3 seeds) | {text([4900, 4900])} (2 of 3 seeds) "
        f"| +6.00 ({low:+.2f} to {high:+.2f}; 2 seeds) | 4.5 |"
    )


@pytest.mark.parametrize("higher_is_better, sign", [(True, 1), (False, -1)])
def test_a_gain_is_in_percent_of_the_baseline_beside_the_doubled_batchs_log(write_table, monkeypatch, higher_is_better, sign):
    row = dict(title="few labels", baseline="baseline", rdrop="rdrop", doubled="doubled")
    runs = [dict(name=name, seeds=[0, 1]) for name in ("baseline", "rdrop", "doubled", "other")]
    table = load_table(write_table(*runs, comparisons=[row, row | dict(doubled=""), row | dict(doubled="other")]), load_config)
    measure = table.measure._replace(higher_is_better=higher_is_better)
    monkeypatch.setattr(type(table.jobs[0].config), "measure", measure)
    write_runs(dict(baseline={0: 4000, 1: 5000}, rdrop={0: 4200, 1: 5100}, doubled={0: 4100, 1: None}, other={0: None}))
    (RESULTS / "doubled_seed0").mkdir()
    (RESULTS / "doubled_seed0" / "metrics.jsonl").write_text('{"step": 10, "kl": 0.25}\n')
    (gain,) = gains_of(table)
    assert (gain.title, gain.percent) == ("few labels", pytest.approx([sign * 5, sign * 2]))
    assert gain.logs == {"doubled_seed0": {"train/kl": [(10, 0.25)]}}


@pytest.mark.parametrize("content", ["run,seed\na,1\n", "name,status,seed\na,finished,x\n", "name\n\n\xff", "name,seed\na"])
def test_a_damaged_table_of_runs_is_named(write_table, content):
    row = dict(title="few labels", baseline="a", rdrop="a")
    table = load_table(write_table(dict(name="a"), comparisons=[row]), load_config)
    (RESULTS / "runs.csv").write_text(content, encoding="latin1")
    with pytest.raises(UserError, match=r"runs.csv is no table of runs"):
        comparisons.summary(table)


def test_scores_of_several_tasks_have_no_mean_and_a_table_given_twice_counts_once(write_table, main_of, capsys):
    row = dict(title="t", baseline="a", rdrop="b")
    path = write_table(dict(name="a"), dict(name="b"), comparisons=[row])
    write_runs(dict(a={0: 4000}, b={0: 4100}))
    (RESULTS / "other").mkdir()
    other = dict(config="understanding.yaml", ranks=1, runs=[dict(name="a"), dict(name="b")], comparisons=[row])
    (RESULTS / "other" / "experiments.yaml").write_text(yaml.safe_dump(other))
    (RESULTS / "other" / "runs.csv").write_bytes((RESULTS / "runs.csv").read_bytes())
    (RESULTS / "alone").mkdir()
    alone = RESULTS / "alone" / "experiments.yaml"
    alone.write_text(yaml.safe_dump(dict(config="tiny.yaml", ranks=1, runs=[dict(name="a")])))  # it compares nothing
    main = main_of("run_experiments.py")
    for tables in ([path, RESULTS / "other" / "experiments.yaml"], [path, path], [path, alone]):
        assert main("--summary", *tables) == 0 and "mean of these" not in capsys.readouterr().out


def test_what_was_not_run_is_said(write_table):
    full, average = dict(title="full data", baseline="a", rdrop="b"), dict(title="EMA", run="a", reference="b")
    table = load_table(write_table(dict(name="a"), dict(name="b"), comparisons=[full], ablations=[average]), load_config)
    lines = comparisons.summary(table).splitlines()
    assert "| full data | not run | not run | not run | - |" in lines and "| EMA | not run | not run | b | - |" in lines
    write_runs(dict(a={0: None}))
    assert "| full data | not run (0 of 1 seeds, 1 failed) | not run | not run | 0.5 |" in comparisons.summary(table)


def test_names_in_a_table_are_text(write_table):
    path = write_table()
    path.write_text(
        "config: tiny.yaml\nranks: 1\nsettings:\n  on: [model.weights=007]\n"
        "runs:\n- {name: 2024_01}\n- {name: 1e3, settings: [on], seeds: [010]}\n"
    )
    first, second = load_table(path, load_config).jobs
    assert (first.run, second.run, second.config.model.weights) == ("2024_01_seed0", "1e3_seed10", "007")


def test_an_empty_table_is_one(run):
    assert run() == 0 and rows() == []
    table = load_table(RESULTS / "experiments.yaml", load_config)
    assert comparisons.summary(table) == "" and published.csv_text(table) == (RESULTS / "runs.csv").read_text()
