"""A text as one stream of tokens, and the windows of it that a language model is given."""

from typing import NamedTuple

import numpy as np

IGNORED = -1  # in the place of a label that is not scored


class Stream(NamedTuple):
    """The tokens of a text of L lines and T tokens, of which each line's last is its end.

    The model predicts token n, counted from 0, having seen those before it, which begin with the end of a line.
    """

    tokens: np.ndarray  # int32 [1 + T], the first the end of a line that is not there: tokens[n + 1] is token n
    ends: np.ndarray  # int64 [L]: how many tokens the text has up to the end of each line
    words: np.ndarray  # int64 [L]: how many words, as spaces part them, and each line's end is one

    def __len__(self):
        """T"""
        return len(self.tokens) - 1

    def words_of(self, windows):
        """How many words the lines have that end in what each Window scores, int64 [N]; they add up to those of the text."""
        up_to = np.concatenate([[0], self.words])
        first, last = (up_to[np.searchsorted(self.ends, bounds, side="right")] for bounds in (windows.scored, windows.ends))
        return last - first


class Windows(NamedTuple):
    """Parts of a Stream, tokens `starts` to `ends`, of which the model is scored from `scored` on; int64 [N] each."""

    starts: np.ndarray
    scored: np.ndarray
    ends: np.ndarray

    def lengths(self):
        return self.ends - self.starts


def stream_of(lines, ended, end):
    """The Stream of lines of text, of which `ended` are the tokens, int32 arrays; `end` is the token that each ends with."""
    ended = list(ended)
    words = np.asarray([len(line.split()) + 1 for line in lines], "int64")
    tokens = np.concatenate([np.asarray([end], "int32"), *ended])
    return Stream(tokens, np.cumsum([len(ids) for ids in ended]), np.cumsum(words))


def windows_of(stream, longest, *, by_line, context=0):
    """The Windows of at most `longest` tokens that score each token of a Stream once.

    Args:
        by_line: no window reaches over the end of a line; otherwise one follows the other through the whole text.
        context: how many tokens a window sees before the first one that it scores, where its line or the text has so many.
    """
    ends = stream.ends if by_line else stream.ends[-1:]
    windows = []
    for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist()):
        scored, last = begin, min(begin + longest, end)
        windows.append((begin, scored, last))
        while last < end:
            scored, last = last, min(last + longest - context, end)
            windows.append((max(scored - context, begin), scored, last))
    return Windows(*np.asarray(windows, "int64").T)


def arrays_of(stream, windows, indices):
    """(tokens, labels) of some Windows, int64 [N, longest of them]: what each token has before it, and the tokens.

    Labels are IGNORED where nothing is scored; shorter windows are filled up with 0 and IGNORED.
    """
    shape = [len(indices), int(windows.lengths()[indices].max())]
    tokens, labels = np.zeros(shape, "int64"), np.full(shape, IGNORED, "int64")
    for row, index in enumerate(indices):
        start, scored, end = (int(bounds[index]) for bounds in windows)
        tokens[row, : end - start] = stream.tokens[start:end]
        labels[row, scored - start : end - start] = stream.tokens[scored + 1 : end + 1]
    return tokens, labels
