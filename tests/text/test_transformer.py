import dataclasses
import itertools
from typing import Optional

import numpy as np
import paddle
import pytest
from conftest import recomputes, slopes

from rdrop_paddle import Transformer, UserError
from rdrop_paddle.text import attention
from rdrop_paddle.text.transformer import sinusoids
from rdrop_paddle.text.transformer_sizes import SIZES, with_numbers

PADDING = 1
# with fairseq's dictionaries of IWSLT14 (de, en), the paper's 37,000 tokens, and for Multi30k the 6,000 of a joint one; the big
# one with its norms first and nothing tied is fairseq's transformer_wmt_en_de_big_t2t, for which others report this number
PARAMETERS = {
    ("tiny", 6_000, 6_000, "all", "post"): 2_093_056,
    ("iwslt_de_en", 8_848, 6_632, "decoder", "post"): 39_469_056,
    ("iwslt_de_en", 8_848, 6_632, "none", "post"): 42_864_640,
    ("iwslt_de_en", 10_000, 10_000, "all", "post"): 36_663_296,
    ("base", 37_000, 37_000, "all", "post"): 63_082_496,
    ("big", 37_000, 37_000, "all", "post"): 214_245_376,
    ("big", 70_000, 70_000, "none", "pre"): 391_401_472,
    ("bart_base", 50_265, 50_265, "all", "post"): 139_417_344,  # 139,420,416 with the 4 rows that stand for no position
    ("bart_large", 50_265, 50_265, "all", "post"): 406_287_360,  # 406,291,456
}


@dataclasses.dataclass
class Section:
    """What `with_numbers` needs of a `model` section."""

    name: str
    encoder_layers: Optional[int] = None
    decoder_layers: Optional[int] = None
    embed_dim: Optional[int] = None
    ffn_dim: Optional[int] = None
    num_heads: Optional[int] = None


def small(**settings):
    """A Transformer of 2 + 2 layers over 20 tokens, with every parameter of a size that shows."""
    sizes = dict(encoder_layers=2, decoder_layers=2, embed_dim=16, ffn_dim=24, num_heads=2, max_length=12)
    vocabularies = dict(source_vocabulary=20, target_vocabulary=20, padding=PADDING)
    model = Transformer(**{**vocabularies, **sizes, **settings})
    for seed, parameter in enumerate(model.parameters()):
        parameter.set_value(np.random.default_rng(seed).normal(0, 0.4, parameter.shape).astype("float32"))
    return model


@pytest.fixture
def batch():
    """Three sources of 5, 3 and 4 tokens, and three targets of 6."""
    source = np.random.default_rng(0).integers(2, 20, [3, 5])
    source[1, 3:] = source[2, 4:] = PADDING
    return paddle.to_tensor(source), paddle.to_tensor(np.random.default_rng(1).integers(2, 20, [3, 6]))


@pytest.mark.parametrize("key", PARAMETERS, ids=lambda key: "-".join(map(str, key)))
def test_parameter_counts(key):
    name, source_vocabulary, target_vocabulary, tying, norm = key
    sizes = dataclasses.asdict(with_numbers(Section(name)))
    sizes.pop("name")
    vocabularies = dict(source_vocabulary=source_vocabulary, target_vocabulary=target_vocabulary, padding=PADDING)
    of_bart = dict(positions="learned", embedding_norm=True, max_length=1024) if name.startswith("bart") else {}
    with paddle.LazyGuard():  # shapes only
        model = Transformer(**vocabularies, **sizes, **of_bart, tying=tying, norm=norm)
    assert sum(int(np.prod(p.shape)) for p in model.parameters()) == PARAMETERS[key]


def test_every_name_has_a_pinned_count():
    assert {name for name, *_ in PARAMETERS} == set(SIZES) - {"custom"}


def test_numbers_replace_those_of_the_name():
    section = with_numbers(Section("tiny", num_heads=8))
    assert (section.num_heads, section.embed_dim) == (8, 128)


@pytest.mark.parametrize(
    "section, message", [(Section("iwslt"), "did you mean iwslt_de_en"), (Section("custom"), "has no enc")]
)
def test_a_name_that_is_unknown_or_lacks_numbers_is_an_error(section, message):
    with pytest.raises(UserError, match=message):
        with_numbers(section)


def test_parameter_names_are_fairseqs():
    names = {name for name, _ in small(norm="pre", positions="learned", tying="none").named_parameters()}
    attention = [f"{part}_proj" for part in "qkv"] + ["out_proj"]
    encoder = [*(f"self_attn.{part}" for part in attention), "self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"]
    decoder = [*encoder, *(f"encoder_attn.{part}" for part in attention), "encoder_attn_layer_norm"]
    places = [
        f"{side}.layers.{i}.{part}"
        for side, parts in (("encoder", encoder), ("decoder", decoder))
        for i in (0, 1)
        for part in parts
    ]
    places += ["encoder.layer_norm", "decoder.layer_norm"]
    tables = {"source_embedding.weight", "target_embedding.weight", "output.weight"}
    positions = {"encoder.embed_positions", "decoder.embed_positions"}
    assert names == {f"{place}.{kind}" for place in places for kind in ("weight", "bias")} | tables | positions


@pytest.mark.parametrize(
    "tying, tables",
    [
        ("all", {"source_embedding"}),
        ("decoder", {"source_embedding", "target_embedding"}),
        ("none", {"source_embedding", "target_embedding", "output"}),
    ],
)
def test_what_is_tied_is_one_parameter_that_is_stored_once(tying, tables):
    model = small(tying=tying)
    stored = {name: value for name, value in model.state_dict().items() if "layers" not in name}
    assert set(stored) == {f"{table}.weight" for table in tables}  # positions that are computed are not stored
    last = {"all": "source_embedding", "decoder": "target_embedding", "none": "output"}[tying]
    assert model.output_weight is getattr(model, last).weight


def test_initial_values_are_fairseqs():
    paddle.seed(0)
    model = Transformer(
        source_vocabulary=900,
        target_vocabulary=900,
        padding=3,
        embed_dim=64,
        ffn_dim=128,
        encoder_layers=1,
        decoder_layers=1,
        tying="none",
        positions="learned",
    )
    values = {name: p.numpy() for name, p in model.named_parameters()}
    for table in ("source_embedding.weight", "target_embedding.weight"):
        assert (values[table][3] == 0).all()
        values[table] = np.delete(values[table], 3, axis=0)
    for name, value in values.items():
        if name.endswith("bias"):
            assert (value == 0).all(), name
        elif "norm" in name:
            assert (value == 1).all(), name
        elif "embed" in name or name == "output.weight":  # normal, of deviation 1 / sqrt(d)
            assert value.std() == pytest.approx(64**-0.5, rel=0.03), name
            assert 3 / 8 < np.abs(value).max() < 6 / 8, name
        else:  # uniform: Xavier's bound, over the square root of 2 for query, key and value
            bound = np.sqrt(6 / sum(value.shape)) / (np.sqrt(2) if name.split(".")[-2][:2] in ("q_", "k_", "v_") else 1)
            assert 0.99 * bound < np.abs(value).max() <= bound * (1 + 1e-6), name
            assert value.std() == pytest.approx(bound / np.sqrt(3), rel=0.03), name


@pytest.mark.parametrize("width", [8, 7])
def test_sinusoids_are_fairseqs_formula(width):
    expected = np.zeros([30, width])
    for position, place in itertools.product(range(30), range(width // 2)):
        angle = position / 10000 ** (place / (width // 2 - 1))
        expected[position, place], expected[position, width // 2 + place] = np.sin(angle), np.cos(angle)
    np.testing.assert_allclose(sinusoids(30, width), expected, atol=1e-6)


def test_positions_count_from_after_the_padding_index_as_fairseqs():
    model = Transformer(source_vocabulary=9, target_vocabulary=9, padding=4, encoder_layers=0, decoder_layers=0, embed_dim=8)
    model.eval()
    tokens = paddle.to_tensor([[2, 7, 5]])
    expected = model.source_embedding.weight.numpy()[[2, 7, 5]] * np.sqrt(8) + sinusoids(8, 8)[5:]
    np.testing.assert_allclose(model.encode(tokens).numpy()[0], expected, atol=1e-6)


def test_two_passes_are_two_single_passes_when_nothing_is_dropped(batch):
    model = small()
    model.eval()
    single, double = model(*batch), model(*batch, passes=2)
    assert single.shape == [3, 6, 20] and double.shape == [6, 6, 20]
    np.testing.assert_allclose(double.numpy(), np.concatenate([single.numpy()] * 2), atol=1e-5)


def test_the_logits_are_the_projected_hidden_states(batch):
    model = small(tying="none")
    model.eval()
    hidden = model.hidden(*batch, passes=2)
    assert hidden.shape == [6, 6, 16] and model.output_weight.shape == [20, 16]
    expected = hidden.numpy() @ model.output_weight.numpy().T
    np.testing.assert_allclose(model(*batch, passes=2).numpy(), expected, atol=1e-5)


def test_the_passes_differ_in_training_and_the_tokens_are_embedded_once(batch):
    model = small(tying="decoder")
    seen = []
    for table in (model.source_embedding, model.target_embedding):
        table.register_forward_post_hook(lambda layer, inputs, output: seen.append(output.shape[0]))
    first, second = model(*batch, passes=2).chunk(2)
    assert seen == [3, 3]
    assert np.abs((first - second).numpy()).max() > 1e-3


@pytest.mark.parametrize("norm, positions", [("post", "sinusoidal"), ("pre", "learned")])
def test_padding_of_either_side_changes_nothing(batch, norm, positions):
    model = small(norm=norm, positions=positions)
    model.eval()
    source, target = (t.numpy() for t in batch)
    alone = model(paddle.to_tensor(source[1:2, :3]), paddle.to_tensor(target[1:2, :4])).numpy()
    target[1, 4:] = PADDING
    together = model(paddle.to_tensor(source), paddle.to_tensor(target)).numpy()
    np.testing.assert_allclose(together[1, :4], alone[0], atol=1e-5)


def test_a_source_of_padding_alone_gives_finite_logits(batch):
    model = small()
    assert np.isfinite(model(paddle.full_like(batch[0], PADDING), batch[1]).numpy()).all()


@pytest.mark.parametrize("shared_blocks", [0, 2])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_fused_attention_gives_what_the_products_give(batch, norm, shared_blocks, monkeypatch):
    model = small(norm=norm)
    model.eval()
    found = model(*batch, passes=2, shared_blocks=shared_blocks).numpy()
    monkeypatch.setattr(attention, "on_cpu", lambda x: False)  # what a GPU runs
    np.testing.assert_allclose(model(*batch, passes=2, shared_blocks=shared_blocks).numpy(), found, atol=1e-5)


def test_fused_attention_drops_at_the_rate_of_attention(batch, monkeypatch):
    model = small(drop_rate=0, attention_drop_rate=0.5)
    monkeypatch.setattr(attention, "on_cpu", lambda x: False)
    first, second = model(*batch, passes=2).chunk(2)
    assert np.abs((first - second).numpy()).max() > 1e-3
    model.eval()
    first, second = model(*batch, passes=2).chunk(2)
    assert np.abs((first - second).numpy()).max() < 1e-5


def test_attention_weights_sum_to_one_over_what_is_no_padding(batch):
    model = small()
    model.eval()
    memory = model.encode(batch[0])
    over_source = model.decoder.layers[0].encoder_attn
    bias = attention.keep_bias(batch[0] != PADDING)
    weights = over_source.weights(paddle.randn([3, 6, 16]), over_source.keys_and_values(memory)[0], bias).numpy()
    assert weights.shape == (3, 2, 6, 5)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)
    assert (weights[1, :, :, 3:] < 1e-27).all() and (weights[1, :, :, :3] > 1e-6).all()


RATES = {"drop_rate": 0.1, "attention_drop_rate": 0.2, "activation_drop_rate": 0.3}


def test_dropout_sits_where_fairseq_has_it():
    model = small(encoder_layers=1, decoder_layers=1, **RATES)
    sites = {name: layer.p for name, layer in model.named_sublayers() if isinstance(layer, paddle.nn.Dropout)}
    of_layer = {"self_attn.dropout": 0.2, "self_attn_dropout": 0.1, "activation_dropout": 0.3, "final_dropout": 0.1}
    over_source = {"encoder_attn.dropout": 0.2, "encoder_attn_dropout": 0.1}
    assert sites == {
        **{f"{side}.dropout": 0.1 for side in ("encoder", "decoder")},
        **{f"encoder.layers.0.{site}": rate for site, rate in of_layer.items()},
        **{f"decoder.layers.0.{site}": rate for site, rate in (of_layer | over_source).items()},
    }


def test_each_site_drops_once_a_pass_what_belongs_there(batch):
    """Embeddings, what parts add to their input, attention weights, and hidden units after the activation."""
    model = small(encoder_layers=1, decoder_layers=1, **RATES)
    seen = {}
    for name, layer in model.named_sublayers():
        if isinstance(layer, paddle.nn.Dropout):
            layer.register_forward_post_hook(lambda _, x, y, name=name: seen.setdefault(name, []).append(x[0]))
    model(*batch, passes=2)
    assert all(len(calls) == 1 for calls in seen.values())
    shapes = {name: calls[0].shape for name, calls in seen.items()}
    assert shapes["encoder.dropout"] == [6, 5, 16] and shapes["decoder.dropout"] == [6, 6, 16]
    assert shapes["decoder.layers.0.self_attn.dropout"] == [6, 2, 6, 6]
    assert shapes["decoder.layers.0.encoder_attn.dropout"] == [6, 2, 6, 5]
    assert shapes["decoder.layers.0.activation_dropout"] == [6, 6, 24]
    assert shapes["decoder.layers.0.encoder_attn_dropout"] == [6, 6, 16]
    assert (seen["decoder.layers.0.activation_dropout"][0] >= 0).all()
    np.testing.assert_allclose(seen["decoder.layers.0.self_attn.dropout"][0].sum(axis=-1).numpy(), 1, atol=1e-6)


def widths_of_layers(model, batch, **ways):
    """Sentences in each forward of a layer, in order, forward and backward."""
    seen = []
    layers = [*model.encoder.layers, *model.decoder.layers]
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]))) for layer in layers]
    model(*batch, passes=2, **ways).sum().backward()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    "shared_blocks, widths",
    [(0, [6, 6, 6, 6]), (1, [3, 6, 6, 6]), (2, [3, 3, 6, 6]), (3, [3, 3, 3, 6]), (4, [3, 3, 3, 3])],
)
def test_shared_blocks_are_the_encoders_first_and_computed_once(batch, shared_blocks, widths):
    model = small()
    assert widths_of_layers(model, batch, shared_blocks=shared_blocks) == widths
    assert model(*batch, passes=2, shared_blocks=shared_blocks).shape == [6, 6, 20]
    model.eval()
    found = model(*batch, passes=2, shared_blocks=shared_blocks).numpy()
    np.testing.assert_allclose(found, model(*batch, passes=2).numpy(), atol=1e-5)


def test_a_shared_encoder_is_projected_once_for_both_passes(batch):
    model, seen = small(), []
    model.decoder.layers[0].encoder_attn.k_proj.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    model(*batch, passes=2, shared_blocks=2)
    assert seen == [3]


@pytest.mark.parametrize("shared_blocks, differ", [(1, True), (2, False), (3, False)])
def test_passes_share_the_dropout_of_shared_blocks_alone(batch, shared_blocks, differ):
    model = small(drop_rate=0)
    model.encoder.dropout.p = model.encoder.layers[1].final_dropout.p = 0.5
    first, second = model(*batch, passes=2, shared_blocks=shared_blocks).chunk(2)
    assert (np.abs((first - second).numpy()).max() > 1e-3) == differ
    model.decoder.dropout.p = 0.5
    first, second = model(*batch, passes=2, shared_blocks=shared_blocks).chunk(2)
    assert (np.abs((first - second).numpy()).max() > 1e-3) == (shared_blocks < 3)


@pytest.mark.parametrize("shared_blocks", [0, 1, 2, 3])
def test_gradients_are_the_numeric_ones(batch, shared_blocks):
    """Two different losses of the passes, the same masks in every forward, float64."""
    model = small(norm="pre", activation="gelu", positions="learned", tying="decoder", **RATES)
    model.to(dtype="float64")

    def loss():
        paddle.seed(5)
        first, second = model(*batch, passes=2, shared_blocks=shared_blocks).chunk(2)
        return (first.square().sum() + (first * second).sin().sum()) / 100

    found, expected = slopes(model, loss)
    assert found == pytest.approx(expected, rel=1e-6)


@recomputes
@pytest.mark.parametrize("shared_blocks", [0, 1, 2])
def test_recompute_gives_the_same_gradient_to_the_bit_from_two_forwards_of_each_layer(batch, shared_blocks):
    model = small(**RATES)
    found = []
    for recompute in (False, True):
        paddle.seed(1)
        forwards = widths_of_layers(model, batch, shared_blocks=shared_blocks, recompute=recompute)
        assert len(forwards) == (8 if recompute else 4)
        found.append([p.grad.numpy().tobytes() for p in model.parameters()])
        model.clear_gradients()
    assert found[0] == found[1]


@pytest.mark.parametrize("pieces", [[1] * 6, [2, 1, 3]], ids=str)
@pytest.mark.parametrize("norm, positions", [("post", "sinusoidal"), ("pre", "learned")])
def test_decoding_step_by_step_gives_the_logits_of_the_full_forward(batch, norm, positions, pieces):
    model = small(norm=norm, positions=positions)
    model.eval()
    source, target = batch
    cache, logits = model.start(source), []
    for piece in paddle.split(target, pieces, axis=1):
        logits.append(model.step(piece, cache).numpy())
    np.testing.assert_allclose(np.concatenate(logits, axis=1), model(source, target).numpy(), atol=1e-5)


def test_a_cache_goes_on_from_the_rows_and_sources_that_are_selected(batch):
    model = small()
    model.eval()
    source, target = batch
    cache = model.start(source)
    model.step(target[:, :2], cache)
    cache.select(paddle.to_tensor([0, 0, 1, 1, 2, 2]))  # two rows each
    model.step(paddle.to_tensor([[3], [4], [5], [6], [7], [8]]), cache)
    cache.select(paddle.to_tensor([5, 4, 5, 1, 0, 0]), paddle.to_tensor([2, 0]))  # the sources too change places
    found = model.step(paddle.to_tensor([[9], [9], [8], [7], [6], [5]]), cache).numpy()
    first = target.numpy()[:, :2].tolist()
    prefixes = [
        first[2] + [8, 9],
        first[2] + [7, 9],
        first[2] + [8, 8],
        first[0] + [4, 7],
        first[0] + [3, 6],
        first[0] + [3, 5],
    ]
    expected = model(paddle.index_select(source, paddle.to_tensor([2, 2, 2, 0, 0, 0])), paddle.to_tensor(prefixes)).numpy()
    np.testing.assert_allclose(found[:, 0], expected[:, -1], atol=1e-5)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"norm": "before"}, "norm is 'before': give one of post, pre"),
        ({"activation": "silu"}, "activation is 'silu': give one of relu, gelu"),
        ({"positions": "rotary"}, "positions is 'rotary': give one of sinusoidal, learned"),
        ({"tying": "both"}, "tying is 'both': give one of all, decoder, none"),
        ({"num_heads": 3}, "embed_dim 16 is no multiple of num_heads 3"),
        ({"target_vocabulary": 30}, "tying is all, but the source has 20 tokens and the target 30"),
    ],
)
def test_arguments_that_do_not_fit_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        small(**settings)


def test_a_sentence_longer_than_the_positions_is_an_error(batch):
    model = small(max_length=5)
    with pytest.raises(UserError, match="a sentence of 6 tokens is longer than model.max_length 5"):
        model(*batch)
    cache = model.start(batch[0])
    model.step(batch[1][:, :5], cache)
    with pytest.raises(UserError, match="a sentence of 6 tokens"):
        model.step(batch[1][:, 5:], cache)
