"""Draw a figure: the curves of runs, an evaluation, accuracy against alpha or cost, or the method.

    python tools/plot.py log --arm baseline results/cifar100/full_baseline_seed* --arm R-Drop results/cifar100/full_rdrop_seed*
    python tools/plot.py log --arm theirs downloads/vdlrecords.1650000000.log --tag train/loss eval/acc
    python tools/plot.py test results/vit_ti16_cifar100_rdrop/predictions.csv
    python tools/plot.py alpha results/cifar100/runs.csv --baseline few_baseline --runs few_rdrop few_rdrop_alpha12
    python tools/plot.py cost results/cifar100/runs.csv --runs few_baseline few_rdrop few_rdrop_shared4
    python tools/plot.py gain results/*/experiments.yaml results/glue/*/experiments.yaml
    python tools/plot.py method

They go to images/<name>.png, or to -o FILE, which ends in .png, .pdf or .svg. A run is its folder (metrics.jsonl), or any
VisualDL log; predictions.csv is of `tools/eval.py --predictions`, runs.csv of tools/run_experiments.py.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rdrop_paddle import UserError, command_line, tasks

FIGURES = {"log": "curves of runs over the updates", "test": "predictions: accuracy by class, confused pairs"}
FIGURES |= {"alpha": "the leading score against alpha", "cost": "the leading score against milliseconds per update"}
FIGURES |= {"gain": "R-Drop's gain against the KL of two passes that are trained without it"}
FIGURES |= {"method": "what R-Drop does"}


def parser():
    arguments = command_line.parser(__doc__)
    subparsers = arguments.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    figures = {name: subparsers.add_parser(name, help=words, description=words) for name, words in FIGURES.items()}
    of_log = dict(nargs="+", action="append", required=True, metavar="NAME RUN ...")
    figures["log"].add_argument("--arm", help="runs of an arm", **of_log)
    figures["log"].add_argument("--tag", nargs="+", help="of the logs, a panel each (default: training loss and leading score)")
    figures["test"].add_argument("predictions", help="CSV file of tools/eval.py --predictions")
    for name in ("alpha", "cost"):
        figures[name].add_argument("table", help="runs.csv")
        figures[name].add_argument("--runs", nargs="+", required=True, metavar="NAME", help="names of the runs, without seeds")
    for name in ("log", "alpha", "cost"):
        figures[name].add_argument(
            "--task", choices=tasks.TASKS, default=tasks.DEFAULT, help=f"of the runs (default: {tasks.DEFAULT})"
        )
        figures[name].add_argument(
            "-c", "--config", help="of the runs, where the leading score depends on the data, as GLUE's do"
        )
    figures["gain"].add_argument("tables", nargs="+", metavar="TABLE", help="experiments.yaml")
    figures["alpha"].add_argument("--baseline", required=True, metavar="NAME", help="name of the baseline's runs")
    for name, figure in figures.items():
        figure.add_argument("-o", "--output", default=ROOT / "images" / f"{name}.png", help=f"default: images/{name}.png")
    return arguments


def main():
    options = parser().parse_args()

    from rdrop_paddle.reporting import method_drawing, plots

    if options.figure == "test":
        from rdrop_paddle.vision import class_figure, class_predictions

        figure = class_figure.evaluation_figure(class_predictions.read(options.predictions))
    elif options.figure == "method":
        figure = method_drawing.method_figure()
    elif options.figure == "gain":
        from rdrop_paddle.reporting import gain_figure

        figure = gain_figure.draw(read_gains(options.tables))
    else:
        config = tasks.load_config(options.config, [] if options.config else [f"task={options.task}"])
        figure = of_runs(options, config.measure)
    plots.save(figure, options.output)
    print(f"wrote {options.output}")
    return 0


def of_runs(options, measure):
    from rdrop_paddle.reporting import plots

    if options.figure == "log":
        return plots.log_figure(read_arms(options.arm), measure, options.tag)
    names = [options.baseline, *options.runs] if options.figure == "alpha" else options.runs
    groups = plots.read_runs(options.table, names, measure)
    if options.figure == "alpha":
        return plots.alpha_figure(groups, options.baseline, measure)
    return plots.cost_figure(groups, measure)


def read_gains(paths):
    from rdrop_paddle.reporting import experiments
    from rdrop_paddle.reporting.gain_figure import gains_of

    found = [gain for path in paths for gain in gains_of(experiments.load_table(path, tasks.load_config))]
    if not found:
        raise UserError(f"{', '.join(paths)}: no comparison names finished runs of two passes without the KL (`doubled`)")
    return found


def read_arms(given):
    """{name: {path: log}}; tells of steps that hold several values."""
    from rdrop_paddle.reporting import curves

    arms = {}
    for name, *paths in given:
        if not paths or name in arms:
            raise UserError(f"--arm {name}: give each arm a name of its own and then its runs")
        arms[name] = {path: curves.read_log(path) for path in paths}
        for path, log in arms[name].items():
            for tag, (repeated, steps, most) in curves.repeated_steps(log).items():
                print(f"{path}: {tag} holds up to {most} values a step at {repeated} of {steps} steps: drawn as mean and range")
    return arms


if __name__ == "__main__":
    command_line.run(main)
