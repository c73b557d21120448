"""The dashboard as a person meets it: in a terminal, and with its curves, images and table in a real browser.

python tests/test_dashboard.py results/digits_quickstart images/dashboard.png digits_baseline_seed0 digits_rdrop_seed0
makes the README's picture anew: the folder of the runs, the picture, and the runs to show in it.
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

PUBLISHED = ROOT / "results" / "digits_quickstart"
SUMMARY = "loss|kl|grad|val/acc"  # the charts of the README's picture
pytestmark = pytest.mark.xdist_group("dashboard")  # two at once would take each other's ports


@contextlib.contextmanager
def dashboard(*arguments, **environment):
    """Start tools/dashboard.py; gives the process, what it says first and the address in it. SIGTERM ends it."""
    command = [sys.executable, ROOT / "tools" / "dashboard.py", *arguments]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    listens = dict(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a job in the background ignores it
    process = subprocess.Popen(
        list(map(str, command)), env=os.environ | environment, start_new_session=True, **streams, **listens
    )
    try:
        said = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert address, said + process.stdout.read()
        yield process, said, address.group()
    finally:
        process.terminate()
        process.communicate(timeout=20)


@contextlib.contextmanager
def browser_page(width, height):
    """A page of a headless Chromium that is installed here; skips the test when there is none."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])  # which root cannot have
        page = browser.new_page(viewport=dict(width=width, height=height))
        page.set_default_timeout(20_000)
        yield page
        browser.close()


def show_curves(page, address, tags, runs):
    """The scalars page, without smoothing, with these runs and the tags that match; returns the colours of the runs."""
    page.add_init_script("localStorage.setItem('scalar_smoothing', '0'); localStorage.setItem('run_aside_width', '290')")
    page.goto(f"{address}/app/scalar")
    page.get_by_text("Select All", exact=True).click()
    items = [page.locator(".run-item").filter(has_text=re.compile(f"^{re.escape(run)}$")) for run in runs]
    for item in items:
        item.click()
    page.get_by_placeholder("Search tags in RegExp").fill(tags)
    page.keyboard.press("Tab")  # takes the caret away
    page.locator("canvas").first.wait_for()
    return [item.locator("i").evaluate("dot => getComputedStyle(dot).backgroundColor") for item in items]


def wait_until_drawn(page, chart, colours):
    """Until lines of all the colours are in the chart, which may not be in one piece at first; fails after 20 s."""
    deadline = time.monotonic() + 20
    while min(share_of(chart.screenshot(), colour) for colour in colours) < 0.001:
        assert time.monotonic() < deadline, "a curve is missing"
        page.wait_for_timeout(500)


def share_of(png, colour):
    """The share of a screenshot's pixels that have a colour such as "rgb(1, 2, 3)"."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    wanted = np.array([int(number) for number in re.findall(r"\d+", colour)][:3])
    return (np.abs(pixels - wanted).max(axis=-1) < 8).mean()


@pytest.fixture
def two_runs(tiny_config, tmp_path):
    """The folder of two short runs, with_kl and without_kl, written as training writes them."""
    from rdrop_paddle.reporting.runlog import RunLog  # loads Paddle, which the picture can do without

    costs = dict(lr=0.1, grad_norm=1.0, images_per_second=10.0, reader_cost=0.1, batch_cost=1.0, peak_memory=1.5)
    images = np.random.default_rng(0).integers(0, 256, [32, 32, 3], dtype="uint8")
    settings = {"with_kl": (3.0, ["rdrop.alpha=4.5"]), "without_kl": (1.0, ["rdrop.passes=1", "rdrop.alpha=0"])}
    for name, (start, overrides) in settings.items():
        with RunLog(tiny_config(f"name={name}", *overrides)) as log:
            log.examples({"train/augmented": images})
            log.examples({"val/translation 0": "Ein Hund rennt.  \n→ A dog runs."}, update=3)
            for update in range(1, 7):
                log.training(update, loss=start + 1 / update, ce=1 / update, kl=start, **costs)
            log.evaluation(6, "val", {"accuracy": 0.5, "correct": 1, "total": 2})
            if name == "with_kl":  # the other one is still being trained
                log.evaluation(6, "test", {"accuracy": 0.75, "correct": 3, "total": 4}, final=True)
    return tmp_path / "output"


@pytest.mark.browser
def test_curves_images_texts_and_hyper_parameters_of_two_runs_are_seen_in_a_browser(two_runs, tmp_path):
    with browser_page(1280, 800) as page, dashboard(two_runs) as (_, _, address):
        asked = []
        page.on("request", lambda request: asked.append(request.url))

        colours = show_curves(page, address, "^train/loss$", ["with_kl", "without_kl"])
        assert page.locator(".run-item").count() == len(set(colours)) == 2
        (chart,) = page.locator("canvas").all()
        wait_until_drawn(page, chart, colours)
        page.screenshot(path=tmp_path / "curves.png")

        page.goto(f"{address}/app/sample/image")
        images = page.locator("img[src^=blob]")
        images.nth(1).wait_for()
        assert images.evaluate_all("images => images.map(image => [image.naturalWidth, image.naturalHeight])") == [[32, 32]] * 2
        page.screenshot(path=tmp_path / "images.png")

        page.goto(f"{address}/app/sample/text")
        page.get_by_text("→ A dog runs.").first.wait_for()
        page.screenshot(path=tmp_path / "texts.png")

        page.goto(f"{address}/app/hyper-parameter")
        page.get_by_text("Trial ID").wait_for()
        table = page.locator("[role=table]")
        for shown in ("with_kl", "without_kl", "alpha", "4.5", "test/accuracy", "0.75", "val/accuracy", "0.5"):
            assert table.get_by_text(shown, exact=True).first.is_visible()
        page.screenshot(path=tmp_path / "hyper_parameters.png")
    assert {urlsplit(url).hostname for url in asked if not url.startswith("blob:")} == {"127.0.0.1"}


def fetch(url):
    """(headers, text) of an address on this machine, whatever proxy the environment names."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
        return answer.headers, answer.read().decode()


@pytest.mark.parametrize(
    "locale, language, number",
    [(dict(LC_ALL="", LC_MESSAGES="", LANG="zh_CN.UTF-8"), "zh", signal.SIGINT), (dict(LC_ALL="C"), "en", signal.SIGTERM)],
)
def test_it_speaks_the_locales_language_tells_nobody_and_ends_when_told_to(locale, language, number):
    with dashboard(PUBLISHED / "digits_rdrop_seed0", **locale) as (process, said, address):
        assert said.startswith("1 run(s) of ")
        assert f"vdl_lng={language}" in fetch(f"{address}/app/scalar")[0]["Set-Cookie"]
        assert 'TELEMETRY_ID=""' in fetch(f"{address}/app/__snowpack__/env.local.js")[1]
        assert json.loads(fetch(f"{address}/app/api/runs")[1])["data"] == ["digits_rdrop_seed0"]
        process.send_signal(number)
        assert process.communicate(timeout=20)[0] == "" and process.returncode == 0
        with pytest.raises(ProcessLookupError):  # VisualDL's server is gone too; its port may be another dashboard's by now
            os.killpg(process.pid, 0)


def updates_shown(address, run):
    """Of which updates the page gets the loss; None while the server is away."""
    with contextlib.suppress(OSError):
        points = json.loads(fetch(f"{address}/app/api/scalar/list?run={run}&tag=train/loss")[1])["data"]
        return [update for _, update, _ in points or []]


def test_runs_that_begin_or_are_continued_meanwhile_are_shown(tmp_path):
    shutil.copytree(PUBLISHED / "digits_rdrop_seed0", tmp_path / "first")
    with dashboard(tmp_path) as (_, _, address):
        (log,) = (tmp_path / "first" / "vdl").iterdir()
        log.rename(log.with_name("vdlrecords.1895300817.log"))  # as continuing does
        shutil.copytree(PUBLISHED / "digits_rdrop_seed1", tmp_path / "second")
        deadline = time.monotonic() + 30
        for run in ("second", "first"):
            while updates_shown(address, run) != list(range(50, 1001, 50)):
                assert time.monotonic() < deadline, run
                time.sleep(0.2)


def test_a_taken_port_is_passed_over_or_named():
    with socket.socket() as other:
        with contextlib.suppress(OSError):  # already taken
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", 8040))
            other.listen()
        with dashboard(PUBLISHED) as (_, _, address):
            assert urlsplit(address).port > 8040
        assert error_of(PUBLISHED, "--port", 8040) == "error: port 8040 is not free: give another --port"


def test_dashboards_that_start_at_once_name_each_its_own_address(tmp_path):
    runs = [f"digits_rdrop_seed{seed}" for seed in range(3)]
    command = [sys.executable, ROOT / "tools" / "dashboard.py"]
    started = [subprocess.Popen([*map(str, command), PUBLISHED / run], stdout=subprocess.PIPE, text=True) for run in runs]
    try:
        addresses = [re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline()).group() for process in started]
        assert [json.loads(fetch(f"{address}/app/api/runs")[1])["data"] for address in addresses] == [[run] for run in runs]
    finally:
        for process in started:
            process.terminate()
            process.communicate(timeout=20)


def test_who_lets_others_look_is_told_so_and_what_to_do_instead():
    command = [sys.executable, ROOT / "tools" / "dashboard.py", PUBLISHED / "digits_rdrop_seed0", "--host", "0.0.0.0"]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(list(map(str, command)), **streams) as process:
        try:
            warning, said = process.stderr.readline(), process.stdout.readline()
        finally:
            process.terminate()
    port = re.search(rf"http://{socket.gethostname()}:(\d+)", said).group(1)
    assert warning.startswith(f"warning: anybody who reaches 0.0.0.0, port {port}, can look at these runs")
    assert f"ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}" in warning
    assert re.match("error: cannot listen there: .*no.such.host", error_of(PUBLISHED, "--host", "no.such.host"))


def test_a_folder_without_runs_is_one_line_that_says_how_to_make_one(tmp_path):
    assert f"{tmp_path} holds no run: python tools/train.py -c configs/digits_quickstart.yaml makes one" in error_of(tmp_path)


def error_of(*arguments):
    """The one line of a user's mistake."""
    command = [sys.executable, ROOT / "tools" / "dashboard.py", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


if __name__ == "__main__":
    folder, picture, *runs = sys.argv[1:]
    with browser_page(1280, 905) as page, dashboard(folder, "--language", "en") as (_, _, address):
        colours = show_curves(page, address, SUMMARY, runs)
        wait_until_drawn(page, page.locator("canvas").first, colours)
        page.wait_for_timeout(3000)  # the other charts, where a curve may hide behind an axis
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=picture)
