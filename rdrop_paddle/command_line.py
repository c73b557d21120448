"""What the tools share: arguments, exit status, and the process settings that must precede `import paddle`."""

import argparse
import ctypes
import errno
import importlib.metadata
import io
import os
import sys
import time
import warnings
from pathlib import Path

from .errors import UserError, what_is_missing

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
REFUSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)  # what looking at a path may raise, for a user to mend
OVERRIDE = ("-o", "--override")
GRACE = 20  # seconds that a rank waits for its machine's first rank to fail the same way


def parser(doc):
    """An ArgumentParser whose errors are UserErrors; `doc` is the tool's docstring."""
    return _Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)


def config_parser(doc):
    """A `parser` with -c and -o; what follows `-o key=value ...` without a "=" is the tool's."""
    arguments = _ConfigParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    arguments.add_argument("-c", "--config", required=True, help="YAML file, see configs/")
    arguments.add_argument(*OVERRIDE, action="append", default=[], metavar="key=value ...", help="e.g. train.steps=300")
    return arguments


def add_weights(arguments):
    """Add --weights, --sha256 and --ema, which `tasks.trained` takes."""
    arguments.add_argument("--weights", required=True, help="weight file or folder, or a bare name under RDROP_DATA")
    arguments.add_argument("--sha256", help="what the weight file's must be")
    arguments.add_argument("--ema", action="store_true", help="take the average of the weights that the file holds beside them")


def positive(text):
    """An argument's value as an integer from 1 on."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no integer from 1 on")
    return int(text)


def check_writable(option, path, kept=()):
    """Raises a UserError unless rank 0 can write the file that `option` names: before minutes of work, not after them.

    Nor may it be one of the paths `kept`, which are read or written too; None is none.
    """
    if int(os.environ.get("PADDLE_TRAINER_ID", 0)) > 0:
        return
    try:
        target = Path(path).resolve()  # of a link, which stays
        if any(other and target == Path(other).expanduser().resolve() for other in kept):
            raise UserError(f"{option} {path} is read or written otherwise, and would be lost: give another file")
        existed = target.exists()
        target.open("a").close()
        if not existed:  # an empty result must not outlive work that fails
            target.unlink()
    except OSError as error:
        raise UserError(f"cannot write {option} {path}: {error.strerror}") from None


def run(main):
    """Exit with what `main()` returns; a UserError is printed in one line and gives exit status 2.

    So does a path that the system refuses, for want of a permission or as too long, and a package that is not installed.

    Under the launcher the other ranks of a machine wait for its first, which as a rule fails the same way: the launcher
    then ends them and hands its status on; it would report a signal if one of them ended first. A fault that another rank
    alone meets, such as a broken image, ends the job too, with its message in that rank's log and the launcher's status.
    """
    prepare_cpu()
    warnings.filterwarnings("ignore", message="No ccache found")  # of Paddle's import; nothing is compiled here
    _make_streams_last()
    try:
        status = main()
    except (UserError, OSError, ModuleNotFoundError) as error:
        message = _for_the_user(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr, flush=True)
        if int(os.environ.get("PADDLE_LOCAL_RANK", 0)) > 0:
            time.sleep(GRACE)
        status = 2
    sys.stdout.flush()
    sys.exit(status)


def _make_streams_last():
    """Have stdout and stderr, whatever was closed (`>&-`), that outlive who reads them (`| head -3`) and can show any name."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # else the next files get these numbers, and what is printed
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):  # not so in a notebook
            setattr(sys, name, _lasting(number, stream))


def _lasting(descriptor, stream):
    """A text stream as `stream`, which is None where the descriptor was closed."""
    settings = {key: getattr(stream, key) for key in ("encoding", "line_buffering", "write_through") if stream}
    file = _Lasting(descriptor, "w", closefd=False)
    if not settings.get("write_through"):  # PYTHONUNBUFFERED asks for it
        file = io.BufferedWriter(file)
    # names of files need not be UTF-8, nor terminals show all of it
    return io.TextIOWrapper(file, errors="backslashreplace", **settings)


class _Lasting(io.FileIO):
    """A file that takes what is written and drops it when nobody can read it any more: a pipe's or terminal's end is gone."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._gone = (errno.EPIPE, errno.EIO) if self.isatty() else (errno.EPIPE,)

    def write(self, data):
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in self._gone:
                raise
            return memoryview(data).nbytes


def _for_the_user(error):
    """What a user can mend of an error, or None when it is the program's."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.errno in REFUSED else None
    return what_is_missing(Path(sys.argv[0]).name, error)


CPU_SETTINGS = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "FLAGS_use_stride_kernel")


def prepare_cpu():
    """Threads, kernels and memory, unless the environment already chooses. Paddle must not have been imported."""
    local_ranks = int(os.environ.get("PADDLE_LOCAL_SIZE", os.environ.get("PADDLE_TRAINERS_NUM", 1)))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads(local_ranks)))
    if "AuthenticAMD" in (found := processor()):
        # 7: MKL's kernels for AVX-512, 5: for AVX2; by itself it picks some that are two to four times slower
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "7" if "avx512f" in found else "5")
    if not _has_gpu_paddle():
        # a transpose that copies at once is many times faster on a CPU than a view that is copied on use
        os.environ.setdefault("FLAGS_use_stride_kernel", "0")
    _keep_freed_memory()


def threads(local_ranks):
    """How many threads each of so many ranks on this machine gets."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(cores // local_ranks, 1)


def cpu_settings():
    """What `prepare_cpu` left in the environment, in one line."""
    return ", ".join(f"{name} {os.environ.get(name, 'unset')}" for name in CPU_SETTINGS)


def _keep_freed_memory():
    """Have glibc reuse freed memory: fresh pages for each operator's output cost more than most operators."""
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _has_gpu_paddle():
    try:
        return bool(importlib.metadata.version("paddlepaddle-gpu"))
    except importlib.metadata.PackageNotFoundError:
        return False


def processor():
    """What Linux tells of the processor, its maker and instructions among it; "" elsewhere."""
    try:
        with open("/proc/cpuinfo") as file:
            return file.read()
    except OSError:
        return ""


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see --help")


class _ConfigParser(_Parser):
    def parse_args(self, args=None):
        words = self._with_each_override_named(sys.argv[1:] if args is None else args)
        # intermixed, argparse forgets about "--"; otherwise the tool's own words must come in one piece
        return super().parse_args(words) if "--" in words else self.parse_intermixed_args(words)

    def _with_each_override_named(self, words):
        """`-o a=1 b=2 photo.jpg` as `-o a=1 -o b=2 photo.jpg`; a tool that takes no words of its own gets all of them by -o."""
        own_words = any(not action.option_strings for action in self._actions)
        named, option = [], None  # the option that is being given
        for number, word in enumerate(words):
            if word == "--":
                return named + words[number:]
            if word.startswith("-") and word != "-":
                option = word
            elif option in OVERRIDE and named[-1] not in OVERRIDE and ("=" in word or not own_words):
                named.append(OVERRIDE[0])
            named.append(word)
        return named
