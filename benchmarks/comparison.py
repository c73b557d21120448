"""What the checks of Paddle's paper-reproduction guide share: named arrays of both sides, compared, kept and tabulated.

Both sides are written as `.npy` dictionaries and a diff log as reprod_log does, and each comparison is a row of the summary.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from rdrop_paddle.durability import files


class Row(NamedTuple):
    """One line of the summary: the worst tensor of a check."""

    check: str
    compared: str
    difference: float
    bound: float

    @property
    def passed(self):
        return self.difference <= self.bound


class Comparison:
    """Compares by max|a - b| / max|b| and keeps both sides in the folder `output`."""

    def __init__(self, output):
        self.output = Path(output)
        with files.writing(self.output, "choose another --output"):
            self.output.mkdir(parents=True, exist_ok=True)

    def compare(self, check, compared, found, expected, bound, saved=None):
        """The worst tensor as a Row; both sides and the diff log go to the output folder."""
        if found.keys() != expected.keys():
            raise KeyError(f"{check}: {sorted(found.keys() ^ expected.keys())} on one side only")
        differences = {name: relative_difference(found[name], expected[name]) for name in found}
        worst = max(differences, key=differences.get)
        stem = f"{check} {compared}".replace(",", "").replace(" ", "_").lower()
        for side, arrays in (("paddle", found), ("ref", expected)):
            np.save(
                self.output / f"{stem}_{side}.npy", {name: arrays[name][:saved] if saved else arrays[name] for name in found}
            )
        lines = [f"{name}: check passed: {value <= bound}, value: {value:.3e}" for name, value in differences.items()]
        (self.output / f"{stem}_diff.log").write_text("\n".join([*lines, ""]))
        return Row(check, f"{compared} (worst: {worst})" if len(found) > 1 else compared, differences[worst], bound)


def relative_difference(found, expected):
    """max|a - b| / max|b|, and infinity where a shape differs or a value is not finite."""
    found, expected = np.asarray(found, "float64"), np.asarray(expected, "float64")
    if found.shape != expected.shape or not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def summary(rows):
    """The rows as a Markdown table."""
    lines = ["| check | compared | max relative difference | bound | |", "|---|---|---|---|---|"]
    lines += [
        f"| {r.check} | {r.compared} | {r.difference:.1e} | {r.bound:.0e} | {'PASS' if r.passed else 'FAIL'} |" for r in rows
    ]
    return "\n".join(lines)
