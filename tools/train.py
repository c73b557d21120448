"""Train a model with R-Drop, or its baseline.

python tools/train.py -c configs/digits_quickstart.yaml
python tools/train.py -c configs/vit_ti16_cifar100_rdrop.yaml -o train.steps=300 name=short
python -m paddle.distributed.launch --nproc_per_node 2 tools/train.py -c configs/vit_ti16_cifar100_rdrop.yaml
python -m paddle.distributed.launch --master HOST:PORT --nnodes 2 --rank N --nproc_per_node 8 tools/train.py -c CONFIG
python tools/train.py -c configs/vit_ti16_cifar100_rdrop.yaml --resume
python tools/train.py -c configs/vit_ti16_cifar100_rdrop.yaml --supervise 5 --ranks 2
"""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rdrop_paddle import UserError, command_line, console, load_config
from rdrop_paddle.config import check_ranks
from rdrop_paddle.durability import supervision
from rdrop_paddle.tasks import build_task


def main():
    arguments = command_line.config_parser(__doc__)
    arguments.add_argument("--resume", action="store_true", help="continue the run folder from its latest checkpoint")
    arguments.add_argument("--supervise", type=command_line.positive, metavar="N", help="up to N times restart what failed")
    arguments.add_argument("--ranks", type=command_line.positive, help="that --supervise starts on this machine (default 1)")
    options = arguments.parse_args()
    config = load_config(options.config, options.override)
    if options.ranks and not options.supervise:
        raise UserError("--ranks is for --supervise: without it start several with python -m paddle.distributed.launch")

    console.say("loading Paddle")
    from rdrop_paddle import ranks
    from rdrop_paddle.durability import checkpoint
    from rdrop_paddle.durability.heartbeat import Heartbeat
    from rdrop_paddle.durability.interruption import Interruption
    from rdrop_paddle.reporting.runlog import run_folder

    newest_checkpoint = functools.partial(checkpoint.latest, run_folder(config))
    if options.supervise:
        command = supervision.command(__file__, options.config, options.override, options.ranks or 1)
        return supervision.supervise(command, restarts=options.supervise, resume=options.resume, progress=newest_checkpoint)
    ranks.start()
    with Heartbeat(config.train.collective_timeout, newest_checkpoint):
        return train(config, options.resume, Interruption())


def train(config, resume, interruption):
    from rdrop_paddle import ranks
    from rdrop_paddle.reporting.runlog import alone, check_run_folder, check_shared_folder

    check_ranks(config.train, ranks.count())  # errors now rather than after minutes of reading
    check_shared_folder(config)
    with alone(config):
        check_run_folder(config, resume)
        return train_alone(config, resume, interruption)


def train_alone(config, resume, interruption):
    import paddle

    from rdrop_paddle import ranks
    from rdrop_paddle.durability import checkpoint
    from rdrop_paddle.reporting import summary
    from rdrop_paddle.reporting.runlog import RunLog, run_folder
    from rdrop_paddle.training import engine
    from rdrop_paddle.training.trainer import Trainer

    paddle.seed(config.train.seed)
    task = build_task(config)
    resuming = resume and checkpoint.latest(run_folder(config)) is not None
    if not resuming:
        task.load_initial_weights()
    task.read_splits()
    trainer = Trainer(task, config)
    if resuming:
        trainer.restore(run_folder(config))
    place = dict(ranks=ranks.count(), device=paddle.get_device())
    with RunLog(config, rank=ranks.rank(), **place, kept_updates=trainer.updates_done) as log, interruption:
        log.message(summary.describe(config, task, place["device"]))
        log.examples(task.examples())
        if resume:
            log.message(f"resuming after update {trainer.updates_done}" if resuming else "no checkpoint yet: from update 1")
        score = engine.train(trainer, log, interruption)
        log.message(f"run folder: {log.folder}")
    return 0 if score else interruption.status


if __name__ == "__main__":
    command_line.run(main)
