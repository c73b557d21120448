"""GPT-2's weights, of random values, as transformers writes them, held against its model."""

import json

import numpy as np
import paddle
import pytest
import torch
from safetensors.torch import save_file

from rdrop_paddle import UserError, load_config
from rdrop_paddle.durability.checkpoint import model_arrays, save_weights
from rdrop_paddle.text import claims
from rdrop_paddle.text.continuation import generate
from rdrop_paddle.text.language_model import LanguageModel
from rdrop_paddle.text.language_model_weights import belongings, load_weights, tokens_of
from rdrop_paddle.text.language_modelling import Evaluator, LanguageModelling
from rdrop_paddle.text.token_stream import IGNORED
from rdrop_paddle.text.tokens import train_tokens

SIZES = dict(layers=2, embed_dim=16, ffn_dim=64, num_heads=2, max_length=20)
GPT2 = dict(norm="pre", activation="gelu_tanh", positions="learned", scaled=False, tied=True)
VOCABULARY = 40


def config(**settings):
    given = {"name": "custom", **SIZES, **GPT2, **settings}
    small = ["data.tokens_per_sample=10", "decode.max_length=5"]
    return load_config(None, ["task=language_modelling", *small, *(f"model.{key}={value}" for key, value in given.items())])


def language_model(**settings):
    model = LanguageModel(vocabulary=VOCABULARY, **{**SIZES, **GPT2, **settings})
    model.eval()
    return model


@pytest.fixture(scope="module")
def gpt2():
    """A GPT2LMHeadModel in evaluation mode, no parameter of which is at its initial value."""
    from transformers import GPT2Config, GPT2LMHeadModel  # large

    sizes = dict(n_layer=2, n_embd=16, n_head=2, n_positions=20, vocab_size=VOCABULARY)
    model, generator = (
        GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval(),
        torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1 if ".ln_" in name and name.endswith("weight") else 0
            # neither the last token nor the bias of the last norm is to say alone which token is the likeliest next one
            size = 0.15 if "wte" in name else 0.01 if "ln_f.bias" in name else 0.6
            parameter.copy_(centre + size * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def folder(gpt2, tmp_path):
    gpt2.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, [3, 12])


def logits_of(gpt2):
    with torch.no_grad():
        return gpt2(torch.from_numpy(TOKENS)).logits.numpy()


def test_logits_and_gradients_are_those_of_transformers(gpt2, folder):
    ours = language_model()
    report = load_weights(ours, folder, config())
    assert report.format == "Hugging Face GPT-2 .safetensors"
    assert len(report.names("split")) == 12 and {row.action for row in report.rows} == {"loaded", "split"}
    found, expected = ours(paddle.to_tensor(TOKENS)), gpt2(torch.from_numpy(TOKENS)).logits
    assert np.abs(expected.detach().numpy()).max() > 1
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=1e-5)
    weights = np.random.default_rng(1).normal(size=found.shape).astype("float32")
    (found * paddle.to_tensor(weights)).sum().backward()
    gpt2.zero_grad()
    (expected * torch.from_numpy(weights)).sum().backward()
    wanted = {"embedding.weight": gpt2.transformer.wte.weight.grad, "decoder.embed_positions": gpt2.transformer.wpe.weight.grad}
    attention = gpt2.transformer.h[1].attn.c_attn.weight.grad.chunk(3, dim=-1)
    wanted |= {f"decoder.layers.1.self_attn.{name}_proj.weight": part for name, part in zip("qkv", attention)}
    parameters = dict(ours.named_parameters())
    for name, gradient in wanted.items():
        largest = gradient.abs().max().item()
        np.testing.assert_allclose(parameters[name].grad.numpy(), gradient.numpy(), atol=1e-4 * largest, err_msg=name)


def test_greedy_continuations_are_those_of_transformers(gpt2, folder):
    ours = language_model()
    load_weights(ours, folder, config())
    said = set()
    for prompt in TOKENS[:, :5]:
        expected = gpt2.generate(
            torch.from_numpy(prompt[None]), max_new_tokens=14, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        found = generate(ours, prompt.tolist(), 14, lambda logits: int(logits.argmax()))
        assert found == expected[0, 5:].tolist()
        said |= {*found}
    assert len(said) > 3


def without_prefix(state):
    return {name.removeprefix("transformer."): value for name, value in state.items() if name != "lm_head.weight"}


def as_older_versions_wrote_it(state):
    masks = {f"transformer.h.{n}.attn.{name}": torch.ones(1) for n in (0, 1) for name in ("bias", "masked_bias")}
    return state | masks


def in_a_wrapper(state):
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.parametrize("container", ["safetensors", "bin"])
@pytest.mark.parametrize(
    "change", [without_prefix, as_older_versions_wrote_it, in_a_wrapper], ids=lambda change: change.__name__
)
def test_names_with_and_without_prefix_and_of_old_files_are_read(gpt2, folder, tmp_path, change, container):
    state = {name: value.clone() for name, value in change(gpt2.state_dict()).items()}
    path = tmp_path / f"weights.{container}"
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(state, path) if container == "safetensors" else torch.save(state, path)
    ours = language_model()
    report = load_weights(ours, path, config())
    np.testing.assert_allclose(ours(paddle.to_tensor(TOKENS)).numpy(), logits_of(gpt2), atol=1e-5)
    assert len(report.rows) == len(state) + 8 and len(report.names("dropped")) == len(state) - 28


def test_an_output_of_its_own_is_loaded_where_the_model_has_one_and_an_error_elsewhere(gpt2, folder, tmp_path):
    state = {name: value.clone() for name, value in gpt2.state_dict().items()}
    state["lm_head.weight"] += 1
    save_file(state, tmp_path / "weights.safetensors")
    ours, settings = language_model(tied=False), dict(num_heads=2, embed_dim=16)
    (tmp_path / "config.json").write_text(json.dumps(dict(n_head=2)))
    load_weights(ours, tmp_path / "weights.safetensors", config(tied=False, **settings))
    np.testing.assert_array_equal(ours.output.weight.numpy(), state["lm_head.weight"].numpy())
    with pytest.raises(UserError, match="output.weight unexpected"):
        load_weights(language_model(), tmp_path / "weights.safetensors", config())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_head": 4}, "model.num_heads is 2 here and 4 in .*config.json. Give model.num_heads=4,"),
        ({"n_layer": 3}, "Give model.layers=3,"),
        ({"n_embd": 32}, "Give model.embed_dim=32 model.ffn_dim=128,"),
        ({"n_inner": 48}, "Give model.ffn_dim=48,"),
        ({"n_positions": 512}, "Give model.max_length=512,"),
        ({"activation_function": "relu"}, "Give model.activation=relu,"),
        (
            {"activation_function": "silu"},
            "activation_function is silu in .*, and the language models here have gelu_new alone",
        ),
        ({"tie_word_embeddings": False}, "Give model.tied=False,"),
        ({"model_type": "gpt_neo"}, "model_type is gpt_neo in .* have gpt2 alone"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ],
    ids=str,
)
def test_a_config_beside_the_weights_is_compared_and_the_setting_named(folder, changes, message):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=message) as error:
        load_weights(language_model(), folder, config())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"scaled": True}, "model.scaled is True here and False in GPT-2, whose tensors these are"),
        ({"norm": "post"}, "Give model.norm=pre"),
        ({"activation": "gelu"}, "Give model.activation=gelu_tanh"),
        ({"num_heads": 4}, "model.num_heads is 4 here and 2 in GPT-2, whose tensors these are, where no config.json"),
    ],
    ids=str,
)
def test_what_gpt2_is_without_a_word_is_compared_too(folder, settings, message, monkeypatch):
    monkeypatch.setattr(claims, "WIDTH", 8)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=message):
        load_weights(language_model(), folder, config(**settings))


def test_this_projects_own_are_read_and_know_how_they_were_trained(tmp_path):
    tokens = train_tokens(["text"], [["a few words of text"]], vocabulary_size=30, joint=True, lowercase=False)
    settings, path = config(), tmp_path / "best.safetensors"
    kept = {name: json.dumps(value) for name, value in belongings(tokens, settings).items()}
    trained, ours = language_model(), language_model()
    save_weights(model_arrays(trained), path, **kept)
    load_weights(ours, path, settings)
    np.testing.assert_array_equal(ours(paddle.to_tensor(TOKENS)).numpy(), trained(paddle.to_tensor(TOKENS)).numpy())
    assert tokens_of(path).fingerprint() == tokens.fingerprint()
    with pytest.raises(UserError, match="model.num_heads is 4 here and 2 in the header of .* Give model.num_heads=4|=2"):
        load_weights(ours, path, config(num_heads=4))


def test_what_is_no_gpt2_or_not_finite_is_an_error_and_changes_nothing(gpt2, folder, tmp_path):
    ours, state = language_model(), without_prefix(gpt2.state_dict())
    before = model_arrays(ours)
    path = folder / "model.safetensors"
    for tensors, message in (
        ({"stem.weight": torch.zeros(2)}, r"its tensors are those of no GPT-2 \(stem.weight ...\)"),
        ({**state, "h.0.attn.adapter.weight": torch.zeros(2)}, "h.0.attn.adapter.weight unexpected"),
        ({**state, "ln_f.bias": torch.full([16], torch.nan)}, "decoder.layer_norm.bias holds NaN"),
    ):
        save_file({name: value.clone() for name, value in tensors.items()}, path)
        with pytest.raises(UserError, match=message):
            load_weights(ours, folder, config())
    assert all((array == before[name]).all() for name, array in model_arrays(ours).items())


@pytest.mark.parametrize("form", ["tokenizer.json", "vocab.json"])
def test_gpt2s_tokens_come_with_its_weights_and_lose_nothing(gpt2, folder, form, tmp_path):
    from transformers import GPT2TokenizerFast

    letters = [*map(chr, [*range(33, 60), 288, 266]), *"abcdefgh"]
    (tmp_path / "vocab.json").write_text(
        json.dumps({text: n for n, text in enumerate([*letters[:37], "ab", "Ġab", "<|endoftext|>"])})
    )
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\nĠ ab\n")
    theirs = GPT2TokenizerFast(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    if form == "tokenizer.json":
        theirs.backend_tokenizer.save(str(folder / form))
    else:
        for name in ("vocab.json", "merges.txt"):
            (folder / name).write_text((tmp_path / name).read_text())
    task = LanguageModelling(config())
    task.load_weights(folder)
    text = "ab  ab c\n 12"
    assert task.tokens.encode(0, [text]) == [theirs(text).input_ids]
    assert task.tokens.decode(0, theirs(text).input_ids) == text
    assert (task.tokens.end, task.tokens.unknown) == (39, -1)
    padded = paddle.to_tensor([[1, 2, 3, 39], [1, 39, 39, 39]])  # byte-level tokens have no unknown one, and padding is none
    labels = paddle.to_tensor([[2, 3, 4, 39], [39, IGNORED, IGNORED, IGNORED]])
    counts = task.evaluate(Evaluator(task.model, np.asarray([2, 1])), [padded, labels, paddle.to_tensor([0, 1])])
    assert counts.numpy()[1:].tolist() == [5, 3, 0]
    again = LanguageModelling(config())
    kept = {name: json.dumps(value) for name, value in task.belongings().items()}
    save_weights(model_arrays(task.model), tmp_path / "best.safetensors", **kept)
    again.load_weights(tmp_path / "best.safetensors")
    assert again.tokens.encode(0, [text]) == [theirs(text).input_ids] and again.tokens.end == 39


def test_weights_without_tokens_are_refused(folder):
    with pytest.raises(
        UserError, match="has no tokens in its header, and neither tokenizer.json nor vocab.json and merges.txt"
    ):
        LanguageModelling(config()).load_weights(folder)
