"""What speed.py needs to know of image classification; torch_image_classification.py is the torch side of its comparison."""

from rdrop_paddle.vision.architectures import with_numbers

MODEL_NUMBERS = ("image_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "classes", "drop_rate")


def model_numbers(config):
    """Those of MODEL_NUMBERS in a ModelConfig, with the numbers that its name stands for."""
    complete = with_numbers(config)
    return {name: getattr(complete, name) for name in MODEL_NUMBERS}


def flop_of_position(config):
    """Of an image in a forward, by a Config."""
    return forward_flop(config.model)


def forward_flop(config):
    """Floating point operations of the matrix products in one image's forward, two for each multiplication; by a ModelConfig.

    The whole network for every token: what an implementation saves counts as speed. Training takes three times that.
    """
    model = with_numbers(config)
    patches = (model.image_size // model.patch_size) ** 2
    tokens = patches + 1
    linear = tokens * model.embed_dim**2 * (3 + 1 + 2 * model.mlp_ratio)
    attention = 2 * tokens**2 * model.embed_dim
    embedding = patches * 3 * model.patch_size**2 * model.embed_dim
    return 2 * (model.depth * (linear + attention) + embedding + model.embed_dim * model.classes)
