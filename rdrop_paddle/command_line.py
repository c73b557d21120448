"""What the tools share: arguments, exit status, and the process settings that must precede `import paddle`."""

import argparse
import os
import sys
import time
import warnings

from .errors import UserError

GRACE = 20  # seconds that a rank waits for its machine's first rank to fail the same way


def parser(doc):
    """An ArgumentParser whose errors are UserErrors; `doc` is the tool's docstring."""
    return _Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)


def config_parser(doc):
    """A `parser` with -c and -o."""
    arguments = parser(doc)
    arguments.add_argument("-c", "--config", required=True, help="YAML file, see configs/")
    arguments.add_argument(
        "-o", "--override", nargs="+", action="extend", default=[], metavar="key=value", help="e.g. train.steps=300"
    )
    return arguments


def run(main):
    """Exit with what `main()` returns; a UserError is printed in one line and gives exit status 2.

    Under the launcher the other ranks of a machine wait for its first, which as a rule fails the same way: the launcher
    then ends them and hands its status on; it would report a signal if one of them ended first. A fault that another rank
    alone meets, such as a broken image, ends the job too, with its message in that rank's log and the launcher's status.
    """
    prepare_cpu()
    warnings.filterwarnings("ignore", message="No ccache found")  # of Paddle's import; nothing is compiled here
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        if int(os.environ.get("PADDLE_LOCAL_RANK", 0)) > 0:
            time.sleep(GRACE)
        status = 2
    sys.stdout.flush()
    sys.exit(status)


def prepare_cpu():
    """Threads and MKL's kernels, unless the environment already chooses. Paddle must not have been imported."""
    local_ranks = int(os.environ.get("PADDLE_LOCAL_SIZE", os.environ.get("PADDLE_TRAINERS_NUM", 1)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(cores // local_ranks, 1)))
    if _is_amd():
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")  # else MKL picks kernels two to four times slower


def _is_amd():
    try:
        with open("/proc/cpuinfo") as file:
            return "AuthenticAMD" in file.read()
    except OSError:
        return False


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see --help")
