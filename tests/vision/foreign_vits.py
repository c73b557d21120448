"""The tiny ViT in the names of other libraries, written anew and not by the readers that are tested."""

import numpy as np
import paddle
import pytest
from conftest import google_arrays

from rdrop_paddle.vision.model import VisionTransformer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def tiny_vit():
    """The model of the tiny config."""
    return VisionTransformer(image_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, classes=10)


def distinct(model):
    """The model, with weights that are all different."""
    for seed, parameter in enumerate(model.parameters()):
        parameter.set_value(np.random.default_rng(seed).normal(0, 0.2, parameter.shape).astype("float32"))
    return model


def timm_state(model):
    """torch's tensors under timm's names, made without the project's own converter."""
    state = {}
    for name, layer in model.named_sublayers():
        for kind, parameter in layer.named_parameters(include_sublayers=False):
            array = parameter.numpy()
            state[f"{name}.{kind}"] = array.T.copy() if isinstance(layer, paddle.nn.Linear) and kind == "weight" else array
    state |= {name: getattr(model, name).numpy() for name in ("cls_token", "pos_embed")}
    return {name: torch.from_numpy(array.copy()) for name, array in state.items()}


def huggingface(model):
    """A transformers ViT that holds the model's weights."""
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_labels=10, layer_norm_eps=1e-6,
    )  # fmt: skip
    foreign = transformers.ViTForImageClassification(config).eval()
    vit, ours = foreign.vit, timm_state(model)
    pairs = [
        ("patch_embed.proj", vit.embeddings.patch_embeddings.projection),
        ("norm", vit.layernorm),
        ("head", foreign.classifier),
    ]
    for i, layer in enumerate(vit.layers):
        pairs += [(f"blocks.{i}.norm1", layer.layernorm_before), (f"blocks.{i}.norm2", layer.layernorm_after)]
        pairs += [(f"blocks.{i}.attn.proj", layer.attention.o_proj)]
        pairs += [(f"blocks.{i}.mlp.fc1", layer.mlp.fc1), (f"blocks.{i}.mlp.fc2", layer.mlp.fc2)]
        for third, name in enumerate(("q_proj", "k_proj", "v_proj")):
            for kind in ("weight", "bias"):
                getattr(getattr(layer.attention, name), kind).data = ours[f"blocks.{i}.attn.qkv.{kind}"].chunk(3)[third].clone()
    for name, layer in pairs:
        layer.weight.data, layer.bias.data = ours[f"{name}.weight"], ours[f"{name}.bias"]
    vit.embeddings.cls_token.data, vit.embeddings.position_embeddings.data = ours["cls_token"], ours["pos_embed"]
    return foreign


def vit_pytorch_state(model):
    """As the official R-Drop code saves it: jeonsworld's names, query, key and value apart."""
    state = {}
    for name, tensor in timm_state(model).items():
        kind = name.rpartition(".")[2]
        if name.startswith("head."):
            state[name] = tensor
        elif name.startswith("blocks."):
            block = f"transformer.encoder.layer.{name.split('.')[1]}"
            layer = ".".join(name.split(".")[2:-1])
            if layer == "attn.qkv":
                for part, third in zip(("query", "key", "value"), tensor.chunk(3)):
                    state[f"{block}.attn.{part}.{kind}"] = third.clone()
            else:
                there = {"norm1": "attention_norm", "norm2": "ffn_norm", "attn.proj": "attn.out"}
                state[f"{block}.{there.get(layer, layer.replace('mlp', 'ffn'))}.{kind}"] = tensor
        else:
            there = {
                "cls_token": "embeddings.cls_token",
                "pos_embed": "embeddings.position_embeddings",
                f"patch_embed.proj.{kind}": f"embeddings.patch_embeddings.{kind}",
                f"norm.{kind}": f"encoder.encoder_norm.{kind}",
            }
            state[f"transformer.{there[name]}"] = tensor
    return state


def torchvision_state(model, *, layers=("linear_1", "linear_2")):
    state = {}
    for name, tensor in timm_state(model).items():
        for old, new in (
            ("cls_token", "class_token"),
            ("pos_embed", "encoder.pos_embedding"),
            ("patch_embed.proj", "conv_proj"),
            ("attn.qkv.", "self_attention.in_proj_"),
            ("attn.proj", "self_attention.out_proj"),
            ("norm1", "ln_1"),
            ("norm2", "ln_2"),
            ("mlp.fc1", f"mlp.{layers[0]}"),
            ("mlp.fc2", f"mlp.{layers[1]}"),
            ("blocks.", "encoder.layers.encoder_layer_"),
        ):
            name = name.replace(old, new)
        if name.startswith(("norm.", "head.")):
            name = name.replace("norm.", "encoder.ln.").replace("head.", "heads.head.")
        state[name] = tensor
    return state


def google_state(model):
    arrays = {}
    for name, parameter in model.named_parameters():
        arrays |= google_arrays(name, parameter.numpy(), model)
    return arrays


def big_vision_state(model):
    """Parts of a block counted by kind, and a class token that has its position embedding in it: the model's becomes zero."""
    positions = model.pos_embed.numpy().copy()
    positions[:, 0] = 0
    model.pos_embed.set_value(positions)
    arrays = {}
    for name, array in google_state(model).items():
        for old, new in (("LayerNorm_2", "LayerNorm_1"), ("MlpBlock_3", "MlpBlock_0"), ("Attention_1", "Attention_0")):
            name = name.replace(old, new)
        arrays[name] = array
    return arrays | {"pos_embedding": arrays.pop("Transformer/posembed_input/pos_embedding")[:, 1:]}


def deit_of_transformers():
    config = transformers.DeiTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_labels=10,
    )  # fmt: skip
    return transformers.DeiTForImageClassification(config)


def deit_state(model):
    """The state of transformers' DeiT, which differs from its ViT in the root's name and the distillation token."""
    names = deit_of_transformers().state_dict().keys()
    state = {name.replace("vit.", "deit."): tensor for name, tensor in huggingface(model).state_dict().items()}
    assert names - state.keys() == {"deit.embeddings.distillation_token"} and state.keys() <= names
    return state


def behind(prefix, state):
    """The state under the names that a wrapper gives it."""
    return {f"{prefix}{name}": value for name, value in state.items()}
