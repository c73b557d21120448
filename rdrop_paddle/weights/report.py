"""What became of every tensor of a model and of a weight file."""

from dataclasses import dataclass, field
from typing import List, NamedTuple

from ..errors import UserError


class Row(NamedTuple):
    """What became of one tensor.

    `action` is loaded, transposed, reshaped, fused, split, resized or reset, if the model has a value for it now, and random
    if it has the one of before; dropped, missing, unexpected or misshapen otherwise.
    """

    name: str
    action: str
    detail: str


@dataclass
class WeightReport:
    """Every tensor of the model and of the file, with what was done; `str()` tells what is worth a look."""

    path: str
    format: str
    sha256: str
    rows: List[Row] = field(default_factory=list)

    def names(self, action):
        return [row.name for row in self.rows if row.action == action]

    def summary(self):
        """One line: the format, how many tensors each action befell, and the file's checksum."""
        actions = list(dict.fromkeys(row.action for row in self.rows))
        counts = ", ".join(f"{len(self.names(action))} {action}" for action in actions)
        return f"{self.path} ({self.format}): {counts}, sha256 {self.sha256}"

    def table(self, rows=None):
        """The summary, then a line for each of `rows`, by default all."""
        rows = self.rows if rows is None else rows
        width = max((len(row.name) for row in rows), default=0)
        return "\n".join([self.summary(), *(f"  {r.name:<{width}}  {r.action:<10}  {r.detail}" for r in rows)])

    def refuse_leftovers(self):
        """Raises a UserError when a tensor is missing, unexpected or misshapen; it names the first three."""
        problems = [row for row in self.rows if row.action in ("missing", "unexpected", "misshapen")]
        if not problems:
            return
        first = "; ".join(f"{row.name} {row.action} ({row.detail})" for row in problems[:3])
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{self.path} ({self.format}) does not fit the model: {first}{more}")

    def __str__(self):
        return self.table(
            [row for row in self.rows if row.action not in ("loaded", "transposed", "reshaped", "fused", "split")]
        )
