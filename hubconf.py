"""Models for paddle.hub, such as

paddle.hub.load(FOLDER, "vit_ti16_cifar100_rdrop", source="local")    FOLDER being the one that this file is in
paddle.hub.load(FOLDER, "multi30k_deen_rdrop", source="local").translate(["Ein Hund rennt."])
paddle.hub.load(FOLDER, "translator", source="local", run="output/multi30k_deen_rdrop").translate(["Ein Hund rennt."])
paddle.hub.load(FOLDER, "classifier", source="local", run="output/minilm_rte_rdrop").classify([("It rains.", "It is wet.")])
"""

import json
import pathlib

import rdrop_paddle  # a module and no names of it: Paddle takes every function and class here for a model

dependencies = ["paddle", "numpy", "omegaconf", "yaml", "safetensors"]
RELEASED = pathlib.Path(__file__).resolve().parent / "results"


def vit_ti16_cifar100_rdrop(pretrained=True):
    """ViT-Ti/16 trained on CIFAR-100 at 96 px with R-Drop (arXiv 2106.14448); 5.5 million parameters.

        model = paddle.hub.load(FOLDER, "vit_ti16_cifar100_rdrop", source="local")
        probabilities = paddle.nn.functional.softmax(model(images))  # [N, 100]

    Feed it float32 [N, 3, 96, 96]: whole images in RGB, resized to 96 x 96 pixels (bilinear), with values from -1 to 1:
    (x / 255 - 0.5) / 0.5 for bytes x. It gives logits [N, 100], in the order of `model.class_names`, which are CIFAR-100's
    fine classes.

    Args:
        pretrained: load the released weights, results/vit_ti16_cifar100_rdrop/model.safetensors, and switch to evaluation,
            that is without dropout; False gives random weights in training mode.

    Raises:
        rdrop_paddle.UserError: the weights are not there, or damaged.
    """
    released = RELEASED / "vit_ti16_cifar100_rdrop"
    weights = released / "model.safetensors"
    if pretrained and not weights.exists():
        raise rdrop_paddle.UserError(
            f"no released weights at {weights}: get them with the whole repository, or give pretrained=False"
        )
    model = rdrop_paddle.build_model(rdrop_paddle.load_config(released / "config.yaml").model)
    model.class_names = json.loads((released / "classes.json").read_text())
    if pretrained:
        rdrop_paddle.load_weights(model, weights)
        model.eval()
    return model


def multi30k_deen_rdrop():
    """A small Transformer that translates German captions of images into English, trained on Multi30k with R-Drop.

        model = paddle.hub.load(FOLDER, "multi30k_deen_rdrop", source="local")
        model.translate(["Ein Hund rennt über die Wiese."])  # a list of texts, one for each

    results/multi30k_deen_rdrop/README.md is its model card; `pip install '.[train,text]'` first.

    Raises:
        rdrop_paddle.UserError: the released weights are not there, or damaged.
    """
    return translator(RELEASED / "multi30k_deen_rdrop", "model.safetensors")


def language_model(run, weights="best.safetensors"):
    """A language model that `tools/train.py` has trained, with `model.continue_text(texts)`: each text with what it adds.

    Args:
        run: its run folder, or another with config.yaml and the weights; `pip install '.[train,text]'` first.
        weights: their name in that folder.

    Raises:
        rdrop_paddle.UserError: the config or the weights are not there, damaged, or do not belong together.
    """
    task = _trained(run, weights, "language_modelling")
    task.model.continue_text = lambda texts: [one.prompt + one.continuation for one in task.continue_text(_listed(texts))]
    return task.model


def translator(run, weights="best.safetensors"):
    """A Transformer that `tools/train.py` has trained, with `model.translate(lines)`: a list of texts, one for each.

    Args:
        run: its run folder, or another with config.yaml and the weights; `pip install '.[train,text]'` first.
        weights: their name in that folder.

    Raises:
        rdrop_paddle.UserError: the config or the weights are not there, damaged, or do not belong together.
    """
    task = _trained(run, weights, "translation")
    task.model.translate = lambda lines: _best(task, lines)
    return task.model


def summariser(run, weights="best.safetensors"):
    """A Transformer that `tools/train.py` has trained, with `model.summarise(texts)`: a list of summaries, one for each.

    Args:
        run: its run folder, or another with config.yaml and the weights; `pip install '.[train,text]'` first.
        weights: their name in that folder.

    Raises:
        rdrop_paddle.UserError: the config or the weights are not there, damaged, or do not belong together.
    """
    task = _trained(run, weights, "summarisation")
    task.model.summarise = lambda texts: _best(task, texts)
    return task.model


def classifier(run, weights="best.safetensors"):
    """A BERT that `tools/train.py` has fine-tuned, with `model.classify(texts)`: a {class: probability} for each text.

    Texts are strings, or pairs of them where it was trained on pairs. Where it was trained on numbers it gives a number for
    each instead, and None for what is empty.

    Args:
        run: its run folder, or another with config.yaml and the weights; `pip install '.[train,text]'` first.
        weights: their name in that folder.

    Raises:
        rdrop_paddle.UserError: the config or the weights are not there, damaged, or do not belong together.
    """
    task = _trained(run, weights, "understanding")
    task.model.classify = task.classify
    return task.model


def _best(task, lines):
    return [best[0].text if best else "" for best in task.generate(_listed(lines))]


def _listed(texts):
    """The texts as a list; a single one would be taken for its letters."""
    listed = [] if isinstance(texts, str) else list(texts)
    if isinstance(texts, str) or not all(isinstance(text, str) for text in listed):
        raise rdrop_paddle.UserError("give a list of texts, of one text [text]")
    return listed


def _trained(run, weights, wanted):
    """The task of a run folder, which is to be `wanted`, with its weights, ready for use."""
    from rdrop_paddle import tasks

    config = rdrop_paddle.load_config(pathlib.Path(run) / "config.yaml")
    if config.task != wanted:
        raise rdrop_paddle.UserError(f"{run} is a run of {config.task}: give one of {wanted}")
    task, _ = tasks.trained(config, pathlib.Path(run) / weights)
    task.model.eval()
    return task
