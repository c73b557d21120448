"""Restarting training that failed, from its last checkpoint. This process only starts others and waits for them."""

import itertools
import os
import signal
import subprocess
import sys
import threading

from ..errors import UserError

LONGEST_DELAY = 60  # seconds between a failure and the restart
USER_ERROR = 2  # the exit status that no restart can help
GIVEN = dict(os.environ)  # read before command_line.prepare_cpu sets threads for a process that is alone


def command(script, config, overrides, ranks, log_dir=None):
    """The command that trains on this machine, alone or on several ranks under the launcher, which logs to `log_dir`.

    Raises:
        UserError: this process is itself one of the launcher's.
    """
    if "PADDLE_TRAINER_ID" in GIVEN:
        raise UserError("--supervise starts the launcher itself: python tools/train.py --supervise 3 --ranks 2 -c CONFIG")
    launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    launcher += ["--log_dir", str(log_dir)] if launcher and log_dir else []
    return [sys.executable, *launcher, script, "-c", config, *(["-o", *overrides] if overrides else [])]


def supervise(command, *, restarts, resume, progress, first_delay=1.0):
    """Run `command`, and while it fails again with --resume, up to `restarts` times; returns the last exit status.

    The delay in seconds doubles from restart to restart. A failure is final when it is a UserError (status 2), when
    `progress()` is what it was at the failure before, or when SIGTERM or SIGINT has come, which the command is handed too.

    Args:
        resume: pass --resume to the first start as well.
        progress: a function that names the newest checkpoint, or None.
    """
    reached = ()  # nothing that `progress` gives: the first failure is never final
    with Child() as child:
        for restart in itertools.count(1):
            status = child.run([*command, "--resume"] if resume or restart > 1 else command)
            if status in (0, USER_ERROR) or child.stopping.is_set():
                return status
            before, reached = reached, progress()
            if reached == before:
                return _final(status, f"no progress since the restart: the newest checkpoint is still {reached or 'none'}")
            if restart > restarts:
                return _final(status, f"{restarts} restart(s) used up")
            delay = min(first_delay * 2 ** (restart - 1), LONGEST_DELAY)
            _say(f"exit status {status}; restart {restart} of {restarts} in {delay:g} s from {reached or 'the beginning'}")
            if child.stopping.wait(delay):
                return status


class Child:
    """A command that runs; inside `with`, SIGTERM and SIGINT are handed on to it and set `stopping`, a threading.Event."""

    def __init__(self):
        self.stopping = threading.Event()
        self._process = None

    def __enter__(self):
        self._former = {number: signal.signal(number, self._hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error):
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def run(self, command, **options):
        """The exit status, as a shell gives it; `options` are Popen's."""
        # in a session of its own, so that Ctrl-C reaches it once: the launcher takes a second signal for impatience
        self._process = subprocess.Popen(list(map(str, command)), env=GIVEN, start_new_session=True, **options)
        if self.stopping.is_set():  # by a signal that came before there was a process to hand it to
            self._process.terminate()
        status = self._process.wait()
        return status if status >= 0 else 128 - status

    def _hand_on(self, number, frame):
        if self._process and not self.stopping.is_set():
            self._process.send_signal(number)
        self.stopping.set()


def _final(status, reason):
    _say(f"exit status {status}; {reason}")
    return status


def _say(text):
    print(f"supervisor: {text}", file=sys.stderr, flush=True)
