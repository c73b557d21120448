import os
import subprocess
import sys

import pytest
from conftest import ROOT

from rdrop_paddle import UserError, command_line

CHOSEN = ("PADDLE_LOCAL_SIZE", "PADDLE_TRAINERS_NUM", *command_line.CPU_SETTINGS)


@pytest.fixture
def environment(monkeypatch):
    """environment(name=value, ...) -> what prepare_cpu makes of it, on a machine of 8 cores with an Intel processor."""
    monkeypatch.setattr(command_line, "_keep_freed_memory", lambda: None)
    monkeypatch.setattr(command_line, "processor", lambda: "GenuineIntel avx512f")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)

    def prepared(**given):
        for name in CHOSEN:
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        command_line.prepare_cpu()
        return {name: os.environ.get(name) for name in command_line.CPU_SETTINGS}

    return prepared


def test_the_cores_are_shared_out_over_the_ranks_of_this_machine(environment):
    assert environment()["OMP_NUM_THREADS"] == "8"
    assert environment(PADDLE_TRAINERS_NUM="6", PADDLE_LOCAL_SIZE="3")["OMP_NUM_THREADS"] == "2"
    assert environment(PADDLE_TRAINERS_NUM="16")["OMP_NUM_THREADS"] == "1"


def test_what_the_environment_chooses_stays(environment, monkeypatch):
    chosen = {"OMP_NUM_THREADS": "5", "MKL_DEBUG_CPU_TYPE": "4", "FLAGS_use_stride_kernel": "1"}
    monkeypatch.setattr(command_line, "processor", lambda: "AuthenticAMD avx2")
    assert environment(**chosen) == chosen
    assert command_line.cpu_settings() == "OMP_NUM_THREADS 5, MKL_DEBUG_CPU_TYPE 4, FLAGS_use_stride_kernel 1"


def test_mkls_kernels_are_chosen_on_amd_and_copying_transposes_without_a_gpu_package(environment, monkeypatch):
    assert environment()["MKL_DEBUG_CPU_TYPE"] is None and environment()["FLAGS_use_stride_kernel"] == "0"
    monkeypatch.setattr(command_line, "processor", lambda: "AuthenticAMD avx2")
    monkeypatch.setattr(command_line, "_has_gpu_paddle", lambda: True)
    assert environment()["MKL_DEBUG_CPU_TYPE"] == "5" and environment()["FLAGS_use_stride_kernel"] is None
    monkeypatch.setattr(command_line, "processor", lambda: "AuthenticAMD avx2 avx512f")
    assert environment()["MKL_DEBUG_CPU_TYPE"] == "7"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.parametrize("settings, page_faults", [({}, range(100)), ({"MALLOC_ARENA_MAX": "4"}, range(5000, 10**6))])
def test_freed_memory_is_used_again_unless_the_environment_sets_the_allocator(settings, page_faults):
    program = """
import ctypes, resource
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a huge page would be one fault for 512
from rdrop_paddle import command_line
command_line.prepare_cpu()
def use():
    memory = bytearray(32 << 20)
    memory[::4096] = bytes(len(memory) // 4096)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | settings
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert int(done.stdout) in page_faults, done.stderr


def test_a_number_that_is_none_is_told_with_its_option():
    arguments = command_line.parser(__doc__)
    arguments.add_argument("--ranks", type=command_line.positive)
    assert arguments.parse_args(["--ranks", "12"]).ranks == 12
    for text in ("0", "-1", "1.5", "two", "\u00b2"):
        with pytest.raises(UserError, match=f"argument --ranks: '{text}' is no integer from 1 on; see --help"):
            arguments.parse_args([f"--ranks={text}"])


@pytest.mark.parametrize(
    "words, overrides, images",
    [
        ("-o a=1 photo.jpg", ["a=1"], ["photo.jpg"]),
        ("-o a=1 b=x=2 photo.jpg scans --override c=3 last.png", ["a=1", "b=x=2", "c=3"], ["photo.jpg", "scans", "last.png"]),
        ("photo.jpg -o a=1 --onnx b.png", ["a=1"], ["photo.jpg", "b.png"]),
        ("-o a=1 -- b=2.jpg -o", ["a=1"], ["b=2.jpg", "-o"]),
        ("--override=a=1 photo.jpg", ["a=1"], ["photo.jpg"]),
    ],
)
def test_images_may_follow_the_overrides(words, overrides, images):
    arguments = command_line.config_parser(__doc__)
    arguments.add_argument("images", nargs="+")
    arguments.add_argument("--onnx", action="store_true")
    found = arguments.parse_args(["-c", "config.yaml", *words.split()])
    assert (found.override, found.images) == (overrides, images)


def test_without_words_of_its_own_a_tool_takes_all_for_overrides():
    arguments = command_line.config_parser(__doc__)
    arguments.add_argument("--resume", action="store_true")
    found = arguments.parse_args(["-c", "config.yaml", "-o", "a=1", "steps", "--resume"])
    assert (found.override, found.resume) == (["a=1", "steps"], True)  # which load_config refuses by name
    with pytest.raises(UserError, match="unrecognized arguments: photo.jpg"):
        arguments.parse_args(["-c", "config.yaml", "photo.jpg"])


def test_looking_whether_a_file_can_be_written_leaves_none_and_harms_none(tmp_path, monkeypatch):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("before")
    link = tmp_path / "link.json"
    link.symlink_to("target.json")
    for path in (old, new, link):
        command_line.check_writable("--json", path)
    assert old.read_text() == "before" and not new.exists() and link.is_symlink() and not link.exists()
    for kept in (old, link.with_name("target.json")):
        with pytest.raises(UserError, match="is read or written otherwise, and would be lost: give another file"):
            command_line.check_writable("--json", link if kept.name == "target.json" else old, [None, new, kept])
    with pytest.raises(UserError, match="cannot write --json a+: File name too long"):
        command_line.check_writable("--json", 300 * "a")
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")  # on another machine than rank 0, which alone writes
    command_line.check_writable("--json", tmp_path / "absent" / "speed.json")


def run_tool_main(program, tmp_path, **environment):
    program = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom rdrop_paddle import command_line\n{program}"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **environment}
    )


def test_a_path_that_the_system_refuses_is_one_line_and_status_2(tmp_path):
    name = 300 * "a"
    done = run_tool_main(f"import os\ncommand_line.run(lambda: os.stat('{name}'))", tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: {name}: File name too long\n")
    done = run_tool_main("import os\ncommand_line.run(lambda: os.stat('absent'))", tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr  # a fault of the program's, or of the disk's


def test_a_package_that_is_not_installed_is_one_line_and_status_2(tmp_path):
    absent = "sys.modules['{0}'] = None\ncommand_line.run(lambda: __import__('{0}'))"  # as if it were not there
    done = run_tool_main("sys.argv[0] = 'tools/eval.py'\n" + absent.format("sklearn"), tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: eval.py needs scikit-learn: pip install '")
    assert done.stderr.endswith("[train]'\n") and done.stderr.count("\n") == 1
    done = run_tool_main(absent.format("rdrop_paddle.absent"), tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr  # a fault of the program's


def test_names_that_a_terminal_cannot_show_are_printed_in_another_way(tmp_path):
    (tmp_path / os.fsdecode(b"\xb0.jpg")).touch()
    program = "import os\ncommand_line.run(lambda: print('\u4e2d', *os.listdir('.')))"
    assert run_tool_main(program, tmp_path, PYTHONIOENCODING="ascii").stdout == "\\u4e2d \\udcb0.jpg\n"


def test_what_is_said_on_stderr_comes_before_what_follows_it_on_stdout(tmp_path):
    """As in the launcher's logs, where both are one file."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from rdrop_paddle import command_line, console\n"
    program += "command_line.run(lambda: [console.say('first'), print('second', flush=True)] and 0)"
    with (tmp_path / "log").open("w") as log:
        subprocess.run([sys.executable, "-c", program], stdout=log, stderr=log, check=True)
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


TALKATIVE = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from rdrop_paddle import command_line
def main():
    with open("data", "w") as file:  # the next number that is free
        print("said", flush=True)
        while "wait" in sys.argv and not os.path.exists("go"):
            time.sleep(0.01)
        os.write(1, b"from C") if "native" in sys.argv else None
        for _ in range(10000):
            print("said")
        print("told", file=sys.stderr)
        file.write("mine")
    return 3
command_line.run(main)
"""


@pytest.mark.parametrize("streams", ["| head -3", ">&- native", "2>&-", ">&- 2>&- <&- native", "2>&1 >/dev/null | true"])
def test_streams_that_nobody_reads_do_not_matter(tmp_path, streams):
    (tmp_path / "tool.py").write_text(TALKATIVE)
    command = ["bash", "-o", "pipefail", "-c", f"{sys.executable} tool.py {streams}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 3 and (tmp_path / "data").read_text() == "mine"
    assert set(done.stdout.split()) <= {"said"} and set(done.stderr.split()) <= {"told"}


@pytest.mark.parametrize("unbuffered, printed", [("", "at once, from C, when full"), ("1", "at once, when full, from C")])
def test_what_is_said_comes_when_it_is_said(tmp_path, unbuffered, printed):
    program = """
import os
def main():
    print("at once", end="", flush=True)
    print("told", file=sys.stderr)
    os.write(2, b"from C")
    print(", when full", end="")
    os.write(1, b", from C")
command_line.run(main)
"""
    done = run_tool_main(program, tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert (done.stderr, done.stdout) == ("told\nfrom C", printed)


def test_a_terminal_that_is_closed_does_not_matter(tmp_path):
    (tmp_path / "tool.py").write_text(TALKATIVE)
    terminal, end = os.openpty()
    command = [sys.executable, "tool.py", "wait"]
    with subprocess.Popen(command, stdout=end, stderr=end, cwd=tmp_path, start_new_session=True) as process:
        os.close(end)
        assert os.read(terminal, 100).startswith(b"said")
        os.close(terminal)
        (tmp_path / "go").touch()
    assert process.returncode == 3 and (tmp_path / "data").read_text() == "mine"


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot write --json .*absent/speed.json: No such file"):
        command_line.check_writable("--json", tmp_path / "absent" / "speed.json")
