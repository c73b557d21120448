import numpy as np
import pytest

from rdrop_paddle import UserError
from rdrop_paddle.vision import class_predictions
from rdrop_paddle.vision.class_predictions import Predictions

NAMES = ["cat", "dog, small", "empty", "fox"]
#                       right:  y  n  n  y  n  n  y  y
LABELS, PREDICTED = np.array([[0, 0, 0, 1, 3, 3, 3, 3], [0, 1, 1, 1, 0, 1, 3, 3]])


def test_accuracy_by_class_and_confused_pairs_are_those_of_a_count_by_hand():
    found = Predictions(LABELS, PREDICTED, NAMES)
    assert found.correct == 4
    np.testing.assert_array_equal(found.class_accuracies(), [1 / 3, 1, np.nan, 1 / 2])
    assert found.confused_pairs(10) == [(0, 1, 2), (3, 0, 1), (3, 1, 1)]
    assert found.confused_pairs(1) == [(0, 1, 2)]
    assert Predictions(LABELS, LABELS, NAMES).confused_pairs(10) == []


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "predictions.csv"
    class_predictions.write(path, Predictions(LABELS, PREDICTED, NAMES))
    assert path.read_text().splitlines()[:3] == [
        "index,label,prediction,label_name,prediction_name",
        "0,0,0,cat,cat",
        '1,0,1,cat,"dog, small"',
    ]
    found = class_predictions.read(path)
    np.testing.assert_array_equal([found.labels, found.predicted], [LABELS, PREDICTED])
    assert found.class_names == ["cat", "dog, small", "2", "fox"]  # the file does not name a class without images


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "cannot read .*predictions.csv: No such file"),
        ("", "holds no prediction"),
        ("a,b\n1,2\n", "is no file of predictions"),
        ("index,label,prediction,label_name,prediction_name\n0,cat,dog,cat,dog\n", "is no file of predictions"),
        ("index,label,prediction,label_name,prediction_name\n0,1\n", "is no file of predictions"),
    ],
)
def test_another_file_is_a_user_error(tmp_path, text, words):
    path = tmp_path / "predictions.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=words):
        class_predictions.read(path)
