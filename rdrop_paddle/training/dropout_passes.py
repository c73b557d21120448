"""Monte-Carlo dropout, Gal and Ghahramani, arXiv 1506.02142: how far the answers to one sample spread over passes."""

import paddle

from ..errors import UserError
from ..loss import compute_kl_loss


def check_passes(passes, drops):
    """Refuse fewer than two passes, or a model that does not drop: a UserError."""
    if passes < 2:
        raise UserError(f"{passes} pass with dropout has no spread: give 2 or more")
    if not drops:
        raise UserError("model.drop_rate is 0, so that passes would not differ: set for example model.drop_rate=0.1")


def dropout_logits(model, inputs, passes, *, seed, batch_size):
    """Logits [passes, classes] of one sample with dropout, at most `batch_size` passes at a time.

    Args:
        inputs: what the model takes, tensors [1, ...].
    """
    paddle.seed(seed)
    model.train()
    with paddle.no_grad():
        shares = [min(batch_size, passes - done) for done in range(0, passes, batch_size)]
        logits = paddle.concat([model(*inputs, passes=share) for share in shares])
    model.eval()
    return logits


def disagreement(logits):
    """R-Drop's quantity: the symmetric KL divergence between two passes, the mean over all pairs of rows of `logits`."""
    passes = len(logits)
    # rolled by 1, 2, ..., each pass meets each other one; all pairs at once would take passes times the memory
    shifts = [compute_kl_loss(logits, logits.roll(shift, axis=0), reduction="batchmean") for shift in range(1, passes)]
    return (sum(shifts) / (passes - 1)).item()
