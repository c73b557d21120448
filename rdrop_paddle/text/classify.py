"""Texts in, labels out: what a model says of each, whatever else is asked with it, and how far that spreads in dropout."""

from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
import paddle

from ..errors import UserError
from ..training.dropout_passes import check_passes, disagreement, dropout_logits
from .glue import DATASETS
from .label_predictions import probabilities
from .parallel import lines_of, read_lines
from .tables import KINDS, read_table


class Answer(NamedTuple):
    """What was found for one text or pair. The last two belong to passes with dropout."""

    values: np.ndarray  # [classes], the probabilities, or [1], a number; the mean over the passes
    spread: Optional[np.ndarray] = None  # of the same shape, standard deviation over the passes
    disagreement: Optional[float] = (
        None  # of two passes: mean symmetric KL divergence in nats, of numbers mean squared difference
    )


def read_inputs(names, data, standard_input):
    """(texts, second texts or None) of files, in which a line is a text or two with a tab between, or of tables.

    Args:
        names: of files; a .tsv, .csv or .jsonl is a table with the columns of `data`. Without any, `standard_input()` gives
            the bytes of lines.
        data: a LabelledDataConfig.

    Raises:
        UserError: a file that cannot be read, or a line that is no pair where the model takes pairs.
    """
    columns, rows = [name for name in data.columns[:2] if name], []
    header = DATASETS[data.name].columns if data.name in DATASETS else None
    for name in map(Path, names):
        if name.suffix.lower() in KINDS:
            rows += _of_table(name, columns, header)
        else:
            rows += _of_lines(read_lines(name), name, len(columns))
    if not names:
        rows = _of_lines(lines_of(standard_input(), "standard input"), "standard input", len(columns))
    texts, *pairs = ([row[column] for row in rows] for column in range(len(columns)))
    return texts, pairs[0] if pairs else None


def classify(task, texts, pairs=None, *, passes=None, progress=None):
    """An Answer for each of `texts`, or of pairs of one and that in its place in `pairs`; None where a text is empty.

    Args:
        task: an Understanding with its weights, of which data are not used.
        passes: so many passes with dropout instead of one without; each text meets the same masks, drawn from `train.seed`,
            whatever texts are beside it.
        progress: a function of how many are done, called after each batch.

    Raises:
        UserError: fewer than two passes, or a model without dropout.
    """
    model, config = task.model, task.config
    if passes is not None:
        check_passes(passes, drops=config.model.drop_rate > 0 or config.model.attention_drop_rate > 0)
    model.eval()
    full = [n for n, parts in enumerate(zip(*filter(None, (texts, pairs)))) if all(part.strip() for part in parts)]
    ids, types = task.encode([texts[n] for n in full], pairs and [pairs[n] for n in full], "what is given")
    order = np.argsort([len(row) for row in ids], kind="stable")
    found, size = [None] * len(texts), config.eval.batch_size if passes is None else 1
    for start in range(0, len(order), size):
        part = order[start : start + size]
        inputs = task.inputs([ids[n] for n in part], [types[n] for n in part])
        answers = _answers(model, inputs) if passes is None else [_dropout_answer(model, inputs, passes, config)]
        for n, answer in zip(part, answers):
            found[full[n]] = answer
        if progress:
            progress(len(texts) - len(full) + start + len(part))
    return found


def line(answer, names, count):
    """An answer as fields with tabs between: the `count` likeliest classes, each with its probability, or the number.

    With passes the spread follows each number, and the disagreement all of them. "" for None.
    """
    if answer is None:
        return ""
    fields = []
    for label in top(answer, count):
        fields += [] if names is None else [names[label]]
        fields += [f"{number[label]:.4f}" for number in (answer.values, answer.spread) if number is not None]
    fields += [] if answer.disagreement is None else [f"{answer.disagreement:.4f}"]
    return "\t".join(fields)


def as_json(answer, names, count, **texts):
    """What `line` shows as JSON values, behind the texts."""
    if answer is None:
        return {**texts, **({"number": None} if names is None else {"top": []})}
    rows = []
    for label in top(answer, count):
        named = {} if names is None else {"label": label, "class": names[label]}
        spread = {} if answer.spread is None else {"spread": answer.spread[label].item()}
        rows.append(named | {"number" if names is None else "probability": answer.values[label].item()} | spread)
    told = {} if answer.disagreement is None else {"disagreement": answer.disagreement}
    return {**texts, **(rows[0] if names is None else {"top": rows}), **told}


def top(answer, count):
    """The labels of the `count` likeliest classes, the likeliest first."""
    return np.argsort(-answer.values, kind="stable")[:count].tolist()


def _of_table(path, columns, header):
    table = read_table(path, columns, header)
    if table.broken:
        raise UserError(f"{path}, {table.broken[0]}")
    return [row.values for row in table.rows]


def _of_lines(lines, place, count):
    if count == 1:
        return [[text] for text in lines]
    rows = [text.split("\t") if text else [""] * count for text in lines]
    for number, row in enumerate(rows, start=1):
        if len(row) != count:
            raise UserError(f"{place}, line {number}: {len(row)} texts, and the model takes pairs: give two with a tab between")
    return rows


def _answers(model, inputs):
    with paddle.no_grad():
        outputs = model(*inputs).numpy()
    return [Answer(row) for row in _values(outputs)]


def _dropout_answer(model, inputs, passes, config):
    logits = dropout_logits(model, inputs, passes, seed=config.train.seed, batch_size=config.eval.batch_size)
    values = _values(logits.numpy())
    spread = values.std(axis=0, ddof=1)
    if values.shape[1] > 1:
        return Answer(values.mean(axis=0), spread, disagreement(logits))
    return Answer(values.mean(axis=0), spread, 2 * spread.item() ** 2)  # of all pairs of passes


def _values(outputs):
    return probabilities(outputs) if outputs.shape[1] > 1 else outputs.astype("float64")
