"""R-Drop around a network of paddle.vision: ResNet-18 with dropout on scikit-learn's scanned digits, from random weights.

python examples/resnet18.py

About half a minute on 2 CPU cores; the last lines, digits of which differ between machines:

update 60/60  loss 0.2872  cross entropy 0.1508  KL 0.1364
test accuracy 0.9263 (666/719)
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from rdrop_paddle.command_line import prepare_cpu

prepare_cpu()  # a CPU's threads and kernels, before Paddle is imported

import paddle
import paddle.nn.functional as F
from paddle import nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from rdrop_paddle import kl_loss


def main(steps=60):
    """Train, print and test; returns the test accuracy and (loss, cross entropy, KL) of every update."""
    paddle.seed(0)
    images, test_images, label, test_label = digits()
    model = paddle.vision.models.resnet18(num_classes=10)
    model.fc = nn.Sequential(nn.Dropout(0.3), model.fc)  # R-Drop needs dropout, and ResNet-18 has none
    # "batchmean": alpha means the same whatever the batch size; with the default, "sum", it grows with the batch
    criterion = kl_loss(alpha=1.0, reduction="batchmean")
    optimizer = paddle.optimizer.Adam(1e-3, parameters=model.parameters())
    history = []
    for update in range(1, steps + 1):
        chosen = paddle.randperm(len(images))[:32]
        twice = paddle.concat([images[chosen], images[chosen]])
        p_logits, q_logits = model(twice).chunk(2)  # one forward, two dropout masks
        loss, cross_entropy, kl = criterion.terms(p_logits, q_logits, label[chosen])
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        history.append((loss.item(), cross_entropy.item(), kl.item()))
        if update % 10 == 0:
            print("update {}/{}  loss {:.4f}  cross entropy {:.4f}  KL {:.4f}".format(update, steps, *history[-1]), flush=True)
    model.eval()
    with paddle.no_grad():
        correct = (model(test_images).argmax(axis=-1) == test_label).sum().item()
    print(f"test accuracy {correct / len(test_label):.4f} ({correct}/{len(test_label)})")
    return correct / len(test_label), history


def digits():
    """Images [N, 3, 32, 32] from -1 to 1 and labels [N]: 1,078 images to train on, 719 to test, both labels."""
    found = load_digits()  # 8x8 pixels of 0 to 16
    images, test_images, label, test_label = train_test_split(
        found.images, found.target, test_size=0.4, stratify=found.target, random_state=0
    )
    images, test_images = (enlarged(paddle.to_tensor(part, "float32")) for part in (images, test_images))
    return images, test_images, paddle.to_tensor(label), paddle.to_tensor(test_label)


def enlarged(images):
    """[N, 8, 8] of 0 to 16 to [N, 3, 32, 32] of -1 to 1."""
    return F.interpolate(images.unsqueeze(1) / 8 - 1, size=[32, 32], mode="bilinear").tile([1, 3, 1, 1])


if __name__ == "__main__":
    main()
