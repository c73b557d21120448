"""What the README says is so: its commands parse, its code runs, its numbers are those in results/."""

import csv
import functools
import json
import re
import statistics

import pytest
import yaml
from conftest import BASE, ROOT

from rdrop_paddle import load_config
from rdrop_paddle.reporting import comparisons, experiments, published

README, CHINESE = ((ROOT / name).read_text() for name in ("README.md", "README_cn.md"))
BLOCKS = {language: re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) for language in ("bash", "python")}
LINES = [line for block in BLOCKS["bash"] for line in block.splitlines()]
COMMANDS = [line for line in [*LINES, *re.findall(r"`(python tools/[^`]*)`", README)] if "tools/" in line]
GLUE = {"rte": "accuracy", "mrpc": "accuracy", "cola": "Matthews", "stsb": "Pearson"}  # what weights are selected by
PUBLISHED = {  # a table in results/: the pages that have its rows
    "cifar100": ["docs/cifar100.md", "results/cifar100/README.md"],
    **{name: [f"results/{name}/README.md"] for name in ("cifar100_longer", "multi30k", "war_and_peace", "dialogsum")},
    **{f"glue/{name}": ["results/glue/README.md"] for name in GLUE},
}
SEEN = {  # a recipe in configs/: a run of it in results/
    f"{recipe}_{arm}": f"{run}_{arm}_seed0"
    for arm in ("baseline", "rdrop")
    for recipe, run in {
        "multi30k_deen": "multi30k/deen_short",
        "multi30k_tiny_deen": "multi30k/full",
        "war_and_peace": "war_and_peace/short",
        "dialogsum": "dialogsum/short",
        **{f"minilm_{name}": f"glue/{name}/{name}" for name in GLUE},
    }.items()
}
T_95 = 2.776  # Student's t for a 95 % interval over five pairs


@pytest.mark.parametrize("page", [README, CHINESE])
def test_it_is_short_enough_to_be_read(page):
    assert len(page.splitlines()) <= 250


def commands_and_figures(page):
    """What is no prose: lines of code without comments, code in the text, links, and the numbers of each row of a table."""
    blocks = re.findall(r"```(?:bash|python)\n(.*?)```", page, re.DOTALL)
    code = [re.split(r"(?:^|\s+)#", line)[0] for block in blocks for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    inline = sorted(re.findall(r"`([^`\n]+)`", prose))
    links = sorted(set(re.findall(r"\]\(([^)]+)\)", prose)) - {"README.md", "README_cn.md"})
    rows = [re.findall(r"\d+(?:\.\d+)?", line) for line in prose.splitlines() if line.startswith("|")]
    return list(filter(None, code)), inline, links, rows


def test_the_chinese_readme_says_the_same():
    for english, chinese in zip(commands_and_figures(README), commands_and_figures(CHINESE)):
        assert english == chinese


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_a_tool_and_a_valid_config(command):
    words = command.split()
    (tool,) = [word for word in words if word.startswith("tools/")]
    assert (ROOT / tool).exists()
    if "-c" not in words:
        return
    overrides = [word for word in words[words.index("-o") + 1 :] if "=" in word] if "-o" in words else []
    load_config(ROOT / words[words.index("-c") + 1], overrides)


def test_the_python_code_runs():
    assert BLOCKS["python"]
    for block in BLOCKS["python"]:
        exec(block, {})


def test_every_setting_of_the_table_is_valid():
    table = README.partition("| to | set |")[2].partition("\n\n")[0]
    settings = [re.findall(r"[a-z_.]+=[\w.]+", line) for line in table.splitlines() if line.startswith("| ")]
    assert len(settings) >= 6 and all(settings)
    for overrides in settings:
        load_config(BASE, [override.replace("=N", "=3") for override in overrides])


def test_the_alignment_table_is_the_last_run():
    _, table, features = (ROOT / "results" / "alignment" / "summary.md").read_text().strip().split("\n\n")
    page = (ROOT / "docs" / "alignment.md").read_text()
    assert table in page and features in page and "FAIL" not in table
    assert table.count("| PASS |") == 44 and "in all forty-four rows" in README


def test_the_quickstarts_numbers_are_those_of_its_five_runs():
    with (ROOT / "results" / "digits_quickstart" / "seeds.csv").open() as file:
        rows = list(csv.DictReader(file))
    accuracy = {
        arm: [100 * int(row["test_correct"]) / int(row["test_total"]) for row in rows if row["arm"] == arm]
        for arm in ("baseline", "R-Drop")
    }
    page = " ".join((ROOT / "docs" / "cifar100.md").read_text().split())
    differences = [after - before for before, after in zip(accuracy["baseline"], accuracy["R-Drop"])]
    assert len(differences) == 5
    mean, half = statistics.mean(differences), T_95 * statistics.stdev(differences) / 5**0.5
    for arm, values in accuracy.items():
        assert f" {statistics.mean(values):.2f} +- {statistics.stdev(values):.2f} for " in page, arm
    assert f"{mean:+.2f} points (95 % interval {mean - half:+.2f} to {mean + half:+.2f})" in page


@functools.cache
def published_table(name):
    """(Experiments, text of runs.csv) of a table in results/; the working directory must be the project's."""
    table = experiments.load_table(f"results/{name}/experiments.yaml", load_config)
    return table, (ROOT / "results" / name / "runs.csv").read_text()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_results_are_those_of_the_published_runs(name, monkeypatch):
    monkeypatch.chdir(ROOT)  # a table's paths are relative to it
    table, runs = published_table(name)
    published.check(table)
    assert published.csv_text(table) == runs
    shown = [line for page in PUBLISHED[name] for line in (ROOT / page).read_text().splitlines()]
    for line in comparisons.summary(table).splitlines():
        assert line in shown, line


def test_the_readmes_results_are_rows_of_the_tables(monkeypatch):
    monkeypatch.chdir(ROOT)
    summaries = [comparisons.summary(published_table(name)[0]).split("\n\n")[0].splitlines()[2:] for name in PUBLISHED]
    mean = comparisons.mean_row([published_table(f"glue/{name}")[0] for name in GLUE])
    assert mean in (ROOT / "results" / "glue" / "README.md").read_text().splitlines()
    summaries.append([mean])
    section = README.partition("\n## Results\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    shown = ["| " + " | ".join(cells[1:6]) + " |" for cells in rows]
    for row in shown:
        assert any(row in rows for rows in summaries), row
    for rows in summaries:
        assert rows[0] in shown, rows[0]


def test_the_trials_on_cifar_are_those_of_the_published_runs():
    page = (ROOT / "results" / "cifar100" / "README.md").read_text()
    rows = [row for row in csv.DictReader((ROOT / "results" / "cifar100" / "runs.csv").open()) if row["split"] == "val"]
    assert len(rows) == 10
    for row in rows:
        alpha = f"{float(row['alpha']):g}" if row["passes"] == "2" else "-"
        cells = [row["lr"], f"{float(row['drop_rate']):g}", alpha, f"{100 * int(row['correct']) / int(row['total']):.2f}"]
        assert f"| {' | '.join(cells)} |" in page.replace("**", ""), row["run"]


@pytest.mark.parametrize("name", GLUE)
def test_the_trials_on_glue_are_those_of_the_published_runs(name):
    page = (ROOT / "results" / "glue" / "README.md").read_text()
    folder = ROOT / "results" / "glue" / name
    for row in csv.DictReader((folder / "runs.csv").open()):
        logged = map(json.loads, (folder / row["run"] / "metrics.jsonl").read_text().splitlines())
        held_out = [100 * values[GLUE[name]] for values in logged if values.get("split") == "val"]
        alpha = f"{float(row['alpha']):g}" if row["passes"] == "2" else "-"
        shown = f"| {name} | {float(row['lr']):g} | {alpha} | {', '.join(f'{score:.2f}' for score in held_out)} |"
        assert len(held_out) == 3 and (shown in page or row["seed"] != "0"), row["run"]


@pytest.mark.parametrize("config, run", SEEN.items())
def test_what_a_recipe_says_was_seen_is_what_its_run_ended_with(config, run):
    final = json.loads((ROOT / "results" / run / "metrics.jsonl").read_text().splitlines()[-1])
    recipe = ROOT / "configs" / f"{config}.yaml"
    (score,) = re.findall(r"Seen: (?:test [\w-]+ )?(\d+\.\d+)", recipe.read_text())
    assert score == f"{load_config(recipe).measure.shown(final):.2f}"


def test_the_translations_score_is_on_its_page():
    page = (ROOT / "docs" / "translation.md").read_text()
    assert (ROOT / "results" / "multi30k" / "full_rdrop_seed0" / "eval.txt").read_text() in page


SPEED = ROOT / "results" / "speed"
SPEEDS = (ROOT / "docs" / "speed.md").read_text()


def digits(speed):
    return f"{speed:,.0f}" if speed >= 1000 else f"{speed:.3g}"


def speed_row(path):
    """The page's cells of one comparison: speeds, their ratio, peak memory."""
    found = json.loads(path.read_text())
    (unit,) = {key for key in found["rounds"][0][0] if key.endswith("_per_second")} - {"updates_per_second"}
    sides = list(zip(*found["rounds"]))
    speeds, memory = ([statistics.median(m[key] for m in side) for side in sides] for key in (unit, "peak_memory"))
    ratio = found["ratio"]
    assert len(ratio["pairs"]) >= 5
    assert found["sides"][1]["framework"] == "torch"
    return (
        f"| {digits(speeds[0])} | {digits(speeds[1])} | {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}) "
        f"| {memory[0]:.2f} / {memory[1]:.2f} |"
    )


def test_the_speeds_are_those_that_were_measured():
    rows = [line for line in SPEEDS.splitlines() if re.match(r"\|.* to \d+\.\d+\)", line)]
    found = [speed_row(path) for path in sorted(SPEED.glob("*_torch.json"))]
    assert len(rows) == len(found) >= 9
    for row in found:
        assert any(line.endswith(row) for line in rows), row


def test_the_speeds_are_of_one_machine():
    machines = [json.loads(path.read_text())["machine"] for path in SPEED.glob("*.json")]
    assert all(machine == machines[0] for machine in machines)
    assert f"{machines[0]['cores']} cores of an {machines[0]['processor']}" in " ".join(SPEEDS.split())


def test_the_readmes_speeds_are_those_of_the_page():
    section = README.partition("## Speed")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    cells = [line.strip("| ").split(" | ") for line in SPEEDS.splitlines() if line.startswith("| ")]
    assert len(rows) >= 3
    for case, ratio, memory in rows:
        assert any(row[0] == case and row[-2].startswith(f"{ratio} (") and row[-1] == memory for row in cells), case


@pytest.mark.parametrize(
    "name, words",
    [
        ("shared_blocks_0", "an R-Drop update costs {cost:.2f} baseline updates"),
        ("shared_blocks_6", "with `rdrop.shared_blocks=6`, half of the blocks, {cost:.2f}"),
        ("two_ranks", "two ranks of one thread train {ratio:.2f} times as many images a second as one"),
    ],
)
def test_the_costs_are_those_that_were_measured(name, words):
    ratio = json.loads((SPEED / f"{name}.json").read_text())["ratio"]
    assert len(ratio["pairs"]) >= 5
    assert words.format(cost=1 / ratio["median"], ratio=ratio["median"]) in " ".join(SPEEDS.split())


@pytest.mark.parametrize(
    "name, words",
    [
        ("translation_cost", "an R-Drop update costs {cost} baseline updates"),
        ("translation_cost_shared", "with the whole encoder shared (`rdrop.shared_blocks=3`) {cost}"),
        ("translation_cost_shared_iwslt", "(`rdrop.shared_blocks=6`) it costs {cost}"),
    ],
)
def test_the_costs_of_translation_are_those_that_were_measured(name, words):
    ratio = json.loads((SPEED / f"{name}.json").read_text())["ratio"]
    assert len(ratio["pairs"]) >= 5
    cost = f"{1 / ratio['median']:.2f} ({1 / ratio['max']:.2f} to {1 / ratio['min']:.2f})"
    assert words.format(cost=cost) in " ".join(SPEEDS.split())


def test_the_paper_to_cite_is_the_same_everywhere():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in cited["authors"])
    for page in (README, CHINESE):
        entry = dict(re.findall(r"^  (\w+) += \{(.*)\}", page, re.MULTILINE))
        assert entry == dict(title=cited["title"], author=authors, booktitle=cited["collection-title"], year=str(cited["year"]))
