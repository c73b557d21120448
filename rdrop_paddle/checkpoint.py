"""Checkpoints that resume a run: output/<name>/checkpoints/update-N/, and best.safetensors.

A checkpoint is written under a temporary name and renamed when it is whole; the newest whole one is the latest.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import safetensors.numpy
from safetensors import SafetensorError
from safetensors.numpy import load_file

from . import ranks
from .errors import UserError

WEIGHT_FORMAT = "rdrop_paddle"  # in the header of weight files: whose names and layout the tensors have
KEPT = 2  # checkpoints in a run folder


def save(run_folder, model, momentum, *, update, best):
    """Write the state after `update`: the model, its `momentum_arrays`, and the best accuracy so far, or None."""
    folder = Path(run_folder) / "checkpoints" / f"update-{update:08d}"
    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_weights(model_arrays(model), unfinished / "model.safetensors", update=update)
    save_weights(momentum, unfinished / "momentum.safetensors", update=update)
    (unfinished / "state.json").write_text(json.dumps({"update": update, "best": best}))
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    for old in _all(run_folder)[:-KEPT]:
        shutil.rmtree(old)


def load(run_folder, model, optimizer, shards):
    """Load the latest checkpoint, of its momentum this rank's share; returns its {"update", "best"}.

    Raises:
        UserError: it is damaged or does not fit the model.
    """
    folder = latest(run_folder)
    try:
        arrays = load_file(str(folder / "model.safetensors"))
        momentum = load_file(str(folder / "momentum.safetensors"))
        progress = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"damaged checkpoint {folder} ({error}): remove it to resume from the one before") from None
    parameters = dict(model.named_parameters())
    if {n: list(a.shape) for n, a in arrays.items()} != {n: list(p.shape) for n, p in parameters.items()}:
        raise UserError(f"{folder} holds another model than the config describes; resume with the config it was made with")
    _set_parameters(model, arrays)
    schedule = optimizer.state_dict()["LR_Scheduler"]  # Paddle wants it; it stays as it is and follows from the update
    own = {p.name for p in shards.own}
    velocities = {_momentum_key(p): momentum[name] for name, p in parameters.items() if p.name in own}
    optimizer.set_state_dict({"LR_Scheduler": schedule} | velocities)
    return progress


def save_best(run_folder, model, **metadata):
    """Write best.safetensors, which tools/eval.py reads; metadata go into its header."""
    path = Path(run_folder) / "best.safetensors"
    save_weights(model_arrays(model), path.with_suffix(".part"), **metadata)
    path.with_suffix(".part").replace(path)


def load_best(run_folder, model):
    """Load best.safetensors on every rank, after rank 0 has written it."""
    ranks.wait_for_all()
    _set_parameters(model, load_file(str(Path(run_folder) / "best.safetensors")))


def latest(run_folder):
    """The newest checkpoint's folder, or None."""
    return (_all(run_folder) or [None])[-1]


def save_weights(arrays, path, **metadata):
    """Write named numpy arrays as safetensors in this project's names; metadata values are kept as strings."""
    header = {"format": WEIGHT_FORMAT, **{key: str(value) for key, value in metadata.items()}}
    # not save_file, which makes a file that only its owner can read
    Path(path).write_bytes(safetensors.numpy.save(arrays, metadata=header))


def model_arrays(model):
    """{name: float32 array} of the model's parameters."""
    return {name: np.ascontiguousarray(p.astype("float32").numpy()) for name, p in model.named_parameters()}


def momentum_arrays(model, optimizer, shards):
    """{name of the parameter: float32 array} of the optimizer's velocities, once it has made an update.

    They do not depend on the sharding. All ranks must call it.
    """
    state = optimizer.state_dict()
    return {name: np.asarray(shards.whole(p, state.get(_momentum_key(p)))) for name, p in model.named_parameters()}


def _set_parameters(model, arrays):
    for name, parameter in model.named_parameters():
        parameter.set_value(paddle.to_tensor(arrays[name]).astype(parameter.dtype))


def _all(run_folder):
    return sorted(p for p in (Path(run_folder) / "checkpoints").glob("update-*") if p.suffix != ".part")


def _momentum_key(parameter):
    return f"{parameter.name}_velocity_0"  # the name that Paddle's Momentum gives it
