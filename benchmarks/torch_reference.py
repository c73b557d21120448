"""The independent side of the comparisons: transformers' ViT, and loss, clipping, schedule and SGD in plain torch.

Nothing here uses the package; weights are read from Google's .npz by a mapping of its own, position embeddings are resized with
scipy. Needs requirements-dev.txt.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from transformers import ViTConfig, ViTForImageClassification


def build_vit(*, image_size, patch_size, embed_dim, depth, num_heads, mlp_ratio, classes, seed=0):
    """A ViTForImageClassification in eval mode with random weights; dropout is injected, see `inject_masks`."""
    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=image_size,
        patch_size=patch_size,
        hidden_size=embed_dim,
        num_hidden_layers=depth,
        num_attention_heads=num_heads,
        intermediate_size=int(embed_dim * mlp_ratio),
        num_labels=classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-6,
    )
    return ViTForImageClassification(config).eval()


def load_google_npz(model, path):
    """Copy a Google .npz into the model, its position embeddings resized; the head only where its size is the model's."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    with torch.no_grad():
        for name, ours in google_places(model):
            array = arrays[name]
            if name.endswith("pos_embedding"):
                array = _zoomed(array, ours.shape[1])
            elif name == "embedding/kernel":
                array = array.transpose(3, 2, 0, 1)
            elif "MultiHead" in name and name.endswith("out/kernel"):
                array = array.reshape(-1, array.shape[-1]).T
            elif "MultiHead" in name:
                array = array.reshape(array.shape[0], -1).T if name.endswith("kernel") else array.reshape(-1)
            elif name.endswith("kernel"):
                array = array.T
            if not (name.startswith("head/") and array.shape != ours.shape):
                ours.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def google_places(model):
    """[(name in Google's file, the model's parameter)]."""
    vit = model.vit
    places = [
        ("cls", vit.embeddings.cls_token),
        ("Transformer/posembed_input/pos_embedding", vit.embeddings.position_embeddings),
    ]
    layers = [("embedding", "kernel", vit.embeddings.patch_embeddings.projection)]
    layers += [("Transformer/encoder_norm", "scale", vit.layernorm), ("head", "kernel", model.classifier)]
    for i, block in enumerate(vit.layers):
        prefix, attention = f"Transformer/encoderblock_{i}", block.attention
        layers += [
            (f"{prefix}/LayerNorm_0", "scale", block.layernorm_before),
            (f"{prefix}/LayerNorm_2", "scale", block.layernorm_after),
        ]
        layers += [
            (f"{prefix}/MlpBlock_3/Dense_0", "kernel", block.mlp.fc1),
            (f"{prefix}/MlpBlock_3/Dense_1", "kernel", block.mlp.fc2),
        ]
        parts = dict(query=attention.q_proj, key=attention.k_proj, value=attention.v_proj, out=attention.o_proj)
        layers += [(f"{prefix}/MultiHeadDotProductAttention_1/{part}", "kernel", layer) for part, layer in parts.items()]
    for name, kind, layer in layers:
        places += [(f"{name}/{kind}", layer.weight), (f"{name}/bias", layer.bias)]
    return places


def _zoomed(embedding, tokens):
    side, target = round((embedding.shape[1] - 1) ** 0.5), round((tokens - 1) ** 0.5)
    grid = ndimage.zoom(embedding[0, 1:].reshape(side, side, -1), (target / side, target / side, 1), order=1)
    return np.concatenate([embedding[:, :1], grid.reshape(1, target * target, -1)], axis=1)


def in_paddle_layout(model, read):
    """{name as in rdrop_paddle: array} of `read(parameter)`, the parameter or its gradient."""
    vit = model.vit

    def linear(layer):
        return {"weight": read(layer.weight).T, "bias": read(layer.bias)}

    def plain(layer):
        return {"weight": read(layer.weight), "bias": read(layer.bias)}

    parts = {"patch_embed.proj": plain(vit.embeddings.patch_embeddings.projection), "norm": plain(vit.layernorm)}
    parts["head"] = linear(model.classifier)
    for i, block in enumerate(vit.layers):
        thirds = [linear(layer) for layer in (block.attention.q_proj, block.attention.k_proj, block.attention.v_proj)]
        parts[f"blocks.{i}.attn.qkv"] = {
            kind: np.concatenate([t[kind] for t in thirds], axis=-1) for kind in ("weight", "bias")
        }
        parts[f"blocks.{i}.attn.proj"] = linear(block.attention.o_proj)
        parts[f"blocks.{i}.norm1"], parts[f"blocks.{i}.norm2"] = plain(block.layernorm_before), plain(block.layernorm_after)
        parts[f"blocks.{i}.mlp.fc1"], parts[f"blocks.{i}.mlp.fc2"] = linear(block.mlp.fc1), linear(block.mlp.fc2)
    arrays = {f"{name}.{kind}": array for name, kinds in parts.items() for kind, array in kinds.items()}
    return arrays | {"cls_token": read(vit.embeddings.cls_token), "pos_embed": read(vit.embeddings.position_embeddings)}


def inject_masks(model, mask):
    """Multiply by `mask(site, x)` where dropout sits: after the position embedding (0) and twice in each MLP."""
    model.vit.embeddings.register_forward_hook(lambda layer, inputs, x: x * mask(0, x))
    for i, block in enumerate(model.vit.layers):
        for site, layer in ((2 * i + 1, block.mlp.activation_fn), (2 * i + 2, block.mlp.fc2)):
            layer.register_forward_hook(lambda layer, inputs, x, site=site: x * mask(site, x))


def rdrop_loss(p, q, label, alpha):
    """(loss, ce, kl): half of the official code's sum, with the KL per sample."""
    ce = 0.5 * (F.cross_entropy(p, label) + F.cross_entropy(q, label))
    log_p, log_q = F.log_softmax(p, dim=-1), F.log_softmax(q, dim=-1)
    forward = F.kl_div(log_p, log_q.exp(), reduction="sum")
    backward = F.kl_div(log_q, log_p.exp(), reduction="sum")
    kl = 0.5 * (forward + backward) / len(label)
    return ce + alpha * kl, ce, kl


def schedule(optimizer, *, steps, warmup_steps):
    """Linear warm-up, then half a cosine down to 0, as a factor of the peak; update n uses the factor of n."""

    def factor(done):
        update = done + 1
        if update <= warmup_steps:
            return update / warmup_steps
        return 0.5 * (1 + math.cos(math.pi * min((update - warmup_steps) / (steps - warmup_steps), 1)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
