import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from conftest import ROOT
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from PIL import Image
from visualdl import LogWriter

from rdrop_paddle import UserError
from rdrop_paddle.reporting import method_drawing, plots
from rdrop_paddle.reporting.curves import read_log
from rdrop_paddle.vision import class_figure, class_predictions
from rdrop_paddle.vision.config import ImageClassificationConfig

MEASURE = ImageClassificationConfig.measure
RUNS = ROOT / "results" / "digits_quickstart"
COLUMNS = ["name", "status", "split", "correct", "total", "alpha", "passes", "shared_blocks", "milliseconds_per_update"]


@pytest.fixture
def plot(main_of, tmp_path, capsys):
    """plot("log", "--arm", ...) -> (the picture as an array, what was printed), by tools/plot.py in this process."""
    main = main_of("plot.py")

    def run(figure, *arguments):
        path = tmp_path / "figure.png"
        assert main(figure, "-o", path, *arguments) == 0
        return path, capsys.readouterr().out

    return run


@pytest.fixture
def table(tmp_path):
    """A runs.csv: a baseline, three values of alpha of three seeds each, one of which failed, and a trial."""
    rows = [["base", "finished", "test", 500 + 10 * seed, 1000, 0, 1, 0, 100 + seed] for seed in range(3)]
    for alpha, shared in ((0, 0), (1, 0), (4, 4)):
        rows += [
            [f"rdrop{alpha}", "finished", "test", 520 + 20 * seed + 10 * alpha, 1000, alpha, 2, shared, 180 - 10 * shared]
            for seed in range(3)
        ]
    rows += [["rdrop1", "failed", "test", "", "", 1, 2, 0, ""], ["trial", "finished", "val", 60, 100, 1, 2, 0, 180]]
    rows += [["rdrop1b", "finished", "test", 50, 100, 1, 2, 0, 180], ["broken", "failed", "test", "", "", 9, 2, 0, ""]]
    path = tmp_path / "runs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


@pytest.fixture
def answers(tmp_path):
    """A predictions.csv of 20 classes, 10 images each, a quarter of them wrong."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 10)
    predicted = np.where(rng.random(200) < 0.25, rng.integers(0, 20, 200), labels)
    path = tmp_path / "predictions.csv"
    class_predictions.write(path, class_predictions.Predictions(labels, predicted, [f"class {n}" for n in range(20)]))
    return path


def log_arguments():
    arms = (("baseline", "digits_baseline_seed"), ("R-Drop", "digits_rdrop_seed"))
    return [word for name, run in arms for word in ("--arm", name, *(RUNS / f"{run}{n}" for n in range(3)))]


def arguments_of(figure, table, answers):
    return {
        "log": ["log", *log_arguments()],
        "test": ["test", answers],
        "alpha": ["alpha", table, "--baseline", "base", "--runs", "rdrop0", "rdrop1", "rdrop4"],
        "cost": ["cost", table, "--runs", "base", "rdrop1", "rdrop4"],
        "gain": ["gain", ROOT / "results" / "cifar100" / "experiments.yaml"],
        "method": ["method"],
    }[figure]


@pytest.mark.parametrize("figure", ["log", "test", "alpha", "cost", "gain", "method"])
def test_each_figure_is_an_opaque_picture_and_the_same_bytes_again(plot, table, answers, figure):
    path, printed = plot(*arguments_of(figure, table, answers))
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGBA"))
        assert set(picture.info) <= {"dpi"}  # neither a date nor a version
    height, width, _ = pixels.shape
    assert width >= 1000 and 0.3 < height / width < 1 and (pixels[..., 3] == 255).all()
    assert (pixels[0] == 255).all() and 0.01 < (pixels[..., :3] < 250).any(axis=-1).mean() < 0.5  # ink on white
    assert printed == f"wrote {path}\n"
    first = path.read_bytes()
    plot(*arguments_of(figure, table, answers))
    assert path.read_bytes() == first


def texts(axes):
    return [text.get_text() for text in [*axes.texts, *(axes.get_legend().get_texts() if axes.get_legend() else [])]]


def test_the_log_shows_the_test_scores_with_their_range():
    arms = {"R-Drop": {n: {"train/loss": [(1, 2.0), (2, 1.0)], "test/accuracy": [(2, 0.5 + n / 10)]} for n in range(3)}}
    loss, accuracy = plots.log_figure(arms, MEASURE).axes
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("training loss", "accuracy, %")
    assert texts(accuracy) == ["R-Drop, test 60.00 (50.00 to 70.00)"]


def test_scores_of_the_last_update_alone_stand_beside_each_other():
    logs = {"r": {"train/loss": [(1, 2.0), (9, 1.0)], "val/accuracy": [(9, 0.4)], "test/accuracy": [(9, 0.5)]}}
    _, accuracy = plots.log_figure({"baseline": logs, "R-Drop": logs}, MEASURE).axes
    assert [label.get_text() for label in accuracy.get_xticklabels()] == ["held-out", "test"]
    points = [bar.lines[0].get_xydata()[0].tolist() for bar in accuracy.containers]
    np.testing.assert_allclose(points, [[-0.1, 40], [0.9, 50], [0.1, 40], [1.1, 50]])


@pytest.mark.parametrize("points", [False, True])
def test_legends_of_many_arms_hide_none_of_the_curves(points):
    logs = {"a": {"val/accuracy": [(1, 0.5)] if points else [(1, 0.5), (2, 0.6)], "train/loss": [(1, 1.0), (2, 0.5)]}}
    figure = plots.log_figure(dict.fromkeys(["baseline", "doubled", "R-Drop"], logs), MEASURE)
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert axes.get_legend().get_window_extent().y1 < axes.get_window_extent().y0


def test_several_values_of_a_step_are_reported_and_drawn_as_their_mean_and_range(plot, tmp_path):
    with LogWriter(logdir=str(tmp_path / "theirs")) as writer:
        for step in (100, 200):
            for value in (93.0, 94.0):
                writer.add_scalar("eval/acc", value + step / 100, step)
    _, printed = plot("log", "--arm", "theirs", tmp_path / "theirs", "--tag", "eval/acc")
    assert "eval/acc holds up to 2 values a step at 2 of 2 steps" in printed
    (axes,) = plots.log_figure({"theirs": {"a": read_log(tmp_path / "theirs")}}, MEASURE, ["eval/acc"]).axes
    assert axes.lines[0].get_xydata().tolist() == [[100, 94.5], [200, 95.5]]
    assert axes.collections[0].get_datalim(axes.transData).get_points().tolist() == [[100, 94], [200, 96]]
    assert axes.get_legend().get_title().get_text() == "mean and range (min to max)"


@pytest.mark.parametrize("suffix, magic", [("png", b"\x89PNG"), ("pdf", b"%PDF-"), ("svg", b"<?xml"), ("PDF", b"%PDF-")])
def test_a_figure_is_of_the_format_that_its_name_says_and_the_same_bytes_again(answers, tmp_path, suffix, magic):
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        plots.save(class_figure.evaluation_figure(class_predictions.read(answers)), path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second and first.startswith(magic)
    assert not any(word in first for word in (b"CreationDate", b"dc:date", b"Matplotlib v", b"Matplotlib pdf"))


@pytest.fixture
def fonts_of(monkeypatch):
    """fonts_of(path, ...) : there are matplotlib's fonts and these, which it has not listed yet."""

    def install(*paths):
        own = [font for font in fontManager.ttflist if Path(font.fname).is_relative_to(matplotlib.get_data_path())]
        monkeypatch.setattr(fontManager, "ttflist", own)
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(map(str, paths)))

    return install


def make_font(path, family, characters):
    """A TrueType font whose glyphs are squares."""
    pen = TTGlyphPen(None)
    for point in ((0, 0), (0, 800), (800, 800), (800, 0)):
        (pen.lineTo if pen.points else pen.moveTo)(point)
    pen.closePath()
    square, names = pen.glyph(), [".notdef", *(f"uni{ord(character):04X}" for character in characters)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap(dict(zip(map(ord, characters), names[1:])))
    font.setupGlyf(dict.fromkeys(names, square))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable(dict(familyName=family, styleName="Regular", psName=family))
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return path


def named(*names):
    """The figure of an evaluation whose classes have these names."""
    labels = np.arange(len(names))
    return class_figure.evaluation_figure(class_predictions.Predictions(labels, np.roll(labels, 1), list(names)))


def test_names_that_the_usual_font_lacks_are_drawn_by_one_that_is_installed(fonts_of, tmp_path, capsys, recwarn):
    fonts_of(make_font(tmp_path / "a.ttf", "One", "\u732b"), make_font(tmp_path / "b.ttf", "Both", "\u732b\u72d7"))
    plots.save(named("\u732b", "\u72d7", "Tier \u00c4"), tmp_path / "figure.pdf")
    fonts = set(re.findall(rb"/FontName /\w+\+(\w+)", (tmp_path / "figure.pdf").read_bytes()))
    assert {b"Both", b"DejaVuSans"} <= fonts and b"One" not in fonts
    assert capsys.readouterr() == ("", "") and not recwarn


def test_names_that_no_font_can_show_are_said_in_one_line(fonts_of, tmp_path, capsys, recwarn):
    fonts_of(make_font(tmp_path / "a.ttf", "One", "\u732b"))
    plots.save(named("\u732b", "\u72d7\u72d7", "fish"), tmp_path / "figure.png")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"no font on this machine has \u72d7: boxes in {tmp_path / 'figure.png'}; install one")
    assert not recwarn


def test_the_users_matplotlibrc_chooses_the_font(tmp_path):
    (tmp_path / "matplotlibrc").write_text("font.family: DejaVu Serif\n")
    pdfs = []
    for environment in ({}, {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}):
        path = tmp_path / f"{len(pdfs)}.pdf"
        command = [sys.executable, ROOT / "tools" / "plot.py", "log", *log_arguments(), "-o", path]
        subprocess.run(list(map(str, command)), env={**os.environ, **environment}, check=True)
        pdfs.append(path.read_bytes())
    assert [b"DejaVuSerif" in pdf for pdf in pdfs] == [False, True]
    assert [b"DejaVuSans" in pdf for pdf in pdfs] == [True, False]


def test_a_baselines_cross_entropy_is_not_drawn_twice():
    logs = {name: {"r": {"train/loss": [(1, 2.0), (2, 1.0)], "train/ce": [(1, ce), (2, ce)], "val/accuracy": [(1, 0.1)]}}
            for name, ce in (("R-Drop", 0.5),)}  # fmt: skip
    logs["baseline"] = {"r": {**logs["R-Drop"]["r"], "train/ce": [(1, 2.0), (2, 1.0)]}}
    loss, _ = plots.log_figure(logs, MEASURE).axes
    assert texts(loss) == ["R-Drop, loss", "R-Drop, cross entropy alone", "baseline, loss"]


def test_the_evaluation_names_the_best_the_worst_and_the_confused(answers):
    found = class_predictions.read(answers)
    left, right = class_figure.evaluation_figure(found, named=2, pairs=3).axes
    assert left.get_title("left") == f"accuracy {found.correct / 2:.2f} % ({found.correct}/200)"
    heights = left.lines[0].get_ydata()
    assert len(heights) == 20 and (np.diff(heights) >= 0).all() and heights.mean() == pytest.approx(found.correct / 2)
    worst, best = (text.get_text().splitlines() for text in left.texts if "\n" in text.get_text())
    assert [float(line.split()[-1]) for line in worst[1:]] == heights[:2].tolist()
    assert [float(line.split()[-1]) for line in best[1:]] == heights[:-3:-1].tolist()
    wrong = (found.labels != found.predicted).sum()
    counts = [bar.get_width() for bar in right.patches]
    assert len(counts) == 3 and counts == sorted(counts, reverse=True) and sum(counts) < wrong
    label, predicted = right.get_yticklabels()[0].get_text().split(" → ")
    pair = (found.labels == int(label.split()[1])) & (found.predicted == int(predicted.split()[1]))
    assert pair.sum() == counts[0]


def test_accuracy_against_alpha_and_cost_is_the_mean_over_the_finished_runs(table):
    groups = plots.read_runs(table, ["base", "rdrop0", "rdrop1", "rdrop4"], MEASURE)
    assert [len(runs) for runs in groups.values()] == [3, 3, 3, 3]
    (axes,) = plots.alpha_figure(groups, "base", MEASURE).axes
    assert axes.lines[0].get_ydata() == pytest.approx([51, 51])
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[0, 54], [1, 55], [4, 58]])
    assert texts(axes) == ["baseline, mean and range of 3 seeds", "R-Drop, mean and range of 3 seeds"]
    assert axes.get_ylabel() == "test accuracy, %"
    assert [axes.patches[0].get_y(), axes.patches[0].get_height()] == pytest.approx([50, 2])
    figure = plots.cost_figure(groups, MEASURE)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert 100 * axes.child_axes[0].get_xlim()[1] == pytest.approx(axes.get_xlim()[1])  # in updates of the baseline
    points = [container.lines[0].get_xydata()[0].tolist() for container in axes.containers]
    np.testing.assert_allclose(points, [[100, 51], [180, 54], [180, 55], [140, 58]])
    assert texts(axes) == ["baseline", "two passes without KL", "R-Drop", "R-Drop, 4 blocks shared"]
    twice = plots.cost_figure({"one": groups["rdrop1"], "other": groups["rdrop1"]}, MEASURE)
    assert texts(twice.axes[0]) == ["R-Drop (one)", "R-Drop (other)"]


def test_the_drawing_says_the_loss():
    words = "".join(text.get_text() for text in method_drawing.method_figure().findobj(Text))
    for letter in "PQ":
        assert rf"\mathrm{{CE}}({letter},\, y)" in words and rf"\mathrm{{CE}}({letter}, y)" in words
    assert words.count(r"\mathrm{KL}(P") == words.count(r"\mathrm{KL}(Q") == 2  # in its box, and in the formula
    assert words.count(r"\alpha") == 2


def test_what_cannot_be_drawn_is_a_user_error(plot, table, answers, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    for arguments, words in (
        (["log", "--arm", "baseline"], "--arm baseline: give each arm a name of its own and then its runs"),
        (["log", "--arm", "a", RUNS / "absent"], "there is no .*absent"),
        (["log", *log_arguments(), "--tag", "train/los"], "has no tag train/los: choose with --tag of .*train/loss"),
        (["test", tmp_path / "absent.csv"], "cannot read .*absent.csv"),
        (["test", other], "is no file of predictions"),
        (["alpha", tmp_path / "absent.csv", "--baseline", "a", "--runs", "b"], "cannot read .*absent.csv"),
        (["alpha", other, "--baseline", "a", "--runs", "b"], "is no table of runs"),
        (["alpha", table, "--baseline", "base", "--runs", "many"], "no finished run named many, but base, rdrop0, rdrop1,"),
        (["alpha", table, "--baseline", "base", "--runs", "base"], "nothing but the baseline base"),
        (
            ["alpha", table, "--baseline", "base", "--runs", "rdrop1", "rdrop4", "rdrop1b"],
            "two of base, .* have the same alpha",
        ),
        (["cost", table, "--runs", "base", "broken"], "no finished run named broken"),
        (["cost", table, "--runs", "base", "trial"], "partly on test, partly on held-out data"),
        (["gain", ROOT / "results" / "dialogsum" / "experiments.yaml"], "no comparison names finished runs of two passes"),
        (["method", "-o", tmp_path / "absent" / "figure.png"], "cannot write .*figure.png: No such file or directory"),
        (["method", "-o", "figure.jpg"], "figure.jpg: a figure's name ends in .png, .pdf, .svg"),
        (["method", "-o", "figure"], "figure: a figure's name ends in .png, .pdf, .svg"),
        (["other"], "invalid choice: 'other'"),
    ):
        with pytest.raises(UserError, match=words):
            plot(*arguments)


def test_a_users_error_is_one_line_and_status_2(tmp_path):
    command = [sys.executable, ROOT / "tools" / "plot.py", "log", "--arm", "mine", tmp_path / "absent"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: there is no {tmp_path / 'absent'}: give a run folder, or a VisualDL log\n"
