"""The numbers of the named Vision Transformers; to know them takes no Paddle."""

from .. import named_sizes

ARCHITECTURES = {
    "vit_ti16": dict(patch_size=16, embed_dim=192, depth=12, num_heads=3, mlp_ratio=4.0),
    "vit_s16": dict(patch_size=16, embed_dim=384, depth=12, num_heads=6, mlp_ratio=4.0),
    "vit_b16": dict(patch_size=16, embed_dim=768, depth=12, num_heads=12, mlp_ratio=4.0),
    "vit_b32": dict(patch_size=32, embed_dim=768, depth=12, num_heads=12, mlp_ratio=4.0),
    "vit_l16": dict(patch_size=16, embed_dim=1024, depth=24, num_heads=16, mlp_ratio=4.0),
    "vit_l32": dict(patch_size=32, embed_dim=1024, depth=24, num_heads=16, mlp_ratio=4.0),
    "vit_h14": dict(patch_size=14, embed_dim=1280, depth=32, num_heads=16, mlp_ratio=4.0),
    "custom": {},
}


def with_numbers(config):
    """The ModelConfig with the numbers of its name in the places that are None; raises as `named_sizes.with_numbers`."""
    return named_sizes.with_numbers(config, ARCHITECTURES)
