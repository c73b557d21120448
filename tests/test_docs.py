"""The guides' commands run as written on made images and texts, and what the pages of docs/ say can be set can be set."""

import itertools
import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from conftest import BASE, ROOT, tool_environment
from PIL import Image

from benchmarks.image_classification import forward_flop
from rdrop_paddle import load_config
from rdrop_paddle.vision.architectures import with_numbers

GUIDE, TEXT_GUIDE, GPUS = ((ROOT / "docs" / name).read_text() for name in ("own_data.md", "own_text.md", "gpu.md"))
(COMMANDS, TRIAL), (TEXT_COMMANDS, TEXT_TRIAL) = (
    re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for page in (GUIDE, TEXT_GUIDE)
)
TEXT_BASE = ROOT / "configs" / "own_text.yaml"
GENERATION = [
    line
    for name in ("translation", "language_modelling", "summarisation", "weights")
    for line in re.findall(r"python .*?tools/[^`\n]*", (ROOT / "docs" / f"{name}.md").read_text())
    if " -c " in line
]
COLOURS = {"rose": (200, 30, 40), "tulip": (220, 200, 30), "violet": (90, 30, 200)}


@pytest.fixture
def workplace(tmp_path):
    """A folder as the guide has it: the tools and configs, flowers/ with images of many sizes, and photo.jpg of a violet."""
    rng = np.random.default_rng(0)

    def photograph(colour, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(-60, 60, [*rng.integers(20, 60, 2), 3])
        Image.fromarray((np.asarray(colour) + noise).clip(0, 255).astype("uint8")).save(path)

    for folder in ("tools", "configs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    for part, count in (("train", 20), ("val", 6)):
        for name, colour in COLOURS.items():
            for number in range(count):
                photograph(colour, tmp_path / "flowers" / part / name / f"{number}.jpg")
    photograph(COLOURS["violet"], tmp_path / "photo.jpg")
    return tmp_path


def overrides(command):
    words = shlex.split(command)
    return [word for word in words[words.index("-o") + 1 :] if "=" in word]


def run(command, folder, more=()):
    """A command of the guide, with more overrides; its output."""
    python, *words = shlex.split(command)
    assert python == "python"
    words += ["-o", *more] if more else []
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=tool_environment(folder), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_guides_four_commands_run_as_written(workplace):
    train, evaluate, export, predict = COMMANDS.strip().splitlines()
    tiny = [override for override in overrides(TRIAL) if override not in overrides(train) and not override.startswith("name=")]
    log = run(train, workplace, tiny)
    assert "training images  54, 1 updates an epoch, 40 updates in all" in log  # 20 of each class, less a tenth
    final = json.loads((workplace / "output" / "flowers" / "metrics.jsonl").read_text().splitlines()[-1])
    assert final["total"] == 18 and final["accuracy"] > 0.8  # chance is 1/3
    last_line = run(evaluate, workplace).strip().splitlines()[-1]
    assert last_line == f"accuracy {final['accuracy']:.4f} ({final['correct']}/18)"
    (longer,) = re.findall(r"^`(python tools/train.py .*keep_head.*)`$", GUIDE, re.MULTILINE)
    assert "reset" not in run(longer, workplace, ["train.steps=4", "train.warmup_steps=1"])
    assert (workplace / "output" / "longer" / "best.safetensors").exists()
    run(export, workplace)
    exported = workplace / shlex.split(export)[-1]
    assert any(path.suffix == ".pdiparams" for path in exported.iterdir())
    found = run(predict, workplace)
    assert min(COLOURS, key=lambda name: found.index(name)) == "violet", found


@pytest.mark.parametrize("command", GENERATION)
def test_every_command_of_the_pages_on_text_and_weights_names_a_tool_and_a_valid_config(command):
    words = shlex.split(command)
    assert (ROOT / next(word for word in words if word.startswith("tools/"))).exists()
    load_config(ROOT / words[words.index("-c") + 1], overrides(command) if "-o" in words else [])


@pytest.fixture
def text_workplace(tmp_path):
    """A folder as the guide has it: reviews/ with tables, new.txt with a good and a bad one, and words for tokens."""
    rng = np.random.default_rng(0)
    words = {"positive": ["charming", "lovely"], "negative": ["boring", "empty"], "": ["the", "plot", "is", "and", "cast"]}

    def row(label):
        return " ".join(rng.permutation([*rng.choice(words[""], 4), *rng.choice(words[label], 2)]))

    for folder in ("tools", "configs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "reviews").mkdir()
    for part, count in (("train", 40), ("test", 12)):
        rows = [(row(label), label) for label in ("positive", "negative") for _ in range(count)]
        table = "".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows])
        (tmp_path / "reviews" / f"{part}.tsv").write_text(table)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(word for some in words.values() for word in some)]
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.txt").write_text("\n".join(tokens) + "\n")
    (tmp_path / "new.txt").write_text("the lovely cast is charming\n\nthe boring plot is empty\n")
    return tmp_path


def test_the_four_commands_for_texts_run_as_written(text_workplace):
    train, evaluate, predict, export = TEXT_COMMANDS.strip().splitlines()
    tiny = [change for change in overrides(TEXT_TRIAL) if change not in overrides(train) and not change.startswith("name=")]
    log = run(train, text_workplace, [*tiny, "model.tokenizer=words"])
    assert "examples         72, 4 updates an epoch, 60 updates in all" in log  # 40 of each class, less a tenth
    final = json.loads((text_workplace / "output" / "reviews" / "metrics.jsonl").read_text().splitlines()[-1])
    assert final["total"] == 24 and final["accuracy"] > 0.8  # chance is 1/2
    for path in ("reviews/train.tsv", "words/vocab.txt"):  # what is needed has gone into the run folder
        (text_workplace / path).unlink()
    assert run(evaluate, text_workplace).strip().splitlines()[-1] == f"accuracy {final['accuracy']:.4f} ({final['correct']}/24)"
    good, empty, bad = run(predict, text_workplace).splitlines()
    assert good.split("\t")[0] == "positive" and empty == "" and bad.split("\t")[0] == "negative"
    run(export, text_workplace)
    assert any(path.suffix == ".pdiparams" for path in (text_workplace / shlex.split(export)[-1]).iterdir())


@pytest.mark.parametrize("config, trial", [("own_data", TRIAL), ("own_text", TEXT_TRIAL)])
def test_the_trial_is_a_valid_configuration(config, trial):
    load_config(ROOT / "configs" / f"{config}.yaml", overrides(trial))


def settings(text):
    """Each `key=value ...` between backticks as a list of overrides, with 3 for N."""
    for span in re.findall(r"`([^`\n]+)`", text):
        words = shlex.split(span) if "=" in span else []
        if words and all(re.fullmatch(r"([a-z_]+\.[a-z_]+|name)=\S+", word) for word in words):
            yield [re.sub("=N$", "=3", word) for word in words]


PAGES_OF_SETTINGS = [("own_data.md", 12, BASE), ("own_text.md", 14, TEXT_BASE), ("questions.md", 8, BASE), ("gpu.md", 5, BASE)]


@pytest.mark.parametrize("page, least, config", PAGES_OF_SETTINGS)
def test_every_setting_that_a_page_names_is_valid(page, least, config):
    found = list(settings((ROOT / "docs" / page).read_text()))
    assert len(found) >= least
    for some in found:
        load_config(config, some)


PAGES = [
    path
    for pattern in ("*.md", "docs/*.md", "results/*/README.md", "benchmarks/*.md")
    for path in sorted(ROOT.glob(pattern))
    if not path.name.startswith(".")
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (page.parent / link).exists(), link
    for name in re.findall(
        r"\b(?:benchmarks|configs|docs|examples|images|rdrop_paddle|results|tests|tools)/[\w/.]*(?:\.\w+|/)", text
    ):
        assert (ROOT / name).exists(), name


def test_the_answers_numbers_are_the_other_pages():
    texts = {
        name: " ".join((ROOT / name).read_text().split()) for name in ("docs/cifar100.md", "docs/speed.md", "docs/questions.md")
    }
    for page, numbers in {
        "docs/cifar100.md": ("34.41", "50.15", "-1.31 to +2.09"),
        "docs/speed.md": ("costs 1.93 baseline updates", "1.33", "1.93 times"),
    }.items():
        for number, name in itertools.product(numbers, (page, "docs/questions.md")):
            assert number in texts[name], f"{number} is not in {name}"


def test_the_estimated_hours_follow_from_the_work_and_the_shares():
    """318 TFLOP an update, of which the last block's other tokens and the pixels' gradient are left out."""
    model = with_numbers(load_config(ROOT / "configs" / "vit_b16_cifar100_rdrop.yaml").model)
    tokens, width = 1 + (model.image_size // model.patch_size) ** 2, model.embed_dim
    spared = 2 * (tokens - 1) * (width**2 * (1 + 2 * model.mlp_ratio) + 2 * tokens * width)  # projection and MLP; attention
    embedding = 2 * (tokens - 1) * 3 * model.patch_size**2 * width
    update = 512 * (6 * (forward_flop(model) - spared) - 4 * embedding)  # embedded once for both passes, no gradient of pixels
    assert update / 1e12 == pytest.approx(318, rel=0.005)
    rows = re.findall(r"^\| \w+ \| [^|]+ \| ([\d.]+) \| (\d+) % \| ([\d.]+) \| ([\d.]+) \|$", GPUS, re.MULTILINE)
    assert len(rows) == 4
    for peak, share, alone, four in (map(float, row) for row in rows):
        hours = 10_000 * update / (peak * 1e12 * share / 100) / 3600
        assert alone == pytest.approx(hours, rel=0.02) and four == pytest.approx(hours / 4, rel=0.15)
