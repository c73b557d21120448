"""Train what is missing of a table of runs, one after the other, and publish each beside the table; finished ones are skipped.

    python tools/run_experiments.py results/cifar100/experiments.yaml
    python tools/run_experiments.py results/cifar100/experiments.yaml --only 'few_*'
    python tools/run_experiments.py results/cifar100/experiments.yaml --summary
    python tools/run_experiments.py results/glue/*/experiments.yaml --summary

After Ctrl-C, SIGTERM or a power cut the same command goes on from the last checkpoint. rdrop_paddle/reporting/experiments.py
tells the table's format; run folders are in output/experiments/, where a run is followed with `tail -f <run>/train.log`.
Exit status: 0 when nothing is missing, 1 when a run failed or a signal ended this, 2 for bad usage or a bad table.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rdrop_paddle import UserError, command_line, load_config
from rdrop_paddle.reporting import comparisons, experiments


def main():
    arguments = command_line.parser(__doc__)
    arguments.add_argument("tables", nargs="+", metavar="TABLE", help="YAML file; several with --summary")
    arguments.add_argument("--only", default="*", metavar="PATTERN", help="runs to start, e.g. 'few_*' or '*_seed0'")
    arguments.add_argument("--summary", action="store_true", help="only print the README's tables of what is published")
    options = arguments.parse_args()
    tables = [experiments.load_table(table, load_config) for table in dict.fromkeys(options.tables)]
    if not options.summary:
        if len(tables) > 1:
            raise UserError(f"{len(tables)} tables are given, of which one is trained at a time: give one, or --summary")
        return experiments.run_missing(tables[0], Path(__file__).with_name("train.py"), options.only)
    print("\n\n".join(filter(None, map(comparisons.summary, tables))))
    compared = len(tables) > 1 and all(table.table.comparisons for table in tables)
    if compared and len({table.jobs[0].config.task for table in tables}) == 1:  # scores of several are none to add
        print("\n" + comparisons.mean_row(tables))
    return 0


if __name__ == "__main__":
    command_line.run(main)
