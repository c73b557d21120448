"""Which of a file's dictionaries holds the weights that are meant, and what wrappers have put before their names.

A training checkpoint may hold a model, a moving average of it (EMA) and an optimizer's state, each a dictionary of tensors.
The model is known by its anchor, a regular expression for names of tensors that it alone has, such as cls_token in a ViT.
"""

import re

from ..errors import UserError
from .training_pickle import Inert

EMA = re.compile("(?<![a-z])ema(?![a-z])", re.IGNORECASE)
TREES = ("params/", "opt/target/")  # where training programs in JAX keep the model; beside it lies the optimizer's state
_INNER_WRAPPERS = re.compile(r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


class Choice:
    """What is taken of the file at `path`; `notes` tells it in a few words each.

    Args:
        anchor: a regular expression for a whole name, without wrappers; None takes the dictionary with most tensors as it is.
        ema: take the average instead of the weights beside it.
    """

    def __init__(self, path, anchor=None, ema=False):
        self.path, self.notes = path, []
        self._anchor = anchor and re.compile(rf"((?:[^./]+[./])*?)(?:{anchor})")
        self._ema, self._has_average = ema, False

    def dictionary(self, found, is_tensor):
        """The dictionary of tensors that is meant: `found`, or one in it, as in {"model": {...}, "optimizer": {...}}.

        Raises:
            UserError: there is none, or there are several.
        """
        candidates, counts, anchored = {}, {}, set()
        if isinstance(found, dict):
            candidates = {"": found} | {str(name): value for name, value in found.items() if isinstance(value, dict)}
        for name, values in candidates.items():
            tensors = [key for key, value in values.items() if isinstance(key, str) and is_tensor(value)]
            if tensors:
                counts[name] = len(tensors)
                # the model's before an optimizer's, which may have several tensors a parameter
                anchored |= {name} if self._prefixes(tensors) else set()
        if not counts:
            raise UserError(f"{self.path}: holds no dictionary of tensors{_objects(found)}")
        meant = self._meant([name for name in counts if name in anchored or not anchored])
        names = [name for name in meant if counts[name] == max(counts[name] for name in meant)]
        if len(names) > 1:
            raise UserError(
                f"{self.path}: holds {' and '.join(names)}, alike in size; save the one you mean in a file of its own"
            )
        return {key: value for key, value in candidates[names[0]].items() if isinstance(key, str)}

    def own_names(self, arrays):
        """{name: array} without what wrappers and trainers have put before the names.

        Raises:
            UserError: there are several models, two tensors of one name, or no average where one was asked for.
        """
        for tree in TREES:
            if inside := {name.removeprefix(tree): array for name, array in arrays.items() if name.startswith(tree)}:
                arrays = inside
                self.notes.append(f"prefix {tree} removed")
                break
        prefixes = self._prefixes(arrays)
        meant = self._meant(prefixes)
        if len(meant) > 1:
            raise UserError(
                f"{self.path}: holds models under {' and '.join(meant)}; save the one you mean in a file of its own"
            )
        prefix = meant[0] if meant else ""
        arrays = {name: array for name, array in arrays.items() if _belongs(name, prefix, prefixes)}
        if 2 * sum(name.startswith(prefix) for name in arrays) < len(arrays):
            prefix = ""  # before a few names only: no wrapper
        own = {}
        for name, array in arrays.items():
            short = _INNER_WRAPPERS.sub("", _without(name, prefix))
            if short in own:
                raise UserError(f"{self.path}: two tensors are called {short} without their wrappers' prefixes")
            own[short] = array
        if prefix:
            self.notes.append(f"prefix {prefix} removed")
        self._count_of_average(own)
        if self._ema and not self._has_average:
            raise UserError(f"{self.path}: holds no average of the weights (EMA): leave --ema out")
        return own

    def take_average(self, note):
        """Say that what is read is an average."""
        self._has_average = True
        self.notes.append(note)

    def _meant(self, names):
        """The averages among `names`, where they are asked for or alone; otherwise the others."""
        averages = [name for name in names if EMA.search(name)]
        others = [name for name in names if name not in averages]
        if averages and (self._ema or not others):
            self.take_average(f"the average {averages[0].rstrip('./')}")
            return averages
        if averages:
            self.notes.append(f"the average {averages[0].rstrip('./')} left aside, --ema takes it")
        return others

    def _prefixes(self, names):
        """What stands before the names of anchors, sorted."""
        matches = map(self._anchor.fullmatch, names) if self._anchor else ()
        return sorted({match.group(1) for match in matches if match})

    def _count_of_average(self, arrays):
        """Take out the count that torch's AveragedModel keeps beside its `module`."""
        for name in [name for name in arrays if name.rpartition(".")[2] == "n_averaged" and arrays[name].size == 1]:
            self.take_average(f"an average of {arrays.pop(name).item()}")


def _parts(prefix):
    return re.findall(r"[^./]*[./]", prefix)


def _without(name, prefix):
    """`name` without as many of the prefix's parts as it begins with: a head may lie outside of the wrapper."""
    for part in _parts(prefix):
        if not name.startswith(part):
            break
        name = name[len(part) :]
    return name


def _belongs(name, prefix, prefixes):
    """Whether `name` is of the model under `prefix`, rather than of one under another of `prefixes`.

    It is of that with which it shares most parts, then of that which has fewest others; if both are alike, it is of both.
    """

    def nearness(other):
        shared = len(_parts(name)) - len(_parts(_without(name, other)))
        return shared, shared - len(_parts(other))

    return all(nearness(prefix) >= nearness(other) for other in prefixes)


def _objects(found):
    """What a file without a dictionary of tensors holds instead, and what to do."""
    values = [found, *found.values()] if isinstance(found, dict) else [found]
    kinds = dict.fromkeys(value.kind[:80] for value in values if isinstance(value, Inert) and value.kind)
    return f" but objects, {', '.join(list(kinds)[:3])}: save the model's state dict alone" if kinds else ""
