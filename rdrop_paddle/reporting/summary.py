"""The derived numbers of a run, which start-up prints."""

from ..command_line import cpu_settings
from ..training.schedule import learning_rate


def describe(config, task, device):
    """One derived number to a line."""
    train, rdrop = config.train, config.rdrop
    lines = {
        "parameters": f"{sum(p.size for p in task.model.parameters()):,}",
        **task.describe(),
        "learning rate": _learning_rate(train),
        "loss": f"{rdrop.passes} pass(es), {rdrop.shared_blocks} shared blocks, alpha {rdrop.alpha} {rdrop.reduction}"
        + (f" ({official})" if (official := config.official_alpha()) else ""),
        "device": f"{device}, sharding {train.sharding}, {cpu_settings()}",
    }
    return "\n".join(f"{what:<15}  {words}" for what, words in lines.items())


def _learning_rate(train):
    start = f" from {train.warmup_init_lr}" if train.warmup_steps and train.warmup_init_lr else ""
    way_down = {
        "cosine": "a cosine down to 0",
        "inverse_sqrt": f"falling as 1 / sqrt(update) to {learning_rate(train)(train.steps):.3g}",
        "linear": "a straight line down to 0",
        "polynomial": f"(share of the updates left)^{train.power} down to 0",
    }[train.schedule]
    return f"peak {train.lr} after {train.warmup_steps} updates{start}, then {way_down}"
