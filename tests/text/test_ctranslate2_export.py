"""The forward and the search held against CTranslate2's, which computes both its own way from the exported weights."""

import dataclasses
import functools
import json

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from rdrop_paddle import Transformer, UserError
from rdrop_paddle.durability import checkpoint
from rdrop_paddle.text import ctranslate2_export
from rdrop_paddle.text.batches import padded
from rdrop_paddle.text.ctranslate2_export import Check, check, export_ctranslate2, load, write
from rdrop_paddle.text.generation import generate
from rdrop_paddle.text.sequence_to_sequence_config import DecodeConfig
from rdrop_paddle.text.tokens import END, PADDING, Tokens, train_tokens

DECODE = DecodeConfig(
    beam=5, length_penalty=1.0, min_length=1, max_length_a=1.0, max_length_b=20, no_repeat_ngram=0, max_tokens=400
)
KINDS = {
    "post": dict(norm="post", activation="relu", positions="sinusoidal", tying="all"),
    "pre": dict(norm="pre", activation="gelu", positions="learned", tying="none"),
    "decoder": dict(norm="pre", activation="relu", positions="sinusoidal", tying="decoder"),
}


def sentences(count, seed):
    """Random letters as words, 1 to 6 a sentence."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice([*"abcdefghijklmnop"], rng.integers(1, 7))) for _ in range(count)]


@functools.cache
def trained(kind):
    """(model, tokens) trained for some updates to write a sentence from its end to its beginning; it knows when to stop."""
    kind = KINDS[kind]
    lines = sentences(2000, seed=0)
    reverse = [line[::-1].upper() for line in lines]
    settings = dict(vocabulary_size=50, joint=kind["tying"] == "all", lowercase=False)
    tokens = train_tokens(("de", "en"), [lines, reverse], **settings)
    source_vocabulary, target_vocabulary = tokens.sizes
    paddle.seed(0)
    sizes = dict(encoder_layers=2, decoder_layers=1, embed_dim=32, ffn_dim=48, num_heads=4, max_length=40, drop_rate=0.0)
    vocabularies = dict(source_vocabulary=source_vocabulary, target_vocabulary=target_vocabulary, padding=PADDING)
    model = Transformer(**vocabularies, **sizes, **kind)
    optimizer = paddle.optimizer.Adam(3e-3, parameters=model.parameters())
    pairs = [*zip(tokens.encode(0, lines), tokens.encode(1, reverse))]
    for start in range(0, len(pairs), 40):
        source, target_in, target = as_tensors(pairs[start : start + 40])
        loss = F.cross_entropy(model(source, target_in), target, ignore_index=PADDING)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    assert loss.item() < 3
    model.eval()
    return model, tokens


def as_tensors(pairs):
    parts = [[*source, END] for source, _ in pairs], [[END, *target] for _, target in pairs], [[*t, END] for _, t in pairs]
    return [paddle.to_tensor(padded(part, PADDING)) for part in parts]


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    """(model, tokens, folder, Check)"""
    folder = tmp_path_factory.mktemp("export") / "model"
    return *trained(request.param), folder, export_ctranslate2(*trained(request.param), folder, sentences(220, seed=1), DECODE)


def test_translations_are_the_same(exported):
    model, tokens, _, found = exported
    assert found.passed and found.same + found.tied + found.cut == 220 and found.same >= 200
    texts = [best.text for best, *_ in generate(model, tokens, sentences(50, seed=1), DECODE)]
    assert len(set(texts)) > 20 and np.std([len(text) for text in texts]) > 2  # they are worth comparing


@pytest.mark.parametrize("changes", [{"beam": 1}, {"beam": 2, "length_penalty": 0.0}, {"length_penalty": 2.0}], ids=str)
def test_translations_are_the_same_by_other_rules(exported, changes):
    model, tokens, folder, _ = exported
    found = check(model, tokens, folder, sentences(60, seed=2), dataclasses.replace(DECODE, **changes))
    assert found.passed and found.same >= 50


def test_log_probabilities_of_given_translations_are_the_same(exported):
    model, tokens, folder, _ = exported
    rng = np.random.default_rng(0)
    pairs = [tuple(rng.integers(4, size, rng.integers(1, 30)).tolist() for size in tokens.sizes) for _ in range(20)]
    source, target_in, target = as_tensors(pairs)
    with paddle.no_grad():
        log_probabilities = F.log_softmax(model(source, target_in)).take_along_axis(target.unsqueeze(-1), -1).squeeze(-1)
    pieces = [[tokens.pieces(side, pair[side]) for pair in pairs] for side in (0, 1)]
    for row, expected, (_, words) in zip(log_probabilities.numpy(), load(folder).score_batch(*pieces), pairs):
        np.testing.assert_allclose(row[: len(words) + 1], expected.log_probs, atol=1e-5)


def test_the_folder_is_all_that_a_translation_needs(exported):
    model, tokens, folder, _ = exported
    alone = Tokens.from_json(json.loads((folder / "tokenizer.json").read_text()), "here")
    lines = sentences(8, seed=3)
    translator = load(folder)
    rules = dict(beam_size=5, return_end_token=True, min_decoding_length=0, max_decoding_length=60)
    found = translator.translate_batch([alone.pieces(0, ids) for ids in alone.encode(0, lines)], **rules)
    ids = [[alone.tokenizers[1].token_to_id(piece) for piece in one.hypotheses[0]] for one in found]
    expected = generate(model, tokens, lines, dataclasses.replace(DECODE, min_length=0))
    assert [alone.decode(1, one) for one in ids] == [best.text for best, *_ in expected]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(model, tokens, folder) without a check."""
    folder = tmp_path_factory.mktemp("written")
    write(*trained("pre"), folder)
    return *trained("pre"), folder


def test_a_translation_that_is_cut_is_counted_and_not_compared(written):
    found = check(*written, sentences(30, seed=1), dataclasses.replace(DECODE, max_length_a=0.0, max_length_b=1))
    assert found.cut == 30 and not found.passed  # nothing was compared


def test_ctranslate2_searches_to_the_limit_and_by_the_same_rule_without_a_length_penalty(written):
    _, tokens, folder = written
    sources = [tokens.pieces(0, ids) for ids in tokens.encode(0, sentences(30, seed=1))]
    found = ctranslate2_export.translate(load(folder), sources, DECODE, 2)
    assert max(len(pieces) for pieces, _ in found) == 3 and min(len(pieces) for pieces, _ in found) == 2

    class Recorder:
        def translate_batch(self, sources, *, length_penalty, **options):
            assert 0 < length_penalty < 1e-6  # at 0 it would stop by another rule
            return []

    assert ctranslate2_export.translate(Recorder(), [], dataclasses.replace(DECODE, length_penalty=0.0), 2) == []


def test_empty_and_overlong_lines_are_not_checked(written):
    lines = ["", " ", "a " * written[0].max_length, "a b"]
    found = check(*written, lines, DECODE)
    assert found.same + found.tied + found.different + found.cut == 1


def test_a_fault_fails_the_check_and_leaves_nothing(tmp_path, monkeypatch):
    specify = ctranslate2_export.specify

    def with_a_fault(model):
        found = specify(model)
        found.decoder.layer[0].attention.linear[0].bias += 1.0
        return found

    monkeypatch.setattr(ctranslate2_export, "specify", with_a_fault)
    found = export_ctranslate2(*trained("pre"), tmp_path / "model", sentences(30, seed=1), DECODE)
    assert not found.passed and (found.different or found.score_difference > 1e-4)
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    for folder, said in ((tmp_path, "exists already: choose another name"), (tmp_path / "a" / "model", "cannot write")):
        (tmp_path / "a").touch()
        with pytest.raises(UserError, match=said):
            export_ctranslate2(*trained("pre"), folder, sentences(3, seed=1), DECODE)


def test_a_check_passes_when_nothing_differs_and_something_was_the_same():
    good = Check(same=5, tied=1, different=0, cut=2, score_difference=1e-6)
    assert good.passed and str(good) == (
        "CTranslate2  5 translations the same, 1 tied, 0 different, 2 not compared, scores within 1.0e-06, bound 1e-04  PASS"
    )
    for change in ({"different": 1}, {"same": 0}, {"score_difference": 2e-4}, {"score_difference": float("nan")}):
        bad = dataclasses.replace(good, **change)
        assert not bad.passed and str(bad).endswith("FAIL")


def test_the_tool_exports_a_translator_and_nothing_else_of_it(translation, tmp_path, main_of, capsys):
    paddle.seed(0)
    task = translation("name=exported")
    (tmp_path / "config.yaml").write_text(task.config.to_yaml())
    checkpoint.save_best(tmp_path, task.model, task.belongings(), update=1)
    arguments = ["-c", tmp_path / "config.yaml", "--weights", tmp_path / "best.safetensors", "--output", tmp_path / "folder"]
    for options in ([], ["--onnx"], ["--ctranslate2", "--onnx"]):
        with pytest.raises(UserError, match="a translator is exported with --ctranslate2, and nothing else is"):
            main_of("export.py")(*arguments, *options)
    assert main_of("export.py")(*arguments, "--ctranslate2") == 1  # nothing that a random model says comes to an end
    printed = capsys.readouterr()
    assert "0 translations the same" in printed.out and "gives other translations, so it was not kept" in printed.err
    assert not (tmp_path / "folder").exists()
