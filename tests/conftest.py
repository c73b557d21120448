"""Shared fixtures: small configs and models, weights and archives made on the spot, and running the tools for real."""

import dataclasses
import hashlib
import http.server
import importlib.util
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rdrop_paddle import command_line  # noqa: E402

command_line.prepare_cpu()  # before anything imports Paddle

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from rdrop_paddle.config_layers import DEFAULTS  # noqa: E402
from rdrop_paddle.tasks import load_config  # noqa: E402
from rdrop_paddle.training.trainer import can_recompute  # noqa: E402
from rdrop_paddle.vision import cifar  # noqa: E402
from rdrop_paddle.vision.task import ImageClassification  # noqa: E402

BASE = DEFAULTS / "image_classification.yaml"
recomputes = pytest.mark.skipif(not can_recompute(), reason="Paddle 2 cannot recompute on a CPU")
TINY = [
    "model.name=custom",
    "model.patch_size=4",
    "model.embed_dim=16",
    "model.depth=2",
    "model.num_heads=2",
    "model.mlp_ratio=2",
    "model.image_size=8",
    "model.classes=10",
    "data.name=digits",
    "data.val_fraction=0.2",
    "data.crop_scale=0.6",
    "train.steps=6",
    "train.batch_size=64",
    "train.micro_batch_size=32",
    "train.warmup_steps=2",
    "train.log_every=1",
    "train.eval_every=3",
    "train.save_every=3",
]

WORDS = {  # of a made pair of languages: each has one translation, which stands where the word stood
    "ein": "a",
    "Hund": "dog",
    "rennt": "runs",
    "zwei": "two",
    "Kinder": "children",
    "spielen": "play",
    "im": "in",
    "Gras": "grass",
}
SENTENCES = {"train": 96, "val": 20, "test": 25}
SMALL_TRANSLATION = [
    "task=translation",
    "model.name=custom",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "model.embed_dim=16",
    "model.ffn_dim=32",
    "model.num_heads=2",
    "model.max_length=40",
    "data.name=folder",
    "data.vocabulary_size=60",
    "data.max_tokens=120",
    "train.accumulation=2",
    "train.steps=6",
    "train.warmup_steps=2",
    "train.lr=0.02",
    "train.log_every=1",
    "train.eval_every=3",
    "train.save_every=3",
    "decode.beam=2",
    "decode.max_tokens=60",
]

LABELS = ("no", "perhaps", "yes")
LABELLED = {"train": 60, "val": 20, "test": 21}  # pairs of texts of WORDS
SMALL_UNDERSTANDING = [
    "task=understanding",
    "model.name=custom",
    "model.layers=2",
    "model.embed_dim=16",
    "model.ffn_dim=24",
    "model.num_heads=2",
    "model.max_length=24",
    "data.name=folder",
    "data.text_pair=other",
    "data.max_length=14",
    "train.batch_size=16",
    "train.micro_batch_size=8",
    "train.steps=6",
    "train.warmup_steps=2",
    "train.lr=0.01",
    "train.log_every=1",
    "train.eval_every=3",
    "train.save_every=3",
    "eval.batch_size=8",
]


SMALL_LANGUAGE_MODEL = [
    "task=language_modelling",
    "model.name=custom",
    "model.layers=2",
    "model.embed_dim=16",
    "model.ffn_dim=32",
    "model.num_heads=2",
    "model.max_length=40",
    "data.name=folder",
    "data.break_mode=line",
    "data.tokens_per_sample=20",
    "data.vocabulary_size=60",
    "data.max_tokens=120",
    "train.accumulation=2",
    "train.steps=6",
    "train.warmup_steps=2",
    "train.lr=0.02",
    "train.log_every=1",
    "train.eval_every=3",
    "train.save_every=3",
    "decode.max_length=10",
]


def pytest_collection_modifyitems(items):
    """Tests that start several ranks come one after the other: with --dist loadgroup on the same one of xdist's workers."""
    for item in items:
        if item.get_closest_marker("launcher"):
            item.add_marker(pytest.mark.xdist_group("ranks"))


@pytest.fixture
def tiny_overrides(tmp_path):
    """A config of seconds: a ViT of two blocks on the digits, with its run folder under tmp_path."""
    return [*TINY, "name=tiny", f"output={tmp_path / 'output'}"]


@pytest.fixture
def tiny_config(tiny_overrides):
    """tiny_config("train.steps=2", ...) -> Config"""
    return lambda *overrides: load_config(BASE, [*tiny_overrides, *overrides])


@pytest.fixture
def task(tiny_config):
    """task("train.seed=1", ...) -> ImageClassification of a tiny model with weights large enough for sure answers"""

    def make(*overrides):
        task = ImageClassification(tiny_config("eval.batch_size=8", *overrides))
        for seed, parameter in enumerate(task.model.parameters()):
            parameter.set_value(np.random.default_rng(seed).normal(0, 0.5, parameter.shape).astype("float32"))
        return task

    return make


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """The folder of a made corpus, German to English; what is learned of it lies under tmp_path too."""
    monkeypatch.setenv("RDROP_DATA", str(tmp_path / "data"))
    folder, rng = tmp_path / "corpus", np.random.default_rng(0)
    folder.mkdir()
    for split, count in SENTENCES.items():
        sentences = [rng.choice(list(WORDS), rng.integers(1, 9)) for _ in range(count)]
        for language, translated in (("de", lambda word: word), ("en", WORDS.get)):
            lines = [" ".join(map(translated, words)) + "." for words in sentences]
            (folder / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.fixture
def translation_overrides(corpus, tmp_path):
    return [*SMALL_TRANSLATION, f"data.path={corpus}", f"output={tmp_path / 'output'}", "name=small"]


@pytest.fixture
def translation(translation_overrides):
    """translation("train.steps=2", ...) -> Translation"""
    from rdrop_paddle.text.translation import Translation

    return lambda *more: Translation(load_config(None, [*translation_overrides, *more]))


@pytest.fixture
def language_modelling(corpus, tmp_path):
    """language_modelling("train.steps=2", ...) -> LanguageModelling of the German side of the made corpus"""
    from rdrop_paddle.text.language_modelling import LanguageModelling

    for split in SENTENCES:
        (corpus / f"{split}.txt").write_text((corpus / f"{split}.de").read_text())
    places = [f"data.path={corpus}", f"output={tmp_path / 'output'}", "name=small"]
    return lambda *more: LanguageModelling(load_config(None, [*SMALL_LANGUAGE_MODEL, *places, *more]))


@pytest.fixture
def tables(tmp_path):
    """The folder of made tables with the columns text, other, label and score; vocab.txt is there too."""
    folder, rng, words = tmp_path / "tables", np.random.default_rng(0), list(WORDS)
    folder.mkdir()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *map(str.lower, words)]
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    for split, count in LABELLED.items():
        lines = ["text\tother\tlabel\tscore"]
        for _ in range(count):
            text, other = (rng.choice(words, rng.integers(1, 7)) for _ in range(2))
            label = LABELS[int(rng.integers(3))]
            lines.append(f"{' '.join(text)}\t{' '.join(other)}\t{label}\t{len(text) - rng.integers(0, 4) / 3:.3f}")
        (folder / f"{split}.tsv").write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.fixture
def understanding_overrides(tables, tmp_path):
    places = [f"data.path={tables}", f"model.tokenizer={tables}", f"output={tmp_path / 'output'}"]
    return [*SMALL_UNDERSTANDING, *places, "name=small"]


@pytest.fixture
def understanding(understanding_overrides):
    """understanding("train.steps=2", ...) -> Understanding with random weights large enough for sure answers"""
    from rdrop_paddle.text.understanding import Understanding

    def make(*more):
        task = Understanding(load_config(None, [*understanding_overrides, *more]))
        for seed, parameter in enumerate(task.model.parameters()):
            parameter.set_value(np.random.default_rng(seed).normal(0, 0.5, parameter.shape).astype("float32"))
        return task

    return make


@pytest.fixture
def run_tool(tmp_path):
    """run_tool("train.py", "-c", ..., ranks=2, root=folder) -> CompletedProcess with its output as text.

    With ranks, under paddle.distributed.launch; stdout is then that of rank 0 alone, as in workerlog.0.
    """

    def run(tool, *arguments, ranks=0, root=tmp_path):
        log_dir = tmp_path / f"log-{os.urandom(4).hex()}"
        launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(ranks), "--log_dir", str(log_dir)]
        command = [sys.executable, *(launcher if ranks else []), *script_and_arguments(tool, arguments)]
        environment = tool_environment(root)
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=240)
        if ranks:
            lines = (log_dir / "workerlog.0").read_text().splitlines(keepends=True)
            done.stdout = "".join(line for line in lines if "tcp_store" not in line)  # as Paddle 2's C++ logs after all is done
        return done

    return run


@pytest.fixture
def run_on_two_nodes(tmp_path):
    """run_on_two_nodes("train.py", "-c", ...) -> the exit status and output of either node: two launchers of one rank each.

    They meet on this machine and work in the folders node0 and node1 of tmp_path, which relative paths refer to.
    """

    def run(tool, *arguments):
        with socket.socket() as probe:  # free by the time the launcher listens, unless somebody is quick
            probe.bind(("127.0.0.1", 0))
            master = f"127.0.0.1:{probe.getsockname()[1]}"
        nodes = []
        try:
            for rank in (0, 1):
                folder = tmp_path / f"node{rank}"
                folder.mkdir(exist_ok=True)
                launcher = [
                    "--master",
                    master,
                    "--nnodes",
                    "2",
                    "--rank",
                    str(rank),
                    "--nproc_per_node",
                    "1",
                    "--log_dir",
                    "log",
                ]
                command = [sys.executable, "-m", "paddle.distributed.launch", *launcher, *script_and_arguments(tool, arguments)]
                quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                nodes.append(subprocess.Popen(command, env=tool_environment(tmp_path), cwd=folder, **quiet))
            statuses = [node.wait(timeout=120) for node in nodes]
        finally:
            for node in nodes:
                node.terminate()  # the launcher hands it on to its rank
            for node in nodes:
                node.wait(timeout=60)
        return [(status, (tmp_path / f"node{n}" / "log" / f"workerlog.{0}").read_text()) for n, status in enumerate(statuses)]

    return run


@pytest.fixture
def main_of(monkeypatch):
    """main_of("export.py") -> a function of the tool's arguments, which gives its status; in this process, which has Paddle."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"tool_{Path(name).stem}", ROOT / "tools" / name)
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)

        def run(*arguments):
            monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
            return tool.main()

        return run

    return load


@pytest.fixture
def call_tool(main_of, monkeypatch, tmp_path, capsys):
    """As `run_tool` without ranks, in this process, which has Paddle; not for training, whose signal handlers would stay."""

    def call(tool, *arguments, root=tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("RDROP_DATA", str(root))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command_line.run(lambda: main_of(tool)(*arguments))
        said = capsys.readouterr()
        return subprocess.CompletedProcess([tool, *arguments], ended.value.code or 0, said.out, said.err)

    return call


def train_text(task_class, config, resume=False, until=None):
    """A finished Trainer, or with `until` one that was stopped behind the checkpoint of that update."""
    import paddle

    from rdrop_paddle.reporting.runlog import RunLog
    from rdrop_paddle.training import engine
    from rdrop_paddle.training.trainer import Trainer

    paddle.seed(7 if resume else 0)  # nothing is to be right because it began in the same way
    trainer = Trainer(task_class(config), config)
    if resume:
        trainer.restore(f"{config.output}/{config.name}")
    with RunLog(config, kept_updates=trainer.updates_done) as log:
        if until:
            log.belongings(trainer.task.belongings())
            for _ in range(until):
                trainer.step(trainer.read()[0])
                log.training(trainer.updates_done, lr=0.0, **_figures(trainer, log))
            trainer.save(log.folder)
        else:
            engine.train(trainer, log)
    return trainer


def _figures(trainer, log):
    means = trainer.fetch(log.folder)
    means.pop("positions")
    return means | dict(reader_cost=0.0, batch_cost=0.0, tokens_per_second=0.0, peak_memory=0.0)


def slopes(model, loss):
    """(by differences, by the gradients): how fast `loss()` grows along one random direction of all the model's parameters."""
    loss().backward()
    gradients = [p.grad.numpy() for p in model.parameters()]
    starts = [p.numpy().copy() for p in model.parameters()]
    directions = [np.random.default_rng(n).normal(size=start.shape) for n, start in enumerate(starts)]
    step, values = 1e-6, []
    for sign in (1, -1):
        for parameter, start, direction in zip(model.parameters(), starts, directions):
            parameter.set_value(start + sign * step * direction)
        values.append(loss().item())
    by_gradients = sum((gradient * direction).sum() for gradient, direction in zip(gradients, directions))
    return (values[0] - values[1]) / (2 * step), by_gradients


def script_and_arguments(tool, arguments):
    script = ROOT / "tools" / tool if "/" not in tool else ROOT / tool
    return [str(script), *map(str, arguments)]


def tool_environment(root):
    return {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "PYTEST_CURRENT_TEST")} | {
        "RDROP_DATA": str(root)
    }


def logged(folder):
    """The records of metrics.jsonl without what depends on the clock or on the process."""
    clock = ("images_per_second", "tokens_per_second", "examples_per_second", "reader_cost", "batch_cost", "peak_memory")
    records = map(json.loads, (Path(folder) / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in record.items() if key not in clock} for record in records]


@pytest.fixture
def google_npz(tmp_path):
    """google_npz(model, **changes) -> (path, arrays): random weights for the model in Google's .npz layout.

    A change adds or replaces an array by its name; None removes it.
    """

    def write(model, changes=None, seed=0):
        rng = np.random.default_rng(seed)
        arrays = {}
        for name, parameter in model.named_parameters():
            arrays |= google_arrays(name, rng.normal(0, 0.05, parameter.shape).astype("float32"), model)
        arrays |= changes or {}
        path = tmp_path / "google.npz"
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
        return path, arrays

    return write


def google_arrays(name, array, model):
    """One parameter of this project as the array or arrays of Google's file, written independently of the reader."""
    heads = model.blocks[0].attn.num_heads
    simple = {
        "cls_token": "cls",
        "pos_embed": "Transformer/posembed_input/pos_embedding",
        "patch_embed.proj.bias": "embedding/bias",
        "norm.weight": "Transformer/encoder_norm/scale",
        "norm.bias": "Transformer/encoder_norm/bias",
        "head.weight": "head/kernel",
        "head.bias": "head/bias",
    }
    if name in simple:
        return {simple[name]: array}
    if name == "patch_embed.proj.weight":
        return {"embedding/kernel": np.moveaxis(array, [2, 3, 1, 0], [0, 1, 2, 3])}
    _, number, layer = name.split(".", 2)
    block = f"Transformer/encoderblock_{number}"
    attention = f"{block}/MultiHeadDotProductAttention_1"
    if layer.startswith("attn.qkv"):
        kind = "kernel" if layer.endswith("weight") else "bias"
        parts = np.split(array, 3, axis=-1)
        return {
            f"{attention}/{part}/{kind}": values.reshape(*values.shape[:-1], heads, -1)
            for part, values in zip(("query", "key", "value"), parts)
        }
    if layer == "attn.proj.weight":
        return {f"{attention}/out/kernel": array.reshape(heads, -1, array.shape[-1])}
    if layer == "attn.proj.bias":
        return {f"{attention}/out/bias": array}
    renamed = {
        "norm1.weight": "LayerNorm_0/scale",
        "norm1.bias": "LayerNorm_0/bias",
        "norm2.weight": "LayerNorm_2/scale",
        "norm2.bias": "LayerNorm_2/bias",
        "mlp.fc1.weight": "MlpBlock_3/Dense_0/kernel",
        "mlp.fc1.bias": "MlpBlock_3/Dense_0/bias",
        "mlp.fc2.weight": "MlpBlock_3/Dense_1/kernel",
        "mlp.fc2.bias": "MlpBlock_3/Dense_1/bias",
    }
    return {f"{block}/{renamed[layer]}": array}


@pytest.fixture
def small_cifar(tmp_path):
    """small_cifar(hostile=None, like=CIFAR100) -> (CifarArchive, path of a .tar.gz): 40 training and 20 test images in all.

    `hostile`: an object whose pickle replaces the member "train"; the md5 of the description fit in any case.
    """

    def make(hostile=None, like=cifar.CIFAR100):
        rng, contents = np.random.default_rng(0), {}
        for split, count in (("train", 40), ("test", 20)):
            for name in like.members[split]:
                entry = hostile if hostile and split == "train" else _cifar_entry(rng, count // len(like.members[split]), like)
                contents[name] = pickle.dumps(entry, protocol=2)
        contents[like.meta] = pickle.dumps({like.class_names_key: ["apple", "bear"]}, protocol=2)
        archive = dataclasses.replace(like, md5={name: hashlib.md5(content).hexdigest() for name, content in contents.items()})
        path = tmp_path / archive.file_name
        with tarfile.open(path, "w:gz") as tar:
            for name, content in contents.items():
                member = tarfile.TarInfo(f"{archive.folder}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return archive, path

    return make


def _cifar_entry(rng, count, archive):
    pixels = rng.integers(0, 256, [count, 3072], dtype="uint8")
    return {"data": _Python2Array(pixels), archive.label_key: [n % 2 for n in range(count)]}


class _Python2Array:
    """Pickles an array as Python 2's numpy did, which is what the official archives hold: raw bytes as text."""

    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        reconstruct, _, state = self.array.__reduce__()
        return reconstruct, (np.ndarray, (0,), "b"), (*state[:4], self.array.tobytes().decode("latin1"))


@pytest.fixture
def server(tmp_path):
    """Serves tmp_path/served on 127.0.0.1; server.url is its address."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.url = f"http://127.0.0.1:{running.server_port}"
        running.folder = folder
        threading.Thread(target=running.serve_forever, args=[0.01], daemon=True).start()
        yield running
        running.shutdown()


class Payload:
    """Pickles as a call of `function`: what a hostile file makes plain `pickle.load` run."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.fixture(scope="session")
def real_data():
    """The folder of the real archive and weights; skips the test when a file is absent."""
    root = Path(os.environ.get("RDROP_DATA") or "~/.cache/rdrop").expanduser()
    for name in ("cifar-100-python.tar.gz", "Ti_16-i21k-imagenet2012-res_224.npz"):
        if not (root / name).exists():
            pytest.skip(f"{name} is not in {root} (RDROP_DATA)")
    return root
