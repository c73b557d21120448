import itertools

import numpy as np
import pytest

from rdrop_paddle.text.token_stream import IGNORED, arrays_of, stream_of, windows_of

END = 2
LINES = ["a b", "c", "d e f g h i j", "", "k l"]
IDS = [[10, 11, END], [12, END], [13, 14, 15, 16, 17, 18, 19, END], [END], [20, 21, END]]
TEXT = [number for ids in IDS for number in ids]


@pytest.fixture
def stream():
    return stream_of(LINES, [np.asarray(ids, "int32") for ids in IDS], END)


@pytest.mark.parametrize("by_line", [False, True])
@pytest.mark.parametrize("longest, context", [(4, 0), (4, 3), (5, 2), (100, 0), (100, 40), (1, 0)])
def test_each_token_is_scored_once_after_what_is_before_it(stream, by_line, longest, context):
    windows = windows_of(stream, longest, by_line=by_line, context=context)
    assert windows.lengths().max() <= longest
    scored = [token for first, last in zip(windows.scored, windows.ends) for token in range(first, last)]
    assert scored == [*range(len(TEXT))] and len(stream) == len(TEXT)
    tokens, labels = arrays_of(stream, windows, np.arange(len(windows.starts)))
    before = [END, *TEXT]
    for row, (start, first, last) in enumerate(zip(*windows)):
        assert tokens[row, : last - start].tolist() == before[start:last]
        assert labels[row].tolist() == [IGNORED] * (first - start) + TEXT[first:last] + [IGNORED] * (
            labels.shape[1] - last + start
        )


@pytest.mark.parametrize("by_line", [False, True])
def test_each_token_has_the_context_that_was_asked_for_where_its_text_has_so_much(stream, by_line):
    begins = [0, *itertools.accumulate(map(len, IDS))]
    for start, first, _ in zip(*windows_of(stream, 5, by_line=by_line, context=3)):
        beginning = max(begin for begin in begins if begin <= first) if by_line else 0
        assert first - start == min(3, first - beginning)


@pytest.mark.parametrize("by_line, longest, context", [(False, 3, 2), (False, 100, 0), (True, 3, 1), (True, 4, 0)])
def test_words_of_windows_add_up_to_those_of_the_text(stream, by_line, longest, context):
    windows = windows_of(stream, longest, by_line=by_line, context=context)
    words = stream.words_of(windows)
    assert words.sum() == sum(len(line.split()) + 1 for line in LINES) == 17
    ends = [position for position, number in enumerate(TEXT) if number == END]
    for found, first, last in zip(words, windows.scored, windows.ends):
        inside = [line for line, end in zip(LINES, ends) if first <= end < last]
        assert found == sum(len(line.split()) + 1 for line in inside)


def test_windows_do_not_cross_lines_where_each_is_a_sample(stream):
    windows = windows_of(stream, 100, by_line=True)
    assert [TEXT[start:end] for start, _, end in zip(*windows)] == IDS
