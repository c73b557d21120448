"""The derived numbers of a run, which start-up prints."""

from ..command_line import cpu_settings
from ..config import accumulation
from ..training.schedule import learning_rate


def describe(config, task, ranks, device):
    """One derived number to a line."""
    train, rdrop = config.train, config.rdrop
    count = task.size("train")
    lines = [
        f"parameters       {sum(p.size for p in task.model.parameters()):,}",
        f"initial weights  {task.weight_report or 'random, or those of the checkpoint'}",
        f"global batch     {train.batch_size} = {train.micro_batch_size} (micro) x {ranks} (ranks) "
        f"x {accumulation(train, ranks)} (accumulation)",
        f"training images  {count:,}, {count // train.batch_size} updates an epoch, {train.steps} updates in all",
        f"learning rate    {_learning_rate(train)}",
        f"loss             {rdrop.passes} pass(es), {rdrop.shared_blocks} shared blocks, alpha {rdrop.alpha} {rdrop.reduction}"
        + _official_alpha(rdrop),
        f"device           {device}, sharding {train.sharding}, {cpu_settings()}",
    ]
    return "\n".join(lines)


def _learning_rate(train):
    start = f" from {train.warmup_init_lr}" if train.warmup_steps and train.warmup_init_lr else ""
    way_down = {
        "cosine": "a cosine down to 0",
        "inverse_sqrt": f"falling as 1 / sqrt(update) to {learning_rate(train)(train.steps):.3g}",
        "linear": "a straight line down to 0",
        "polynomial": f"(share of the updates left)^{train.power} down to 0",
    }[train.schedule]
    return f"peak {train.lr} after {train.warmup_steps} updates{start}, then {way_down}"


def _official_alpha(rdrop):
    """What `alpha` is in the official code's terms, which sum the KL over micro-batches of 32."""
    return f" (officially {rdrop.alpha / 32:g}, summed over micro-batches of 32)" if rdrop.reduction == "batchmean" else ""
