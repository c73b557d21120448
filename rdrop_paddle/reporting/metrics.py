"""Reading metrics.jsonl of a run folder, which runlog.py writes."""

import contextlib
import json


def read_metrics(folder):
    """The records so far; a last line that was cut when a run was killed is left out."""
    path, records = folder / "metrics.jsonl", []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records
