"""The model held against transformers' Marian (norms behind, ReLU) and Pegasus (norms first, GELU), tables tied."""

import numpy as np
import paddle
import pytest
import torch

from rdrop_paddle import Transformer
from rdrop_paddle.text.beam_search import beam_search

PADDING, END, VOCABULARY = 1, 2, 60
SIZES = dict(encoder_layers=2, decoder_layers=2, embed_dim=32, ffn_dim=48, num_heads=4)


def marian(**settings):
    from transformers import MarianConfig, MarianMTModel  # large

    return MarianMTModel(MarianConfig(**settings, activation_function="relu"))


def pegasus(**settings):
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    return PegasusForConditionalGeneration(PegasusConfig(**settings, activation_function="gelu"))


@pytest.fixture(scope="module", params=[(marian, "post", "relu"), (pegasus, "pre", "gelu")], ids=["marian", "pegasus"])
def pair(request):
    """(ours, theirs) in evaluation mode, with the same weights, none of which is at its initial value."""
    build, norm, activation = request.param
    theirs = build(
        vocab_size=VOCABULARY,
        d_model=SIZES["embed_dim"],
        scale_embedding=True,
        pad_token_id=PADDING,
        eos_token_id=END,
        forced_eos_token_id=END,
        decoder_start_token_id=END,
        max_position_embeddings=30,
        **{f"{side}_layers": SIZES[f"{side}_layers"] for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": SIZES["num_heads"] for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": SIZES["ffn_dim"] for side in ("encoder", "decoder")},
    ).eval()
    vocabularies = dict(source_vocabulary=VOCABULARY, target_vocabulary=VOCABULARY, padding=PADDING)
    ours = Transformer(**vocabularies, **SIZES, norm=norm, activation=activation, max_length=30)
    ours.eval()
    with torch.no_grad():
        for side in (theirs.model.encoder, theirs.model.decoder):  # theirs count from 0, with other frequencies
            side.embed_positions.weight.copy_(torch.from_numpy(ours.encoder.embed_positions.numpy()))
        for seed, (name, parameter) in enumerate(ours.named_parameters()):
            offset = 1 if "norm.weight" in name else 0
            value = np.random.default_rng(seed).normal(offset, 0.2, parameter.shape).astype("float32")
            parameter.set_value(value)
            place = place_of(theirs, name)
            place.copy_(torch.from_numpy(value if place.shape == value.shape and not is_product(name) else value.T))
    return ours, theirs


def is_product(name):
    """Whether a parameter is a matrix that Paddle stores as [in, out] and torch as [out, in]."""
    return name.endswith(("proj.weight", "fc1.weight", "fc2.weight"))


def place_of(theirs, name):
    return theirs.model.get_parameter(name.replace("source_embedding", "shared"))


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    source, target = generator.integers(3, VOCABULARY, [4, 9]), generator.integers(3, VOCABULARY, [4, 7])
    source[:, 8] = END
    source[1, 5:], source[3, 2:] = [END, *[PADDING] * 3], [END, *[PADDING] * 6]
    return source, target


def theirs_of(theirs, source, target):
    source, target = torch.from_numpy(source), torch.from_numpy(target)
    return theirs(input_ids=source, attention_mask=(source != PADDING).long(), decoder_input_ids=target).logits


def test_logits_and_gradients_are_those_of_transformers(pair, batch):
    ours, theirs = pair
    found, expected = ours(*map(paddle.to_tensor, batch)), theirs_of(theirs, *batch)
    assert np.abs(found.numpy()).max() > 3
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=1e-5)
    weights = np.random.default_rng(1).normal(size=found.shape).astype("float32")
    ours.clear_gradients(), theirs.zero_grad()
    (found * paddle.to_tensor(weights)).sum().backward()
    (expected * torch.from_numpy(weights)).sum().backward()
    for name, parameter in ours.named_parameters():
        gradient = place_of(theirs, name).grad.numpy()
        gradient = gradient.T if is_product(name) else gradient
        largest = 1 if name.endswith("k_proj.bias") else np.abs(gradient).max()  # those are 0 but for rounding
        np.testing.assert_allclose(parameter.grad.numpy(), gradient, atol=1e-4 * largest, err_msg=name)


def test_greedy_translations_are_those_of_transformers(pair, batch):
    ours, theirs = pair
    source = batch[0]
    settings = dict(first=END, end=END, beam_size=1, max_length_b=11, no_repeat_ngram_size=2)
    found = beam_search(ours, paddle.to_tensor(source), **settings)
    rules = dict(num_beams=1, do_sample=False, max_new_tokens=12, min_new_tokens=2, no_repeat_ngram_size=2)
    mask = torch.from_numpy((source != PADDING).astype("int64"))
    expected = theirs.generate(input_ids=torch.from_numpy(source), attention_mask=mask, **rules).numpy()
    for (hypothesis,), tokens in zip(found, expected):
        ended = [*hypothesis.tokens, END]
        assert len(set(ended)) > 4
        assert tokens.tolist() == [END, *ended, *[PADDING] * (len(tokens) - 1 - len(ended))]
