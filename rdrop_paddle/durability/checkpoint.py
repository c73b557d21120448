"""Checkpoints that resume a run: output/<name>/checkpoints/update-N/, and best.safetensors.

A checkpoint holds model, the optimizer's state and, when on, ema as safetensors, whose headers say which they hold,
state.json, and a manifest by which damage is found (see files.py). The file checkpoints/latest names the newest one, for
people and scripts; resuming looks at the folders itself.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import safetensors.numpy
from safetensors import SafetensorError
from safetensors.numpy import load_file

from .. import ranks
from ..config import OTHER_MASKS, flatten
from ..errors import UserError
from . import files

WEIGHT_FORMAT = "rdrop_paddle"  # in the header of weight files: whose names and layout the tensors have
KEPT = 2  # checkpoints in a run folder
BEST = "best.safetensors"
STATE = "state.json"
DAMAGED = ".damaged"  # behind the name of a checkpoint that did not verify


def save(run_folder, state, belongings=None, **arrays):
    """Write the checkpoint of update `state["update"]`: `state`, of JSON values, and {name: array} for each of model, ....

    `belongings` are JSON values for the headers of these arrays, see weights/belongings.py.

    Raises:
        FloatingPointError: an array is not finite.
        UserError: it cannot be written; those before it are as they were.
    """
    for tensors in arrays.values():
        _check_finite(tensors, run_folder)
    parent = Path(run_folder) / "checkpoints"
    folder = _folder(run_folder, state["update"])
    advice = "the checkpoints before it are whole: make room or the folder writable, and go on with --resume"
    with files.writing(folder, advice):
        parent.mkdir(parents=True, exist_ok=True)
        files.remove_unfinished(parent)
        # a stop that is asked for just after a save has it saved again: what is whole is left alone
        if not (folder.exists() and files.fault(folder) is None):
            if folder.exists():
                files.remove_folder(folder)
            about = dict(update=state["update"], config_sha256=hashlib.sha256(files.json_bytes(state["config"])).hexdigest())
            files.write_folder(folder, _files(state, arrays, belongings), **about)
        _point_to(folder)
        for old in _all(run_folder)[:-KEPT]:
            files.remove_folder(old)


def newest_whole(run_folder):
    """(the newest checkpoint that verifies, notes for the log). Newer ones that do not are renamed *.damaged.

    Rank 0 looks for all; all ranks must call it.

    Raises:
        UserError: none verifies.
    """
    folder, faults = verify(run_folder) if ranks.rank() == 0 else (None, {})
    update = ranks.from_first(_update(folder) if folder else -1)
    if update < 0:
        found = "; ".join(f"{path.name}: {reason}" for path, reason in faults.items()) or "rank 0 says why"
        raise UserError(f"no checkpoint in {run_folder} is whole ({found}): start a run of another name=...")
    if folder:
        with files.writing(folder.parent, "the run that goes on will have to write there"):
            _point_to(folder)
            for damaged in faults:
                target = damaged.with_name(damaged.name + DAMAGED)
                shutil.rmtree(target, ignore_errors=True)
                damaged.rename(target)
    notes = [f"{path} is damaged, so that it was renamed *{DAMAGED} and not used: {faults[path]}" for path in faults]
    return _folder(run_folder, update), notes


def verify(run_folder):
    """(the newest checkpoint that is as it was written, or None; {folder of a newer one: what is wrong with it})."""
    faults = {}
    for folder in reversed(_all(run_folder)):
        reason = files.fault(folder)
        if reason is None:
            return folder, faults
        faults[folder] = reason
    return None, faults


def compare(folder, saved, now, free):
    """Notes for the log on how the state `now` differs from the one that was `saved` in the checkpoint `folder`.

    Args:
        free: {key of the config that may differ: what to note then, or None}.

    Raises:
        UserError: it differs in something that would change the result.
    """
    before, after = flatten(saved), flatten(now)
    free = {f"config.{key}": note for key, note in free.items()} | {"ranks": OTHER_MASKS}
    notes, refused = [], []
    for key in before | after:
        was, now_is = before.get(key, "absent"), after.get(key, "absent")
        if was == now_is:
            continue
        change = f"{key.removeprefix('config.')} was {was} and is {now_is}"
        if key not in free:
            refused.append(change)
        elif free[key] is not None:
            notes.append(f"{change}: {free[key]}")
    if refused:
        raise UserError(
            f"{folder} was made with other settings or data: {'; '.join(refused)}. Resume with the former ones, or start a "
            "run of another name=..."
        )
    return notes


def load_state(folder):
    """The state that `save` was given."""
    return json.loads((folder / STATE).read_text())


def load_arrays(folder, name):
    """The {name: array} that `save` was given as `name`."""
    return load_file(str(folder / f"{name}.safetensors"))


def holds(path, metadata):
    """What a file of named arrays with these `metadata` in its header holds: "model" unless `save` wrote something else.

    Checkpoints of before the header told are known by the files beside it.
    """
    path = Path(path).resolve()
    in_checkpoint = (path.parent / STATE).exists() and (path.parent / files.MANIFEST).exists()
    return metadata.get("holds", path.stem if in_checkpoint else "model")


def save_best(run_folder, model, belongings=None, **metadata):
    """Write best.safetensors, which tools/eval.py reads, and its sha256 beside it; the rest goes into its header.

    `belongings` as in `save`.

    Raises:
        FloatingPointError: a weight is not finite.
        UserError: it cannot be written; the one before is as it was.
    """
    path, arrays = Path(run_folder) / BEST, model_arrays(model)
    _check_finite(arrays, run_folder)
    content = _weight_bytes(arrays, metadata, belongings)
    with files.writing(path, "make room or the folder writable, and go on with --resume"):
        unfinished = path.with_name(path.name + files.UNFINISHED)
        files.write_file(unfinished, content)
        _digest_file(path).unlink(missing_ok=True)  # first, so that a digest is never beside weights that it is not of
        files.sync(path.parent)
        unfinished.replace(path)
        files.sync(path.parent)
        files.replace_file(_digest_file(path), f"{hashlib.sha256(content).hexdigest()}  {BEST}\n".encode())


def load_best(run_folder, model):
    """Load best.safetensors on every rank, after rank 0 has written it.

    Raises:
        UserError: it is absent or damaged.
    """
    ranks.wait_for_all()
    path = Path(run_folder) / BEST
    try:
        content = path.read_bytes()
        beside = _digest_file(path).read_text() if _digest_file(path).exists() else None
        arrays = safetensors.numpy.load(content)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"cannot read the best weights {path}: {error}") from None
    if beside is not None and beside.split()[:1] != [hashlib.sha256(content).hexdigest()]:
        raise UserError(f"the best weights {path} are damaged: their sha256 is not the one in {_digest_file(path).name}")
    set_parameters(model, arrays)


def latest(run_folder):
    """The newest checkpoint's folder, or None."""
    return (_all(run_folder) or [None])[-1]


def save_weights(arrays, path, **metadata):
    """Write named numpy arrays as safetensors in this project's names; metadata values are kept as strings."""
    # not save_file, which makes a file that only its owner can read
    Path(path).write_bytes(_weight_bytes(arrays, metadata))


def model_arrays(model):
    """{name: float32 array} of the model's parameters."""
    return {name: np.ascontiguousarray(p.astype("float32").numpy()) for name, p in model.named_parameters()}


def set_parameters(model, arrays):
    for name, parameter in model.named_parameters():
        parameter.set_value(paddle.to_tensor(arrays[name]).astype(parameter.dtype))


def _check_finite(arrays, run_folder):
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise FloatingPointError(f"{name} is not finite; last good checkpoint: {latest(run_folder) or 'none yet'}")


def _files(state, arrays, belongings):
    """The (name, bytes) of a checkpoint, one at a time to spare memory."""
    for name, tensors in arrays.items():
        yield f"{name}.safetensors", _weight_bytes(tensors, {"update": state["update"], "holds": name}, belongings)
    yield STATE, files.json_bytes(state)


def _weight_bytes(arrays, metadata, belongings=None):
    header = {"format": WEIGHT_FORMAT, **{key: str(value) for key, value in metadata.items()}}
    header |= {name: json.dumps(value) for name, value in (belongings or {}).items()}
    return safetensors.numpy.save(arrays, metadata=header)


def _point_to(folder):
    files.replace_file(folder.parent / "latest", f"{folder.name}\n".encode())


def _digest_file(path):
    return path.with_name(path.name + ".sha256")


def _folder(run_folder, update):
    return Path(run_folder) / "checkpoints" / f"update-{update:08d}"


def _update(folder):
    return int(folder.name.removeprefix("update-"))


def _all(run_folder):
    return sorted(p for p in (Path(run_folder) / "checkpoints").glob("update-*") if not p.suffix)
