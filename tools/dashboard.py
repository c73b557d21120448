"""Show runs in a browser: curves, augmented images and hyper-parameters, by VisualDL on this machine. Ctrl-C ends it.

python tools/dashboard.py
python tools/dashboard.py results/digits_quickstart
python tools/dashboard.py output/digits_rdrop_seed0 --port 8080 --language zh

Runs on another machine: start it there, say `ssh -L 8040:127.0.0.1:8040 THAT_MACHINE` here, and open http://127.0.0.1:8040.
"""

import contextlib
import errno
import http.client
import ipaddress
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
ANY = ("0.0.0.0", "::")  # all addresses of this machine
PORTS = range(8040, 8140)  # from VisualDL's own on


def main():
    locale = next(filter(None, map(os.environ.get, ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    arguments = command_line.parser(__doc__)
    arguments.add_argument("folder", nargs="?", type=Path, default=Path("output"), help="of one run or many (default: output)")
    arguments.add_argument("--port", type=command_line.positive, help=f"(default: the first free one from {PORTS[0]} on)")
    arguments.add_argument(
        "--host", default=HOST, help=f"(default: {HOST}); 0.0.0.0 lets everybody look who reaches this machine"
    )
    arguments.add_argument("--language", choices=["en", "zh"], default="zh" if locale.startswith("zh") else "en")
    options = arguments.parse_args()
    runs = find_runs(options.folder)
    if not runs:
        raise UserError(f"{options.folder} holds no run: python tools/train.py -c configs/digits_quickstart.yaml makes one")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it as Ctrl-C does
    with contextlib.suppress(KeyboardInterrupt), listen(options.host, options.port) as listener:
        warn_of_others(listener)
        while True:  # anew when runs come or go: VisualDL fails at a log that is gone, such as that of a run that is continued
            runs = show(options.folder, runs, listener, options.language)


def find_runs(folder):
    """{name: newest VisualDL log} of the runs in `folder`, or of the one that it is."""
    base, runs = folder.absolute(), {}
    for log in sorted(base.rglob("vdlrecords.*.log")):
        run = log.parent.parent if log.parent.name == "vdl" else log.parent
        runs[" ".join(run.parts[len(base.parts) :]) or run.name] = log
    return runs


def listen(host, port):
    """A socket on `port`, or the first free one of PORTS: from here on it is this process's, whatever starts meanwhile."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [port] if port else PORTS:
        try:
            return socket.create_server((host, candidate), family=family, backlog=128)
        except OverflowError:
            break
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(f"cannot listen there: {error.strerror}") from None
    raise UserError(f"port {port or f'{PORTS[0]} to {PORTS[-1]}'} is not free: give another --port")


def warn_of_others(listener):
    host, port, *_ = listener.getsockname()
    if not ipaddress.ip_address(host).is_loopback:
        print(
            f"warning: anybody who reaches {host}, port {port}, can look at these runs, without a password; "
            f"without --host it is you alone, from elsewhere by ssh -L {port}:{HOST}:{port} {socket.gethostname()}",
            file=sys.stderr,
            flush=True,
        )


def answers(listener):
    """Whether VisualDL does: the connection alone is made as soon as somebody listens."""
    host, port, *_ = listener.getsockname()
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=1)) as connection:
        try:
            connection.request("GET", "/alive")
            return connection.getresponse().status < 300
        except (OSError, http.client.HTTPException):
            return False


def show(folder, runs, listener, language):
    """Have VisualDL serve `runs` until `folder` holds others; returns those."""
    host, port, *_ = listener.getsockname()
    settings = ["--host", host, "--port", str(port), "--language", language, "--disable-telemetry"]
    # as when it starts itself anew: VisualDL's server, which is Werkzeug's, takes this socket instead of opening one
    handed_on = {"WERKZEUG_RUN_MAIN": "true", "WERKZEUG_SERVER_FD": str(listener.fileno())}
    with tempfile.TemporaryDirectory() as names, tempfile.TemporaryFile("w+") as log, contextlib.ExitStack() as at_the_end:
        for name, file in runs.items():
            Path(names, name).symlink_to(file.parent)  # VisualDL calls a run by its path
        command = [sys.executable, "-m", "visualdl.server.app", "--logdir", *runs, *settings]
        process = dict(cwd=names, stdout=log, stderr=log, env=os.environ | handed_on, pass_fds=[listener.fileno()])
        server = at_the_end.enter_context(subprocess.Popen(command, **process))  # waits for its end
        at_the_end.callback(server.terminate)
        answered = False
        while server.poll() is None and (found := find_runs(folder) or runs) == runs:
            if not answered and (answered := answers(listener)):
                name = socket.gethostname() if host in ANY else f"[{host}]" if ":" in host else host
                print(f"{len(runs)} run(s) of {folder}: http://{name}:{port}", flush=True)
            time.sleep(0.5)
        if server.poll() is not None:
            log.seek(0)
            raise UserError(f"VisualDL ended: {log.read().strip().rpartition(chr(10))[2]}")
    return found


if __name__ == "__main__":
    command_line.run(main)
