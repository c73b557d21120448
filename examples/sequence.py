"""R-Drop on sequences of different lengths, with `pad_mask`: a small transformer learns to sort digits.

python examples/sequence.py

About 20 seconds on 2 CPU cores; the last lines, digits of which differ between machines:

update 400/400  loss 0.4470  cross entropy 0.2628  KL 0.1842
other tokens and labels in the padding move the loss by 0.0
test accuracy 0.9848 of the digits, 0.9090 of the sequences
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from rdrop_paddle.command_line import prepare_cpu

prepare_cpu()  # a CPU's threads and kernels, before Paddle is imported

import numpy as np
import paddle
from paddle import nn

from rdrop_paddle import kl_loss

LONGEST = 12  # digits
PADDING = 10  # the token after the digits 0 to 9


class Sorter(nn.Layer):
    """Tokens [N, L] with their padding, bool [N, L], to logits [N, L, 10]: which digit is where when they are sorted."""

    def __init__(self, width=64):
        super().__init__()
        self.token = nn.Embedding(11, width)
        self.place = nn.Embedding(LONGEST, width)
        block = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=128, dropout=0.1, normalize_before=True)
        self.encoder = nn.TransformerEncoder(block, num_layers=2, norm=nn.LayerNorm(width))
        self.head = nn.Linear(width, 10)

    def forward(self, tokens, pad_mask):
        x = self.token(tokens) + self.place(paddle.arange(tokens.shape[1]))  # [N, L, width]
        may_be_seen = (~pad_mask).unsqueeze([1, 2])  # [N, 1, 1, L]: in Paddle's attention True is what counts
        return self.head(self.encoder(x, may_be_seen))


def main(steps=400):
    """Train, print and test; returns the accuracy over positions, and (loss, cross entropy, KL) of every update."""
    paddle.seed(0)
    rng = np.random.default_rng(0)
    model = Sorter()
    # "batchmean" divides by the positions that are not padding, so alpha means the same whatever the batch and its lengths
    criterion = kl_loss(alpha=1.0, reduction="batchmean")
    optimizer = paddle.optimizer.Adam(2e-3, parameters=model.parameters())
    history = []
    for update in range(1, steps + 1):
        loss, cross_entropy, kl = two_passes(model, criterion, *batch(64, rng))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        history.append((loss.item(), cross_entropy.item(), kl.item()))
        if update % 50 == 0:
            print("update {}/{}  loss {:.4f}  cross entropy {:.4f}  KL {:.4f}".format(update, steps, *history[-1]), flush=True)
    print(f"other tokens and labels in the padding move the loss by {influence_of_padding(model, criterion)}")
    accuracy, sequences = accuracies(model)
    print(f"test accuracy {accuracy:.4f} of the digits, {sequences:.4f} of the sequences")
    return accuracy, history


def two_passes(model, criterion, tokens, label, pad_mask):
    """(loss, cross entropy, KL) of a batch: one forward of the batch twice, two dropout masks."""
    logits = model(paddle.concat([tokens, tokens]), paddle.concat([pad_mask, pad_mask]))
    return criterion.terms(*logits.chunk(2), label, pad_mask)


def batch(count, rng):
    """Tokens [N, L] and labels [N, L], the same digits sorted, of 4 to 12 digits each; and where padding is, bool [N, L]."""
    pad_mask = np.arange(LONGEST) >= rng.integers(4, LONGEST + 1, [count, 1])
    tokens = np.where(pad_mask, PADDING, rng.integers(0, 10, [count, LONGEST]))
    label = np.sort(tokens)  # PADDING is the largest and stays behind the digits, where no label counts
    return [paddle.to_tensor(array) for array in (tokens, label, pad_mask)]


def influence_of_padding(model, criterion):
    """By how much the loss of a batch changes when the padding holds random digits: by nothing, when both masks are right."""
    rng = np.random.default_rng(1)
    tokens, label, pad_mask = batch(64, rng)
    digits = paddle.to_tensor(rng.integers(0, 10, tokens.shape))
    losses = []
    for filled in (False, True):
        paddle.seed(1)  # the same dropout masks both times
        contents = [paddle.where(pad_mask, digits, part) if filled else part for part in (tokens, label)]
        losses.append(two_passes(model, criterion, *contents, pad_mask)[0].item())
    return abs(losses[1] - losses[0])


@paddle.no_grad()
def accuracies(model):
    """The share of digits that are at their place, and of sequences in which all are, of 1,000 new sequences."""
    model.eval()
    tokens, label, pad_mask = batch(1000, np.random.default_rng(2))
    right = model(tokens, pad_mask).argmax(axis=-1) == label
    model.train()
    return right[~pad_mask].astype("float32").mean().item(), (right | pad_mask).all(axis=-1).astype("float32").mean().item()


if __name__ == "__main__":
    main()
