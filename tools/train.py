"""Train a model with R-Drop, or its baseline.

python tools/train.py -c configs/digits_quickstart.yaml
python tools/train.py -c configs/vit_ti16_cifar100_rdrop.yaml -o train.steps=300 name=short
python -m paddle.distributed.launch --nproc_per_node 2 tools/train.py -c configs/vit_ti16_cifar100_rdrop.yaml
python -m paddle.distributed.launch --master HOST:PORT --nnodes 2 --rank N --nproc_per_node 8 tools/train.py -c CONFIG
python tools/train.py -c configs/vit_ti16_cifar100_rdrop.yaml --resume
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rdrop_paddle import command_line, load_config
from rdrop_paddle.config import accumulation, check_ranks


def main():
    arguments = command_line.config_parser(__doc__)
    arguments.add_argument("--resume", action="store_true", help="continue the run folder from its latest checkpoint")
    options = arguments.parse_args()
    config = load_config(options.config, options.override)

    import paddle

    from rdrop_paddle import checkpoint, engine, ranks
    from rdrop_paddle.runlog import RunLog, check_run_folder, check_shared_folder, run_folder
    from rdrop_paddle.vision.task import ImageClassification

    rank, rank_count = ranks.start()
    check_ranks(config.train, rank_count)  # errors now rather than after minutes of reading
    check_shared_folder(config)
    check_run_folder(config, options.resume)
    paddle.seed(config.train.seed)
    task = ImageClassification(config)
    resuming = options.resume and checkpoint.latest(run_folder(config)) is not None
    if not resuming:
        task.load_initial_weights()
    task.read_splits()
    trainer = engine.Trainer(task, config)
    if resuming:
        trainer.restore(run_folder(config))
    device = paddle.get_device()
    with RunLog(config, rank=rank, ranks=rank_count, device=device, kept_updates=trainer.updates_done) as log:
        log.message(describe(config, task, rank_count, device))
        log.image_grid(task.example_images(16))
        if options.resume:
            log.message(f"resuming after update {trainer.updates_done}" if resuming else "no checkpoint yet: from update 1")
        engine.train(trainer, log)
        log.message(f"run folder: {log.folder}")
    return 0


def describe(config, task, ranks, device):
    """The derived numbers of a run, one to a line."""
    train, rdrop = config.train, config.rdrop
    count = len(task.images("train").labels)
    lines = [
        f"parameters       {sum(p.size for p in task.model.parameters()):,}",
        f"initial weights  {task.weight_report or 'random, or those of the checkpoint'}",
        f"global batch     {train.batch_size} = {train.micro_batch_size} (micro) x {ranks} (ranks) "
        f"x {accumulation(train, ranks)} (accumulation)",
        f"training images  {count:,}, {count // train.batch_size} updates an epoch, {train.steps} updates in all",
        f"learning rate    peak {train.lr} after {train.warmup_steps} updates, then a cosine down to 0",
        f"loss             {rdrop.passes} pass(es), {rdrop.shared_blocks} shared blocks, alpha {rdrop.alpha} {rdrop.reduction}"
        + official_alpha(rdrop),
        f"device           {device}, sharding {train.sharding}, {command_line.cpu_settings()}",
    ]
    return "\n".join(lines)


def official_alpha(rdrop):
    """What `alpha` is in the official code's terms, which sum the KL over micro-batches of 32."""
    return f" (officially {rdrop.alpha / 32:g}, summed over micro-batches of 32)" if rdrop.reduction == "batchmean" else ""


if __name__ == "__main__":
    command_line.run(main)
