"""What runlog.py writes into a run folder for others to read, without Paddle."""

import contextlib
import json

OUTCOME = "eval.txt"  # what the run came to, in one line


def read_metrics(folder):
    """The records of metrics.jsonl so far; a last line that was cut when a run was killed is left out."""
    path, records = folder / "metrics.jsonl", []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records
