"""BERT's tokens held against `tokenizers`' own BertWordPieceTokenizer and transformers' BertTokenizerFast."""

import json
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models
from tokenizers.implementations import BertWordPieceTokenizer

from rdrop_paddle import UserError
from rdrop_paddle.text.wordpiece import WordPiece, read_wordpiece

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [*string.ascii_letters, *string.digits, *"éÉüßΣσς犬好!?.,'-[]"]
TOKENS = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "dog", "##gy", "Dog", "sep", "pad", "runs"]
PIECES = [
    "[SEP]",
    "[PAD]",
    " ",
    "the",
    "Dog",
    "doggy",
    "É",
    "e\u0301",
    "犬",
    "\u200d",
    "\0",
    "\ufffd",
    "\u2028",
    "\t",
    "x" * 101,
]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=20),
    st.lists(st.sampled_from([*PIECES, *LETTERS]), max_size=14).map("".join),
)
SEVERAL = settings(max_examples=60, deadline=None, derandomize=True, database=None)
RULES = [{}, {"do_lower_case": False}, {"do_lower_case": False, "strip_accents": True}, {"tokenize_chinese_chars": False}]


def reference(rules):
    """`tokenizers`' own for a vocabulary, whose padding and truncation are on."""
    vocabulary = {token: number for number, token in enumerate(TOKENS)}
    names = {"do_lower_case": "lowercase", "tokenize_chinese_chars": "handle_chinese_chars"}
    found = BertWordPieceTokenizer(vocabulary, **{names.get(name, name): value for name, value in rules.items()})
    found.enable_padding(length=30)
    found.enable_truncation(4)
    return found


@pytest.fixture
def folder(tmp_path):
    """folder(rules) with vocab.txt and tokenizer_config.json alone."""

    def make(rules):
        (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in TOKENS), encoding="utf-8")
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **rules}))
        return tmp_path

    return make


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """transformers' tokenizer of a tokenizer.json, and the folder of that."""
    from transformers import BertTokenizerFast  # large

    path = tmp_path_factory.mktemp("bert")
    reference({}).save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}))
    return BertTokenizerFast.from_pretrained(path), path


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_a_vocabulary_gives_the_tokens_of_tokenizers_own(folder, rules):
    ours, expected = read_wordpiece(folder(rules)), reference(rules)
    expected.no_padding()
    expected.no_truncation()
    expected._tokenizer.encode_special_tokens = True
    assert (ours.size, ours.padding) == (len(TOKENS), 0)

    @given(st.lists(TEXTS, min_size=1, max_size=3))
    @example(["x" * 101, "x" * 100])  # the longest word that is looked at
    @SEVERAL
    def check(texts):
        found = ours.encode(texts, max_length=1000)
        assert found == ([expected.encode(text).ids for text in texts], [[0] * len(ids) for ids in found.ids], 0)

    check()


@given(first=TEXTS, second=st.one_of(TEXTS, st.none()), max_length=st.integers(5, 30))
@SEVERAL
def test_tokens_types_and_truncation_are_those_of_transformers(theirs, first, second, max_length):
    tokenizer, path = theirs
    texts = [[first]] if second is None else [[first], [second]]
    found = read_wordpiece(path).encode(*texts, max_length=max_length)
    ways = dict(split_special_tokens=True, padding=False)
    expected = tokenizer(*texts, truncation="longest_first", max_length=max_length, **ways)
    whole = tokenizer(*texts, truncation=False, **ways)
    assert (found.ids, found.types) == (expected["input_ids"], expected["token_type_ids"])
    assert found.truncated == (len(whole["input_ids"][0]) > max_length)


def test_texts_that_are_too_long_are_counted_and_the_longer_loses_its_last(folder):
    tokens = read_wordpiece(folder({}))
    texts, pairs = ["a b", "a b c d e f", "a", "a b c d"], ["c", "h", "b c d e f g", "e f g h"]
    found = tokens.encode(texts, pairs, max_length=8)
    pieces = [" ".join(TOKENS[number] for number in ids) for ids in found.ids]
    assert pieces == [
        "[CLS] a b [SEP] c [SEP]",
        "[CLS] a b c d [SEP] h [SEP]",
        "[CLS] a [SEP] b c d e [SEP]",
        "[CLS] a b [SEP] e f g [SEP]",
    ]
    assert found.truncated == 3
    assert found.types[2] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert tokens.encode(texts, max_length=5).truncated == 2
    with pytest.raises(UserError, match="a length of 4 tokens leaves no room for a text beside"):
        tokens.encode(texts, pairs, max_length=4)


def test_no_text_becomes_padding_or_an_end(folder):
    tokens = read_wordpiece(folder({"do_lower_case": False}))
    for kept in (tokens, WordPiece.from_json(json.loads(json.dumps(tokens.to_json())), "here")):
        (ids,) = kept.encode(["[PAD] [SEP] [CLS]"], max_length=100).ids
        assert not {0, 2, 3} & {*ids[1:-1]}


def test_a_file_gives_the_same_tokens_and_is_found_in_a_header_before_beside(folder, theirs, tmp_path):
    rules = {"do_lower_case": False}
    tokens = read_wordpiece(folder(rules))
    values, path = json.loads(json.dumps(tokens.to_json())), tmp_path / "best.safetensors"
    texts = ["The doggy", "Éa犬", "x" * 101]
    expected = tokens.encode(texts, max_length=100)
    assert WordPiece.from_json(values, "here").encode(texts, max_length=100) == expected
    (tmp_path / "tokenizer.json").write_text((theirs[1] / "tokenizer.json").read_text())
    assert read_wordpiece(tmp_path).encode(texts, max_length=100) != expected  # lower-cased: before vocab.txt
    save_file({}, path, metadata={"tokenizer": json.dumps(values)})
    assert read_wordpiece(path).encode(texts, max_length=100) == expected
    assert values["padding"] is values["truncation"] is None


def test_files_that_are_absent_damaged_or_of_other_models_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="has no tokens in its header, and neither tokenizer.json nor vocab.txt lies beside it"):
        read_wordpiece(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(UserError, match="cannot read .*vocab.txt: 'utf-8' codec"):
        read_wordpiece(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\r\n[UNK]\r\nthe\r\n")
    with pytest.raises(UserError, match=r"vocab.txt has no \[CLS\], \[SEP\] among its 3 tokens"):
        read_wordpiece(tmp_path)
    values = read_wordpiece(folder({})).to_json()
    for changed, message in (
        ({**values, "post_processor": None}, r"here puts no \[CLS\] and \[SEP\] around a text"),
        (json.loads(Tokenizer(models.BPE()).to_str()), "here is of BPE, and BERT's tokens are of WordPiece"),
        ({"format": 1, "tokenizers": []}, "here is no tokenizer.json as `tokenizers` writes it"),
        (None, "here is no tokenizer.json"),
    ):
        with pytest.raises(UserError, match=message):
            WordPiece.from_json(changed, "here")
