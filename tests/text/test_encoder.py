import dataclasses
from typing import Optional

import numpy as np
import paddle
import pytest
from conftest import recomputes, slopes

from rdrop_paddle import TransformerEncoder, UserError
from rdrop_paddle.text.encoder_sizes import SIZES, with_numbers
from rdrop_paddle.training import inference

PADDING = 0
# as published without a head: 109,482,240 of BERT-base uncased, 108,310,272 cased, 4,385,920 of BERT-tiny, 22,713,216 of MiniLM
PARAMETERS = {
    ("minilm_l6", 30_522, 2): 22_713_216 + 770,
    ("minilm_l12", 30_522, 2): 33_360_000 + 770,
    ("bert_tiny", 30_522, 2): 4_385_920 + 258,
    ("bert_mini", 30_522, 2): 11_170_560 + 514,
    ("bert_small", 30_522, 2): 28_763_648 + 1_026,
    ("bert_medium", 30_522, 2): 41_373_184 + 1_026,
    ("bert_base", 30_522, 3): 109_482_240 + 2_307,
    ("bert_base", 28_996, 1): 108_310_272 + 769,
    ("bert_large", 30_522, 2): 335_141_888 + 2_050,
}
RATES = {"drop_rate": 0.1, "attention_drop_rate": 0.2}


@dataclasses.dataclass
class Section:
    """What `with_numbers` needs of a `model` section."""

    name: str
    layers: Optional[int] = None
    embed_dim: Optional[int] = None
    ffn_dim: Optional[int] = None
    num_heads: Optional[int] = None


def small(**settings):
    """An encoder of 2 layers over 20 tokens, with every parameter of a size that shows."""
    sizes = dict(vocabulary=20, classes=3, layers=2, embed_dim=16, ffn_dim=24, num_heads=2, max_length=12)
    model = TransformerEncoder(**{**sizes, **settings})
    for seed, parameter in enumerate(model.parameters()):
        parameter.set_value(np.random.default_rng(seed).normal(0, 0.4, parameter.shape).astype("float32"))
    return model


@pytest.fixture
def batch():
    """Three pairs of texts of 5, 3 and 4 tokens, and which of either each token is of."""
    tokens = np.random.default_rng(0).integers(1, 20, [3, 5])
    tokens[1, 3:] = tokens[2, 4:] = PADDING
    return paddle.to_tensor(tokens), paddle.to_tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0]])


@pytest.mark.parametrize("key", PARAMETERS, ids=lambda key: "-".join(map(str, key)))
def test_parameter_counts(key):
    name, vocabulary, classes = key
    sizes = dataclasses.asdict(with_numbers(Section(name)))
    sizes.pop("name")
    with paddle.LazyGuard():  # shapes only
        model = TransformerEncoder(vocabulary=vocabulary, classes=classes, **sizes)
    assert sum(int(np.prod(p.shape)) for p in model.parameters()) == PARAMETERS[key]


def test_every_name_has_a_pinned_count():
    assert {name for name, *_ in PARAMETERS} == set(SIZES) - {"custom"}


@pytest.mark.parametrize("section, message", [(Section("bert"), "did you mean bert_"), (Section("custom"), "has no layers")])
def test_a_name_that_is_unknown_or_lacks_numbers_is_an_error(section, message):
    with pytest.raises(UserError, match=message):
        with_numbers(section)


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_parameter_names_are_those_of_the_transformer_and_every_one_has_a_gradient(batch, pooling):
    model = small(pooling=pooling)
    attention = [f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
    layer = [*attention, "self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"]
    places = ["embedding_norm", "head", *(f"layers.{i}.{part}" for i in (0, 1) for part in layer)]
    places += ["pooler"] if pooling == "pooler" else []
    tables = {f"{table}_embedding.weight" for table in ("token", "position", "type")}
    assert set(model.state_dict()) == {f"{place}.{kind}" for place in places for kind in ("weight", "bias")} | tables
    model(*batch).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_initial_values_are_berts():
    paddle.seed(0)
    model = TransformerEncoder(vocabulary=900, classes=40, embed_dim=64, ffn_dim=128, num_heads=4, layers=1)
    for name, parameter in model.named_parameters():
        value = parameter.numpy()
        if name.endswith("bias"):
            assert (value == 0).all(), name
        elif "norm" in name:
            assert (value == 1).all(), name
        else:
            assert value.std() == pytest.approx(0.02, rel=0.1), name
            assert abs(value.mean()) < 0.002, name
    epsilons = {layer._epsilon for layer in model.sublayers() if isinstance(layer, paddle.nn.LayerNorm)}
    assert epsilons == {1e-12}


def test_two_passes_are_two_single_passes_when_nothing_is_dropped(batch):
    for pooling in ("pooler", "mean"):
        model = small(pooling=pooling)
        model.eval()
        single, double = model(*batch), model(*batch, passes=2)
        assert single.shape == [3, 3] and double.shape == [6, 3]
        np.testing.assert_allclose(double.numpy(), np.concatenate([single.numpy()] * 2), atol=1e-5)


def test_the_passes_differ_in_training_and_the_tokens_are_embedded_once(batch):
    model, seen = small(), []
    model.embedding_norm.register_forward_post_hook(lambda layer, inputs, output: seen.append(len(output)))
    first, second = model(*batch, passes=2).chunk(2)
    assert seen == [3]
    assert np.abs((first - second).numpy()).max() > 1e-3


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_padding_changes_nothing(batch, pooling):
    model = small(pooling=pooling)
    model.eval()
    tokens, types = (t.numpy() for t in batch)
    alone = model(paddle.to_tensor(tokens[1:2, :3]), paddle.to_tensor(types[1:2, :3])).numpy()
    np.testing.assert_allclose(model(*batch).numpy()[1], alone[0], atol=1e-5)


def test_a_text_of_padding_alone_gives_finite_logits(batch):
    for pooling in ("pooler", "mean"):
        assert np.isfinite(small(pooling=pooling)(paddle.full_like(batch[0], PADDING)).numpy()).all()


def test_the_head_sees_the_first_token_or_the_mean_of_all_but_padding(batch):
    for pooling in ("pooler", "mean"):
        model = small(pooling=pooling)
        model.eval()
        hidden = model.hidden(*batch).numpy()
        if pooling == "pooler":
            seen = np.tanh(hidden[:, 0] @ model.pooler.weight.numpy() + model.pooler.bias.numpy())
        else:
            seen = np.stack([hidden[row, :length].mean(axis=0) for row, length in enumerate((5, 3, 4))])
        expected = seen @ model.head.weight.numpy() + model.head.bias.numpy()
        np.testing.assert_allclose(model(*batch).numpy(), expected, atol=1e-5)


def test_the_last_layer_computes_the_first_token_alone_where_nothing_else_is_pooled(batch):
    model, seen = small(), []
    model.eval()
    for layer in model.layers:
        layer.fc1.register_forward_post_hook(lambda _, x, y: seen.append(y.shape[1]))
    found = []
    for hidden in (model.hidden(*batch, outputs=1), model.hidden(*batch)):
        logits = model.head(model.pooled(hidden, batch[0]))
        (logits**2).sum().backward()
        found.append([logits.numpy(), *(parameter.grad.numpy() for parameter in model.parameters())])
        model.clear_gradients()
    assert seen == [5, 1, 5, 5]
    for alone, among_all in zip(*found):
        np.testing.assert_allclose(alone, among_all, atol=1e-6 * np.abs(among_all).max().clip(1))
    np.testing.assert_array_equal(model(*batch).numpy(), found[0][0])
    assert seen[4:] == [5, 1]


def test_without_types_all_tokens_are_of_the_first_text(batch):
    model = small()
    model.eval()
    found = model(batch[0]).numpy()
    np.testing.assert_array_equal(found, model(batch[0], paddle.zeros_like(batch[1])).numpy())
    assert np.abs(found - model(*batch).numpy()).max() > 1e-3


def test_dropout_sits_where_bert_has_it_and_drops_once_a_pass(batch):
    model, seen = small(layers=1, pooling="mean", **RATES), {}
    sites = {name: layer for name, layer in model.named_sublayers() if isinstance(layer, paddle.nn.Dropout)}
    for name, layer in sites.items():
        layer.register_forward_post_hook(lambda _, x, y, name=name: seen.setdefault(name, []).append(x[0].shape))
    model(*batch, passes=2)
    assert seen == {
        "dropout": [[6, 5, 16]],
        "layers.0.self_attn.dropout": [[6, 2, 5, 5]],
        "layers.0.self_attn_dropout": [[6, 5, 16]],
        "layers.0.activation_dropout": [[6, 5, 24]],
        "layers.0.final_dropout": [[6, 5, 16]],
        "head_dropout": [[6, 16]],
    }
    assert {name: layer.p for name, layer in sites.items()} == {
        name: {"layers.0.self_attn.dropout": 0.2, "layers.0.activation_dropout": 0.0}.get(name, 0.1) for name in sites
    }


def widths_of_layers(model, batch, **ways):
    """Texts in each forward of a layer, in order, forward and backward."""
    seen = []
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]))) for layer in model.layers]
    model(*batch, passes=2, **ways).sum().backward()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("shared_blocks, widths", [(0, [6, 6]), (1, [3, 6]), (2, [3, 3])])
def test_shared_blocks_are_computed_once(batch, shared_blocks, widths):
    model = small()
    assert widths_of_layers(model, batch, shared_blocks=shared_blocks) == widths
    model.eval()
    found = model(*batch, passes=2, shared_blocks=shared_blocks).numpy()
    np.testing.assert_allclose(found, model(*batch, passes=2).numpy(), atol=1e-5)


@pytest.mark.parametrize("shared_blocks, differ", [(0, True), (1, True), (2, False)])
def test_passes_share_the_dropout_of_shared_blocks_alone(batch, shared_blocks, differ):
    model = small(drop_rate=0, attention_drop_rate=0)
    model.layers[1].final_dropout.p = 0.5
    first, second = model(*batch, passes=2, shared_blocks=shared_blocks).chunk(2)
    assert (np.abs((first - second).numpy()).max() > 1e-3) == differ


@pytest.mark.parametrize("pooling, shared_blocks", [("pooler", 0), ("mean", 1)])
def test_gradients_are_the_numeric_ones(batch, pooling, shared_blocks):
    """Two different losses of the passes, the same masks in every forward, float64."""
    model = small(pooling=pooling, **RATES)
    model.to(dtype="float64")

    def loss():
        paddle.seed(5)
        first, second = model(*batch, passes=2, shared_blocks=shared_blocks).chunk(2)
        return (first**2).sum() + second.sin().sum()

    found, expected = slopes(model, loss)
    assert found == pytest.approx(expected, rel=1e-6)


@recomputes
def test_recompute_gives_the_same_gradient_to_the_bit_from_two_forwards_of_each_layer(batch):
    model, found = small(**RATES), []
    for recompute in (False, True):
        paddle.seed(1)
        assert len(widths_of_layers(model, batch, shared_blocks=1, recompute=recompute)) == (4 if recompute else 2)
        found.append([p.grad.numpy().tobytes() for p in model.parameters()])
        model.clear_gradients()
    assert found[0] == found[1]


@pytest.mark.parametrize("pooling", ["pooler", "mean"])
def test_an_exported_encoder_gives_the_same_logits_for_any_number_and_length_of_texts(batch, pooling, tmp_path):
    model = small(pooling=pooling)
    model.eval()
    specification = [paddle.static.InputSpec([None, None], "int64") for _ in range(2)]
    exported = inference.load(*inference.save(model, specification, tmp_path / "encoder"))
    for inputs in (batch, [t[1:2, :4] for t in batch]):
        np.testing.assert_allclose(inference.run(exported, *inputs), model(*inputs).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"pooling": "max"}, "pooling is 'max': give one of pooler, mean"),
        ({"num_heads": 3}, "embed_dim 16 is no multiple of num_heads 3"),
    ],
)
def test_arguments_that_do_not_fit_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        small(**settings)


def test_a_text_longer_than_the_positions_is_an_error(batch):
    with pytest.raises(UserError, match="a text of 5 tokens is longer than model.max_length 4"):
        small(max_length=4)(*batch)
