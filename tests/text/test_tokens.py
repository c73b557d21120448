import json
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rdrop_paddle import UserError
from rdrop_paddle.text.tokens import BEGIN, END, PADDING, SPECIAL, Tokens, train_tokens

LANGUAGES = ("de", "en")
GERMAN = ["Ein Hund rennt, und zwei Männer sehen ihm zu.", "Der Hund im Gras bellt!"]
ENGLISH = ["A dog runs, and two men watch it.", "The dog's in the grass; it barks!"]
# characters of this Python's Unicode: another version may compose or lower more
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\n"), max_size=30)
MARKUP = st.lists(st.sampled_from([*SPECIAL, "\u2581", "&lt;", "&", "<", "s", ">", "'", " ", "pad"]), max_size=12).map("".join)
SEVERAL = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def trained(source=GERMAN, target=ENGLISH, **changes):
    rules = dict(vocabulary_size=300, joint=True, lowercase=False) | changes
    return train_tokens(LANGUAGES, [source, target], **rules)


def spaced(text):
    return re.sub(r"[\s\u2581]+", " ", text).strip(" ")


@given(TEXTS)
@SEVERAL
def test_what_comes_back_is_the_text_in_nfc_with_single_spaces(text):
    tokens = trained([text])
    assert tokens.decode(0, *tokens.encode(0, [text])) == spaced(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize("space", [*" \t\r\x0b\x1c\x1f\x85\u00a0\u2028\u3000\u2581", "  ", " \u2028\u2581"], ids=ascii)
def test_space_of_any_kind_is_one_space_and_none_at_the_ends(space):
    tokens = trained()
    expected, nothing, *others = tokens.encode(0, ["Ein Hund", space, f"Ein{space}Hund", f"{space}Ein Hund{space}"])
    assert others == [expected] * 2 and nothing == []


@given(TEXTS)
@example("J\u030c")  # the capital has no sign of its own with that, and the small letter has
@SEVERAL
def test_capitals_are_lost_where_it_was_asked(text):
    tokens = trained([text], lowercase=True)
    lowered = "".join(character.lower() for character in text)  # one by one, for the final sigma
    assert tokens.decode(0, *tokens.encode(0, [text])) == spaced(unicodedata.normalize("NFC", lowered))


@given(st.one_of(TEXTS, MARKUP))
@SEVERAL
def test_moses_changes_space_controls_and_quotes_alone(text):
    tokens = trained([text, "the"], moses=True)
    kept = [
        "".join(c for c in unicodedata.normalize("NFC", t) if c.isprintable() and c not in " \u2581'\"`")
        for t in (text, tokens.decode(0, *tokens.encode(0, [text])))
    ]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("moses", [False, True])
@given(text=MARKUP)
@SEVERAL
def test_no_text_becomes_padding_or_an_end(moses, text):
    tokens = trained([text] * 5, moses=moses)  # the tokenizer's merges might lead to them too
    for kept in (tokens, Tokens.from_json(json.loads(json.dumps(tokens.to_json())), "here")):
        assert not {PADDING, BEGIN, END} & {*kept.encode(0, [text])[0]}


def test_moses_parts_words_from_punctuation_and_joins_them_again():
    tokens = trained(moses=True, lowercase=True, vocabulary_size=500)
    text = "The dog's in the grass; it barks!"
    pieces = tokens.pieces(1, *tokens.encode(1, [text]))
    assert "".join(pieces).replace("\u2581", " ") == " the dog &apos;s in the grass ; it barks !"
    assert "\u2581&apos;s" in pieces
    assert tokens.decode(1, *tokens.encode(1, [text])) == text.lower()


def test_words_keep_their_space_and_punctuation_is_a_piece_of_its_own():
    tokens = trained()
    pieces = tokens.pieces(0, *tokens.encode(0, [GERMAN[0]]))
    assert "".join(pieces).replace("\u2581", " ") == " " + GERMAN[0]
    assert {",", "."} <= {*pieces} and "\u2581Hund" in pieces


def test_characters_that_the_training_text_has_not_are_lost_and_nothing_else():
    tokens = trained()
    (ids,) = tokens.encode(0, ["Ein 犬 Hund… rennt"])
    assert tokens.pieces(0, ids).count("<unk>") == 2
    assert tokens.decode(0, [BEGIN, *ids, END, PADDING]) == "Ein Hund rennt"


def test_languages_share_a_vocabulary_or_have_their_own():
    joint, separate = trained(), trained(joint=False)
    assert joint.joint and joint.encode(0, ENGLISH) == joint.encode(1, ENGLISH) and joint.sizes[0] == joint.sizes[1]
    assert not separate.joint and separate.sizes[0] != separate.sizes[1]
    for side, texts in enumerate((GERMAN, ENGLISH)):
        assert [separate.decode(side, ids) for ids in separate.encode(side, texts)] == texts
    assert "ä" in separate.decode(0, *separate.encode(0, ["Männer"])) and separate.decode(1, *separate.encode(1, ["ä"])) == ""


def test_a_vocabulary_has_the_size_that_was_asked_if_the_text_has_so_many_pairs():
    assert trained(vocabulary_size=60).sizes == (60, 60)
    few, many = trained(vocabulary_size=8), trained(vocabulary_size=5000)
    assert few.decode(1, *few.encode(1, ENGLISH[:1])) == ENGLISH[0]  # every character of the text has its own
    assert 8 < few.sizes[0] < 60 < many.sizes[0] < 300
    assert len(many.encode(0, GERMAN)[1]) == 6 < len(few.encode(0, GERMAN)[1])


def test_training_again_gives_the_same_tokens():
    letters = np.asarray([*"abcdefgh"])  # few, so that many pairs are equally frequent
    rng = np.random.default_rng(0)
    lines = [" ".join("".join(rng.choice(letters, rng.integers(1, 6))) for _ in range(5)) for _ in range(300)]
    found = [trained(lines, lines[::-1], vocabulary_size=600).to_json() for _ in range(3)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("changes", [{}, {"joint": False, "lowercase": True}, {"moses": True}], ids=str)
def test_a_file_gives_the_same_tokens(changes):
    tokens = trained(**changes)
    values = json.loads(json.dumps(tokens.to_json()))
    again = Tokens.from_json(values, "here")
    assert again.to_json() == values and len(values["tokenizers"]) == (1 if tokens.joint else 2)
    assert (again.languages, again.joint, again.moses, again.sizes) == (LANGUAGES, tokens.joint, tokens.moses, tokens.sizes)
    for side, texts in enumerate((GERMAN, ENGLISH)):
        ids = tokens.encode(side, texts)
        assert again.encode(side, texts) == ids
        assert [again.decode(side, one) for one in ids] == [tokens.decode(side, one) for one in ids]


NOTHING = "is no file of tokens as training writes it"


@pytest.mark.parametrize(
    "path, value, said",
    [
        (["format"], 9, "format 9, and this version reads 1"),
        (["languages"], None, NOTHING),
        (["languages"], ["de"], NOTHING),
        (["tokenizers"], [], NOTHING),
        (["tokenizers", 0, "model"], {}, NOTHING),
        (["tokenizers", 0, "model", "merges"], [["qq", "zz"]], NOTHING),
        (["tokenizers", 0, "added_tokens", 0, "content"], "[PAD]", "the special tokens are not <pad>, <s>, </s>, <unk>"),
        (["tokenizers", 0, "added_tokens"], [], "the special tokens are not <pad>, <s>, </s>, <unk>"),
    ],
    ids=str,
)
def test_a_damaged_file_is_refused(path, value, said):
    values = place = trained().to_json()
    *folders, last = path
    for key in folders:
        place = place[key]
    place[last] = value
    with pytest.raises(UserError, match=said) as found:
        Tokens.from_json(values, "run/tokenizer.json")
    assert str(found.value).startswith("run/tokenizer.json")


def test_a_file_says_once_what_is_wrong_with_it(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(trained().to_json() | dict(format=9)))
    with pytest.raises(UserError) as found:
        Tokens.read(tmp_path / "tokenizer.json")
    assert str(found.value) == f"{tmp_path / 'tokenizer.json'}: format 9, and this version reads 1"


@pytest.mark.parametrize("values", [[], None, 3, {}, "format"], ids=str)
def test_what_is_no_file_of_tokens_is_refused(values):
    with pytest.raises(UserError, match=f"^here {NOTHING}"):
        Tokens.from_json(values, "here")
