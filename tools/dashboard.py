"""Show runs in a browser: curves, augmented images and hyper-parameters, by VisualDL on this machine. Ctrl-C ends it.

python tools/dashboard.py
python tools/dashboard.py results/digits_quickstart
python tools/dashboard.py output/digits_rdrop_seed0 --port 8080 --language zh
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rdrop_paddle import UserError, command_line

HOST = "127.0.0.1"  # this machine alone: VisualDL lets anybody in
PORTS = range(8040, 8140)  # from VisualDL's own on


def main():
    locale = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    arguments = command_line.parser(__doc__)
    arguments.add_argument("folder", nargs="?", type=Path, default=Path("output"), help="of one run or many (default: output)")
    arguments.add_argument("--port", type=command_line.positive, help=f"(default: the first free one from {PORTS[0]} on)")
    arguments.add_argument("--language", choices=["en", "zh"], default="zh" if locale.startswith("zh") else "en")
    options = arguments.parse_args()
    runs = find_runs(options.folder)
    if not runs:
        raise UserError(f"{options.folder} holds no run: python tools/train.py -c configs/digits_quickstart.yaml makes one")
    candidates = [options.port] if options.port else PORTS
    if (port := next((port for port in candidates if port < 2**16 and not answers(port)), None)) is None:
        raise UserError(f"port {options.port or f'{PORTS[0]} to {PORTS[-1]}'} is not free: give another --port")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
    with contextlib.suppress(KeyboardInterrupt):
        while True:  # anew when runs come or go: VisualDL fails at a log that is gone, such as that of a run that is continued
            runs = show(options.folder, runs, port, options.language)


def find_runs(folder):
    """{name: newest VisualDL log} of the runs in `folder`, or of the one that it is."""
    base, runs = folder.absolute(), {}
    for log in sorted(base.rglob("vdlrecords.*.log")):
        run = log.parent.parent if log.parent.name == "vdl" else log.parent
        runs[" ".join(run.parts[len(base.parts) :]) or run.name] = log
    return runs


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def show(folder, runs, port, language):
    """Have VisualDL serve `runs` until `folder` holds others; returns those."""
    settings = ["--host", HOST, "--port", str(port), "--language", language, "--disable-telemetry"]
    with tempfile.TemporaryDirectory() as names, tempfile.TemporaryFile("w+") as log, contextlib.ExitStack() as at_the_end:
        for name, file in runs.items():
            Path(names, name).symlink_to(file.parent)  # VisualDL calls a run by its path
        command = [sys.executable, "-m", "visualdl.server.app", "--logdir", *runs, *settings]
        server = at_the_end.enter_context(subprocess.Popen(command, cwd=names, stdout=log, stderr=log))  # waits for its end
        at_the_end.callback(server.terminate)
        answered = False
        while server.poll() is None and (found := find_runs(folder) or runs) == runs:
            if not answered and (answered := answers(port)):
                print(f"{len(runs)} run(s) of {folder}: http://{HOST}:{port}", flush=True)
            time.sleep(0.5)
        if server.poll() is not None:
            log.seek(0)
            raise UserError(f"VisualDL ended: {log.read().strip().rpartition(chr(10))[2]}")
    return found


if __name__ == "__main__":
    command_line.run(main)
