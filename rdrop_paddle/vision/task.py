"""Image classification as the engine sees it: batches, forward, counts, score, and the model."""

import numpy as np
import paddle

from .. import ranks
from ..errors import UserError
from . import data
from .model import build_model
from .weights import find_weights, load_weights


class ImageClassification:
    """Holds the model and its data by a Config. `weight_report` tells how `model.weights` were loaded, or is None."""

    count_names = ("correct", "total")

    def __init__(self, config):
        self.config = config
        self.rank, self.ranks = ranks.rank(), ranks.count()
        self.model = build_model(config.model)
        self._images = {}
        self.weight_report = None

    def load_initial_weights(self):
        """The pretrained weights of `model.weights`, with a head of zeros; random weights when it is empty."""
        if self.config.model.weights:
            path = find_weights(self.config.model.weights, data.data_root())
            self.weight_report = load_weights(self.model, path, reset_head=True)

    def read_splits(self):
        """Read every split that training will need: a fault in one ends the run now and not after training."""
        for split in ("train", *(["val"] if self.config.data.val_fraction else []), self.config.eval.split):
            self.images(split)

    def images(self, split):
        """The Images of a split, read on first use; rank 0 goes first, because it may have to download them."""
        if split not in self._images:
            if self.rank > 0:
                ranks.wait_for_all()
            self._images |= data.load_splits(self.config.data, "test" if split == "test" else "train")
            if self.rank == 0:
                ranks.wait_for_all()
            images = self._images[split]
            if len(images.class_names) != self.config.model.classes:
                raise UserError(
                    f"model.classes is {self.config.model.classes} but {self.config.data.name} has "
                    f"{len(images.class_names)} classes: set model.classes={len(images.class_names)}"
                )
        return self._images[split]

    def batches(self, split, first_update=1):
        """Batches (images uint8 [N, S, S, 3], labels [N], indices [N]) of this rank.

        "train" gives augmented micro-batches without end, beginning with those of update `first_update`; "val" and
        "test" give one pass in which all ranks together hold each image exactly once.
        """
        config, dataset = self.config, self._dataset(split)
        shares = dict(rank=self.rank, ranks=self.ranks)
        if split == "train":
            sizes = dict(batch_size=config.train.batch_size, micro_batch_size=config.train.micro_batch_size)
            order = data.training_order(len(dataset), config.train.seed, first_update=first_update, **sizes, **shares)
        else:
            order = data.evaluation_order(len(dataset), batch_size=config.eval.batch_size, **shares)
        return (list(map(paddle.to_tensor, batch)) for batch in data.reader(dataset, order, config.data.workers))

    def example_images(self, count):
        """The first training images as the model will see them in the first epoch: uint8 [count, S, S, 3]."""
        dataset = self._dataset("train")
        order = data.epoch_order(len(dataset), self.config.train.seed, epoch=0)
        return np.stack([dataset[0, index][0] for index in order[:count]])

    def _dataset(self, split):
        images, size, augmentation = self.images(split), self.config.model.image_size, self.config.data
        if split != "train":
            return data.ImageDataset(images, size)
        crop_scale, flip = augmentation.crop_scale, augmentation.flip
        return data.ImageDataset(images, size, seed=self.config.train.seed, crop_scale=crop_scale, flip=flip)

    def forward(self, model, batch, passes=1):
        """(logits [passes * N, classes], labels [N], no pad mask); `model` is self.model or a parallel wrapper of it."""
        images, labels, _ = batch
        return model(normalise(images), passes=passes), labels, None

    def counts(self, logits, labels, pad_mask):
        """int64 [2]: how many are right, of how many. Counts add up over batches and ranks."""
        return paddle.stack([(logits.argmax(axis=-1) == labels).sum(), paddle.to_tensor(labels.size)])

    def score(self, counts):
        """What the summed counts mean, ready for the log; the first value, the higher the better, selects the best weights."""
        correct, total = (int(count) for count in counts)
        return {"accuracy": correct / total, "correct": correct, "total": total}


def normalise(images):
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W] from -1 to 1: (x/255 - 0.5)/0.5, as all of Google's ViTs expect."""
    return images.transpose([0, 3, 1, 2]).astype("float32") / 127.5 - 1.0
