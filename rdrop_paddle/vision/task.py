"""Image classification as the engine sees it, see training/engine.py: model, batches, loss, counts and score."""

import numpy as np
import paddle

from .. import ranks
from ..config import accumulation, data_root
from ..console import reported, say
from ..errors import UserError
from ..layers import attention_in_words
from ..training import sample_order
from ..training.criterion import Criterion
from ..training.inference import for_evaluation
from ..weights import belongings
from ..weights.loading import find_weights
from . import data, pixels, weight_claims
from .augmentation import Augmentation
from .class_predictions import Recorder
from .model import build_model
from .weights import load_weights

EXAMPLES = 16  # images that VisualDL shows


class ImageClassification:
    """Holds the model and its data by a Config.

    `weight_report` tells how `model.weights` were loaded, or is None; `kept_names` are the names of the classes that were kept
    with the weights of the model's head, or None.
    """

    count_names = ("correct", "total")

    def __init__(self, config):
        self.config = config
        self.rank, self.ranks = ranks.rank(), ranks.count()
        self.model = build_model(config.model)
        self.criterion = Criterion(config)
        config.rdrop.check_shared(len(self.model.blocks), "blocks")
        self._images = {}
        self._fingerprints = {}
        self.weight_report = self.kept_names = None

    def load_initial_weights(self):
        """The pretrained weights of `model.weights`, with a head of zeros or theirs; random weights when it is empty."""
        config = self.config.model
        if config.weights:
            path = find_weights(config.weights, data_root())
            say(f"reading the weights {path}")
            self.weight_report = load_weights(self.model, path, reset_head=not config.keep_head)
            weight_claims.check(path, config, any_size=True)
            self.kept_names = weight_claims.class_names(path, config.classes) if config.keep_head else None

    def load_weights(self, path, sha256=None, ema=False):
        """Load trained weights, head and all; the WeightReport. Arguments and errors: see weights.py and weight_claims.py."""
        report = load_weights(self.model, path, sha256=sha256, ema=ema)
        weight_claims.check(path, self.config.model)
        self.kept_names = weight_claims.class_names(path, self.config.model.classes)
        return report

    def read_splits(self):
        """Read every split that training will need: a fault in one ends the run now and not after training."""
        splits = dict.fromkeys(("train", *(["val"] if self.config.has_held_out() else []), self.config.eval.split))
        found = [self.images(split) for split in splits]
        if self.rank == 0:
            data.check_files(found)
        ranks.wait_for_all()

    def images(self, split):
        """The Images of a split, read on first use; rank 0 goes first, because it may have to download them."""
        if split not in self._images:
            of = "test" if split == "test" else "train"
            self._images |= ranks.first_before_others(lambda: data.load_splits(self.config.data, of))
            self._check_classes(self._images[split].class_names)
        return self._images[split]

    def size(self, split):
        """How many images a split has."""
        return len(self.images(split).labels)

    def class_names(self):
        """The names of the classes: those kept with the weights, else the data set's, which takes no reading of images.

        For an image folder that is not here they are "class 17" and the like, with a line on stderr.

        Raises:
            UserError: the data set has another number of classes than the model.
        """
        if self.kept_names is not None:
            return self.kept_names
        names = data.class_names(self.config.data)
        if names is None:
            say("the classes have numbers for names: none were kept with the weights, and the folder of data.path is not here")
            return [f"class {label}" for label in range(self.config.model.classes)]
        self._check_classes(names)
        return names

    def belongings(self):
        """{"classes": their names, "model": settings that the weights need}, see weight_claims.py."""
        names = self.images("train").class_names
        return {belongings.CLASSES: names, belongings.MODEL: weight_claims.of_model(self.config.model)}

    def _check_classes(self, names):
        if len(names) == 1:
            where = self.config.data.path or self.config.data.name
            raise UserError(f"{where} has the one class {names[0]}: there is nothing to learn; give each class a folder")
        if len(names) != self.config.model.classes:
            raise UserError(
                f"model.classes is {self.config.model.classes} but {self.config.data.path or self.config.data.name} has "
                f"{len(names)} classes: set model.classes={len(names)}"
            )
        for label, (kept, name) in enumerate(zip(self.kept_names or [], names)):
            if kept != name:
                raise UserError(
                    f"class {label} is {kept} to the weights and {name} in {self.config.data.path or self.config.data.name}: "
                    "the data need the classes that the weights were trained on, in their names and order"
                )

    def batches(self, split, first_update=1):
        """Batches of this rank as tensors: pixels and what `model_input` needs to crop them, then labels [N] and indices [N].

        "train" gives augmented micro-batches without end, beginning with those of update `first_update`; "val" and
        "test" give one pass in which all ranks together hold each image exactly once.
        """
        config, count = self.config, self.size(split)
        shares = dict(rank=self.rank, ranks=self.ranks)
        if split == "train":
            sizes = dict(batch_size=config.train.batch_size, micro_batch_size=config.train.micro_batch_size)
            order = sample_order.training_order(count, config.train.seed, first_update=first_update, **sizes, **shares)
        else:
            order = sample_order.evaluation_order(count, batch_size=config.eval.batch_size, **shares)
        read = data.reader(self._dataset(split), order, config.data.workers)
        if split != "train":
            read = reported(read, f"evaluating {split}: batch", len(order))
        return (list(map(pixels.upload, batch)) for batch in read)

    def data_state(self, updates):
        """What the batches after so many updates follow from, of JSON values: the data, epoch and updates of that epoch."""
        if not self._fingerprints:
            splits = ("train", "val") if self.config.has_held_out() else ("train",)
            self._fingerprints = {split: data.fingerprint(self.images(split)) for split in splits}
        epoch, done = divmod(updates, self.size("train") // self.config.train.batch_size)
        return {**self._fingerprints, "epoch": epoch, "updates_of_epoch": done}

    def describe(self):
        """{what: words} for the start of a run."""
        train, count = self.config.train, self.size("train")
        width = self.model.cls_token.shape[-1] // self.model.blocks[0].attn.num_heads
        in_micro_batches = f"{train.micro_batch_size} (micro) x {self.ranks} (ranks) x {accumulation(train, self.ranks)}"
        return {
            "initial weights": f"{self.weight_report or 'random, or those of the checkpoint'}",
            "attention": attention_in_words(width, train),
            "global batch": f"{train.batch_size} = {in_micro_batches} (accumulation)",
            "training images": f"{count:,}, {count // train.batch_size} updates an epoch, {train.steps} updates in all",
        }

    def examples(self):
        """The first training images as the model will see them, as one picture: {tag: uint8 [H, W, 3]}.

        They fill the largest square grid of at most EXAMPLES; a small data set has few.
        """
        order = sample_order.epoch_order(self.size("train"), self.config.train.seed, epoch=0)
        batch = self._dataset("train").read(0, order[:EXAMPLES])
        seen = self.model_input(list(map(pixels.upload, batch)))
        images = pixels.as_picture(seen, self.config.model.mean, self.config.model.std)  # [N, S, S, 3]
        side = int(len(images) ** 0.5)
        rows = images[: side * side].reshape(side, side, *images.shape[1:])
        return {"train/augmented": np.concatenate(np.concatenate(rows, axis=1), axis=1)}

    def answers(self):
        """{}: what the model makes of single images tells little of a training run."""
        return {}

    def recording(self):
        return Recorder(self)

    def _dataset(self, split):
        config = self.config
        training = Augmentation(config.train.seed, config.data.crop_scale, config.data.flip)
        augmentation = training if split == "train" else Augmentation()
        return data.dataset(self.images(split), config.model.image_size, augmentation)

    def model_input(self, batch):
        """What the model sees of a batch: float32 [N, 3, S, S], normalised by `model.mean` and `model.std`."""
        config, (images, *crops, _, _) = self.config.model, batch
        with paddle.amp.auto_cast(enable=False):  # pixels and their weights need more than bfloat16's 8 bits
            if not crops:  # files come cropped and resized
                return pixels.normalise(images, config.mean, config.std)
            return pixels.crop_and_resize(images, *crops, config.image_size, config.mean, config.std)

    def forward(self, model, batch, passes=1):
        """(logits [passes * N, classes], labels [N]); `model` is self.model or what stands for it."""
        settings = {} if passes == 1 else dict(passes=passes)
        if self.model.training:
            settings |= dict(shared_blocks=self.config.rdrop.shared_blocks, recompute=self.config.train.recompute)
        return model(self.model_input(batch), **settings), batch[-2]

    def loss_terms(self, model, batch, passes):
        """(loss, cross entropy, KL, images), see training/criterion.py."""
        return self.criterion(*self.forward(model, batch, passes))

    def for_evaluation(self, split, selecting):
        """A context that gives the model, or its export where that is sooner through the split."""
        return for_evaluation(self.model, self.size(split))

    def evaluate(self, model, batch):
        """int64 [2]: how many are right, of how many. Counts add up over batches and ranks."""
        return self.counts(*self.forward(model, batch))

    def counts(self, logits, labels):
        return paddle.stack([(logits.argmax(axis=-1) == labels).sum(), paddle.to_tensor(labels.size)])

    def score(self, counts):
        """What the summed counts mean, ready for the log."""
        correct, total = (int(count) for count in counts)
        return {"accuracy": correct / total, "correct": correct, "total": total}

    def in_words(self, score):
        return f"accuracy {score['accuracy']:.4f} ({score['correct']}/{score['total']})"
