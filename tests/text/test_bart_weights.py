"""BART's weights, of random values, as transformers writes them, held against its model and its generation."""

import json

import numpy as np
import paddle
import pytest
import torch

from rdrop_paddle import Transformer, UserError, load_config
from rdrop_paddle.text.beam_search import beam_search
from rdrop_paddle.text.summarisation import Summarisation
from rdrop_paddle.text.transformer_weights import load_weights

BEGIN, PADDING, END, VOCABULARY = 0, 1, 2, 60
TIED = {f"model.{side}.embed_tokens.weight" for side in ("encoder", "decoder")} | {"lm_head.weight"}
SIZES = dict(encoder_layers=2, decoder_layers=2, embed_dim=16, ffn_dim=24, num_heads=2, max_length=30)
BART = dict(activation="gelu", positions="learned", scaled=False, embedding_norm=True)


def config(**settings):
    given = {"name": "custom", **SIZES, **settings}
    return load_config(
        None, ["task=summarisation", "decode.min_length=5", *(f"model.{key}={value}" for key, value in given.items())]
    )


def transformer():
    model = Transformer(source_vocabulary=VOCABULARY, target_vocabulary=VOCABULARY, padding=PADDING, **SIZES, **BART)
    model.eval()
    return model


@pytest.fixture(scope="module")
def bart():
    """A BartForConditionalGeneration in evaluation mode, no parameter of which is at its initial value."""
    from transformers import BartConfig, BartForConditionalGeneration  # large

    sizes = dict(d_model=16, max_position_embeddings=30, vocab_size=VOCABULARY)
    of_sides = {"layers": 2, "attention_heads": 2, "ffn_dim": 24}
    sizes |= {f"{side}_{key}": value for key, value in of_sides.items() for side in ("encoder", "decoder")}
    model, generator = BartForConditionalGeneration(BartConfig(**sizes)).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1 if name.endswith(("norm.weight", "norm_embedding.weight")) else 0
            parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def folder(bart, tmp_path):
    bart.save_pretrained(tmp_path / "bart")
    return tmp_path / "bart"


@pytest.fixture(scope="module")
def batch():
    """Four sources of 9, 6, 9 and 3 tokens, begun and ended, and four targets of 7."""
    rng = np.random.default_rng(0)
    source, target = rng.integers(3, VOCABULARY, [4, 9]), rng.integers(3, VOCABULARY, [4, 7])
    source[:, 0], source[:, 8] = BEGIN, END
    source[1, 5:], source[3, 2:] = [END, *[PADDING] * 3], [END, *[PADDING] * 6]
    return source, target


def theirs_of(bart, source, target):
    source, target = torch.from_numpy(source), torch.from_numpy(target)
    return bart(input_ids=source, attention_mask=(source != PADDING).long(), decoder_input_ids=target).logits


def test_logits_and_gradients_are_those_of_transformers(bart, folder, batch):
    ours = transformer()
    report = load_weights(ours, folder, config())
    assert report.format == "Hugging Face BART .safetensors, prefix model. removed"
    assert {row.action for row in report.rows} <= {"loaded", "transposed", "dropped"}
    found, expected = ours(*map(paddle.to_tensor, batch)), theirs_of(bart, *batch)
    assert np.abs(expected.detach().numpy()).max() > 3
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=1e-5)
    weights = np.random.default_rng(1).normal(size=found.shape).astype("float32")
    (found * paddle.to_tensor(weights)).sum().backward()
    bart.zero_grad()
    (expected * torch.from_numpy(weights)).sum().backward()
    wanted = {
        "source_embedding.weight": bart.model.shared.weight.grad,
        "encoder.embed_positions": bart.model.encoder.embed_positions.weight.grad[2:],
        "decoder.embedding_norm.bias": bart.model.decoder.layernorm_embedding.bias.grad,
    }
    parameters = dict(ours.named_parameters())
    for name, gradient in wanted.items():
        largest = float(gradient.abs().max())
        np.testing.assert_allclose(parameters[name].grad.numpy(), gradient.numpy(), atol=1e-4 * largest, err_msg=name)


def generation_of(bart, source, *, shortest, longest):
    """(tokens [N, L], scores [N]) of their beam search in the settings of BART for CNN/DailyMail; tokens before the end."""
    rules = dict(num_beams=4, length_penalty=2.0, no_repeat_ngram_size=3, early_stopping=True, suppress_tokens=[PADDING])
    forced = dict(decoder_start_token_id=END, forced_bos_token_id=BEGIN, forced_eos_token_id=END)
    # they count the first token, and the end in the maximum
    lengths = dict(min_length=shortest + 1, max_length=longest + 2)
    source = torch.from_numpy(source)
    kept = dict(return_dict_in_generate=True, output_scores=True)
    found = bart.generate(source, attention_mask=(source != PADDING).long(), **rules, **forced, **lengths, **kept)
    return found.sequences.numpy(), found.sequences_scores.numpy()


def test_summaries_are_those_of_transformers_with_a_forced_first_token(bart, folder, batch):
    ours = transformer()
    norm, table = bart.model.decoder.layers[-1].final_layer_norm, bart.model.shared.weight
    before = norm.bias.detach().clone()
    with torch.no_grad():  # the end is so likely that summaries have lengths between the minimum and the maximum
        norm.bias += 3 * table[END] / table[END].norm()
    bart.save_pretrained(folder)
    load_weights(ours, folder, config())
    rules = dict(length_penalty=2.0, min_length=5, max_length_b=20, no_repeat_ngram_size=3)
    found = beam_search(ours, paddle.to_tensor(batch[0]), first=END, end=END, forced=(BEGIN,), beam_size=4, **rules)
    expected, scores = generation_of(bart, batch[0], shortest=5, longest=20)
    with torch.no_grad():
        norm.bias.copy_(before)
    lengths = [len(hypotheses[0].tokens) for hypotheses in found]
    assert len(set(lengths)) > 1 and min(lengths) >= 5 and max(lengths) < 20
    np.testing.assert_allclose([hypotheses[0].score for hypotheses in found], scores, rtol=1e-4)
    for hypotheses, tokens in zip(found, expected):
        best = hypotheses[0].tokens
        assert best[0] == BEGIN
        assert tokens.tolist() == [END, *best, END, *[PADDING] * (len(tokens) - len(best) - 2)]


WORDS = ["t h", "th e", "d o", "do g"]  # merges
PIECES = ["<s>", "<pad>", "</s>", "<unk>", *map(chr, range(ord("a"), ord("z") + 1)), "\u0120", *"ABCDEFGHIJKLMNOPQRSTUVWXY"]
PIECES = [*PIECES, *(merge.replace(" ", "") for merge in WORDS), "<mask>"]  # 61 tokens, and the model has no row for the last


@pytest.fixture
def release(folder):
    """A folder as BART is released in, its weights with the tokens that they are of."""
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(PIECES)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{merge}\n" for merge in WORDS))
    return folder


def test_a_released_folder_brings_tokens_whose_texts_begin_and_end_as_barts(bart, release):
    task = Summarisation(config())
    task.load_weights(release)
    tokens = task.tokens
    assert (tokens.begin, tokens.padding, tokens.end, tokens.sizes) == ((BEGIN,), PADDING, END, (VOCABULARY, VOCABULARY))
    (ids,) = tokens.ended(0, ["the dog</s>"])
    assert tokens.pieces(0, ids) == ["<s>", "the", "\u0120", "dog", "s", "</s>"]
    task.model.eval()
    text = "the dog"
    source = np.asarray([[*next(tokens.ended(0, [text]))]], "int64")
    task.config.decode.max_length_b = 12
    expected = generation_of(bart, source, shortest=task.config.decode.min_length, longest=12)[0][0].tolist()
    best = task.generate([text, ""])
    assert best[0][0].text == tokens.decode_line(1, expected) and best[1] == []


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(scale_embedding=True), "scale_embedding is True in .*config.json, and BARTs here have False alone"),
        (dict(model_type="mbart"), "model_type is mbart in .*config.json, and BARTs here have bart alone"),
        (dict(encoder_attention_heads=4, decoder_attention_heads=4), "model.num_heads is 2 here and 4 in .*"),
        (dict(activation_function="relu"), "model.activation is gelu here and relu in"),
        (dict(encoder_ffn_dim=48), "encoder_ffn_dim is 48 and decoder_ffn_dim 24 in its config.json"),
    ],
)
def test_what_its_config_tells_is_held_against_the_model(folder, given, message):
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | given))
    with pytest.raises(UserError, match=message):
        load_weights(transformer(), folder, config())


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state["final_logits_bias"].add_(1), "final_logits_bias is not zero"),
        (
            lambda state: state.update({"lm_head.weight": state["model.shared.weight"] + 1}),
            "is not .*, and BART's embeddings are one table",
        ),
        (lambda state: state["model.shared.weight"].mul_(float("nan")), "holds NaN or infinity"),
        (lambda state: state.pop("model.decoder.layers.1.fc2.bias"), "decoder.layers.1.fc2.bias missing"),
    ],
    ids=range(4),
)
def test_tensors_that_no_bart_here_has_are_refused(bart, tmp_path, change, message):
    state = {name: tensor.clone() for name, tensor in bart.state_dict().items() if name not in TIED}
    change(state)
    torch.save(state, tmp_path / "pytorch_model.bin")
    model = transformer()
    before = model.source_embedding.weight.numpy()
    with pytest.raises(UserError, match=message):
        load_weights(model, tmp_path, config(num_heads=2))
    assert (model.source_embedding.weight.numpy() == before).all()
