import dataclasses

import numpy as np
import paddle
import pytest
from conftest import recomputes

from rdrop_paddle import UserError, load_config
from rdrop_paddle.text.language_config import LanguageModelConfig
from rdrop_paddle.text.language_model import LanguageModel
from rdrop_paddle.text.language_model_sizes import SIZES, with_numbers

PARAMETERS = {  # with GPT-2's vocabulary and positions: the numbers of the published files
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "gpt2_xl": 1_557_611_200,
}
TOKENS = paddle.to_tensor(np.random.default_rng(0).integers(0, 20, [3, 6]))
DROPS = dict(drop_rate=0.3, attention_drop_rate=0.2, activation_drop_rate=0.1)
NONE = dict.fromkeys(DROPS, 0.0)


def small(**settings):
    """A LanguageModel of 2 layers over 20 tokens, with every parameter of a size that shows."""
    sizes = dict(vocabulary=20, layers=2, embed_dim=16, ffn_dim=24, num_heads=2, max_length=12)
    model = LanguageModel(**{**sizes, **NONE, **settings})
    for seed, parameter in enumerate(model.parameters()):
        parameter.set_value(np.random.default_rng(seed).normal(0, 0.4, parameter.shape).astype("float32"))
    return model


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name):
    config = load_config(None, ["task=language_modelling", f"model.name={name}"]).model
    sizes = {key: getattr(with_numbers(config), key) for key in SIZES[name]}
    with paddle.LazyGuard():  # shapes only
        model = LanguageModel(vocabulary=50_257, positions="learned", **sizes)
    assert sum(int(np.prod(p.shape)) for p in model.parameters()) == PARAMETERS[name]
    assert set(PARAMETERS) == set(SIZES) - {"custom"}


def test_the_arguments_are_the_keys_of_the_config():
    keys = {field.name for field in dataclasses.fields(LanguageModelConfig)} - {"name", "weights"}
    model = load_config(None, ["task=language_modelling", "model.name=gpt2"]).model
    with paddle.LazyGuard():
        LanguageModel(vocabulary=9, **{key: getattr(with_numbers(model), key) for key in keys})


@pytest.mark.parametrize("pieces", [[1] * 6, [2, 1, 3]], ids=str)
@pytest.mark.parametrize("settings", [dict(norm="post"), dict(positions="learned", scaled=False, tied=False)], ids=str)
def test_step_by_step_gives_the_logits_of_the_full_forward(settings, pieces):
    model = small(**settings)
    model.eval()
    cache = model.start()
    logits = [model.step(piece, cache).numpy() for piece in paddle.split(TOKENS, pieces, axis=1)]
    expected = model(TOKENS).numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(np.concatenate(logits, axis=1), expected, atol=1e-5)


def test_no_position_sees_a_later_one():
    model, other = small(), TOKENS.clone()
    other[:, 4] = (other[:, 4] + 1) % 20
    found = [model(tokens).numpy() for tokens in (TOKENS, other)]
    np.testing.assert_array_equal(found[0][:, :4], found[1][:, :4])
    assert (found[0][:, 4:] != found[1][:, 4:]).all(axis=-1).any(axis=0).all()


def test_two_passes_are_two_forwards_that_share_what_lies_before_the_first_dropout(monkeypatch):
    model, embedded = small(**DROPS), []
    monkeypatch.setattr(model.embedding, "forward", lambda x, plain=model.embedding.forward: embedded.append(x) or plain(x))
    found = model(TOKENS, 2)
    assert found.shape == [6, 6, 20] and embedded[0].shape == [3, 6] and len(embedded) == 1
    first, second = found.chunk(2)
    assert float((first - second).abs().min(axis=-1).max()) > 0
    model.eval()
    np.testing.assert_allclose(model(TOKENS, 2).numpy(), np.concatenate([model(TOKENS).numpy()] * 2), atol=1e-6)


@pytest.mark.parametrize("shared, widths", [(0, [6, 6]), (1, [3, 6])])
def test_shared_blocks_are_computed_once(shared, widths):
    model, seen = small(**DROPS), []
    for layer in model.decoder.layers:
        layer.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].shape[0]))
    model(TOKENS, 2, shared_blocks=shared)
    assert seen == widths


@recomputes
def test_recompute_gives_the_same_gradient_to_the_bit():
    model, found = small(**DROPS), []
    for recompute in (False, True):
        paddle.seed(1)
        model(TOKENS, 2, recompute=recompute).square().sum().backward()
        found.append([p.grad.numpy().tobytes() for p in model.parameters()])
        model.clear_gradients()
    assert found[0] == found[1]


def test_a_tied_output_is_the_table_and_scaling_is_of_the_embeddings_alone():
    tied, own = small(), small(tied=False)
    assert tied.output_weight is tied.embedding.weight and own.output_weight is own.output.weight
    plain, scaled = small(scaled=False), small()
    plain.embedding.weight.set_value(plain.embedding.weight * 4)  # the root of 16
    np.testing.assert_array_equal(plain(TOKENS, project=False).numpy(), scaled(TOKENS, project=False).numpy())


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(num_heads=3), "embed_dim 16 is no multiple of num_heads 3"),
        (dict(activation="tanh"), "activation is 'tanh': give one of relu, gelu, gelu_tanh"),
        (dict(norm="none"), "norm is 'none'"),
    ],
)
def test_arguments_that_do_not_fit_are_a_users_error(settings, message):
    with pytest.raises(UserError, match=message):
        small(**settings)


def test_more_tokens_than_positions_are_a_users_error():
    with pytest.raises(UserError, match="13 tokens is longer than model.max_length 12"):
        small()(paddle.zeros([1, 13], "int64"))
