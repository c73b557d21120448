"""The independent side of the comparisons, in torch; nothing here uses the package. Needs requirements-dev.txt.

To compare numbers: transformers' ViT and linear schedule, torch's optimizers, and loss, clipping and cosine in plain torch;
weights are read from Google's .npz by a mapping of its own, position embeddings are resized with scipy. To compare speed: the
structure of the official code (one forward per pass, micro-batches accumulated) with a ViT of its own, whose attention is
torch's fused one.
"""

import math
import os

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn


def build_vit(*, image_size, patch_size, embed_dim, depth, num_heads, mlp_ratio, classes, seed=0):
    """A ViTForImageClassification in eval mode with random weights; dropout is injected, see `inject_masks`."""
    from transformers import ViTConfig, ViTForImageClassification  # large, and of no use for the comparison of speed

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


def start_ranks():
    """(this rank, number of ranks) of the processes that torch's launcher started, joined by gloo; (0, 1) of one alone."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    torch.distributed.init_process_group("gloo")
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def sum_over_ranks(tensors):
    """Each tensor becomes the sum of all ranks' ones, in one exchange; with one rank nothing happens."""
    if torch.distributed.is_initialized():
        together = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(together)
        for tensor, part in zip(tensors, together.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(part.view_as(tensor))


def rdrop_loss(p, q, label, alpha, label_smoothing=0.0):
    """(loss, ce, kl): half of the official code's sum, with the KL per sample."""
    ce = 0.5 * sum(F.cross_entropy(logits, label, label_smoothing=label_smoothing) for logits in (p, q))
    log_p, log_q = F.log_softmax(p, dim=-1), F.log_softmax(q, dim=-1)
    forward = F.kl_div(log_p, log_q.exp(), reduction="sum")
    backward = F.kl_div(log_q, log_p.exp(), reduction="sum")
    kl = 0.5 * (forward + backward) / len(label)
    return ce + alpha * kl, ce, kl


def build_optimizer(parameters, train):
    """torch's own, by a TrainConfig."""
    if train.optimizer == "momentum":
        return torch.optim.SGD(parameters, lr=train.lr, momentum=train.momentum, weight_decay=train.weight_decay)
    return torch.optim.AdamW(
        parameters, lr=train.lr, betas=tuple(train.betas), eps=train.epsilon, weight_decay=train.weight_decay
    )


def linear_schedule(optimizer, *, steps, warmup_steps):
    """transformers' own, begun with the factor of its step 1: it counts the updates before, from 0."""
    from transformers import get_linear_schedule_with_warmup

    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return get_linear_schedule_with_warmup(optimizer, warmup_steps, steps, last_epoch=0)


def cosine_schedule(optimizer, *, steps, warmup_steps):
    """Linear warm-up, then half a cosine down to 0, as a factor of the peak; update n uses the factor of n."""

    def factor(done):
        update = done + 1
        if update <= warmup_steps:
            return update / warmup_steps
        return 0.5 * (1 + math.cos(math.pi * min((update - warmup_steps) / (steps - warmup_steps), 1)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def inverse_sqrt_schedule(optimizer, *, steps, warmup_steps):
    """Linear warm-up, then down as the update's inverse square root, as a factor of the peak."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min((done + 1) / warmup_steps, math.sqrt(warmup_steps / (done + 1)))
    )


SCHEDULES = {"cosine": cosine_schedule, "linear": linear_schedule, "inverse_sqrt": inverse_sqrt_schedule}


class Vit(nn.Module):
    """Google's ViT, images [N, 3, S, S] to logits [N, classes], dropout after the position embedding and twice in each MLP."""

    def __init__(self, *, image_size, patch_size, embed_dim, depth, num_heads, mlp_ratio, classes, drop_rate):
        super().__init__()
        self.image_size = image_size
        self.patch_embed = nn.Conv2d(3, embed_dim, patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (image_size // patch_size) ** 2, embed_dim) * 0.02)
        self.drop = nn.Dropout(drop_rate)
        hidden_dim = int(embed_dim * mlp_ratio)
        self.blocks = nn.Sequential(*[VitBlock(embed_dim, num_heads, hidden_dim, drop_rate) for _ in range(depth)])
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.head = nn.Linear(embed_dim, classes)

    def forward(self, images):
        x = self.patch_embed(images).flatten(2).transpose(1, 2)  # [N, L-1, D]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(self.drop(x)))[:, 0])


class VitBlock(nn.Module):
    """[N, L, D] -> [N, L, D]."""

    def __init__(self, embed_dim, num_heads, hidden_dim, drop_rate):
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6), nn.LayerNorm(embed_dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(embed_dim, 3 * embed_dim), nn.Linear(embed_dim, embed_dim)
        layers = [nn.Linear(embed_dim, hidden_dim), nn.GELU(), nn.Dropout(drop_rate)]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden_dim, embed_dim), nn.Dropout(drop_rate))

    def forward(self, x):
        qkv = self.qkv(self.norm1(x)).unflatten(-1, [3, self.num_heads, -1])  # [N, L, 3, H, D/H]
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [N, H, L, D/H] each
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)  # [N, L, D]
        x = x + self.proj(mixed)
        return x + self.mlp(self.norm2(x))


def update(model, optimizer, images, labels, *, passes, alpha, micro_batch, clip_norm, ranks=1):
    """One update on a rank's part of a global batch, in micro-batches forwarded once per pass, as the official code does."""
    model.train()
    for x, label in zip(images.split(micro_batch), labels.split(micro_batch)):
        if passes == 1:
            loss = F.cross_entropy(model(x), label)
        else:
            loss, _, _ = rdrop_loss(model(x), model(x), label, alpha)
        (loss * len(label) / (len(labels) * ranks)).backward()
    step(model, optimizer, clip_norm)


def step(model, optimizer, clip_norm):
    """The step that ends an update: the ranks' gradients summed and clipped, the optimizer's step."""
    sum_over_ranks([parameter.grad for parameter in model.parameters()])
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm or math.inf)
    optimizer.step()
    optimizer.zero_grad()


@torch.inference_mode()
def count_correct(model, images, labels, batch_size):
    """How many images, uint8 [N, H, W, 3], the model tells right."""
    model.eval()
    pairs = zip(images.split(batch_size), labels.split(batch_size))
    return int(sum((model(resize(x, model.image_size)).argmax(dim=-1) == label).sum() for x, label in pairs))


def resize(images, size):
    """uint8 [N, H, W, 3] to float32 [N, 3, size, size] from -1 to 1, bilinear."""
    channels_first = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.interpolate(channels_first, size=(size, size), mode="bilinear")
