import collections
import os
import random
import signal
import threading
import time
from pathlib import Path

import paddle
import pytest
from conftest import logged

from rdrop_paddle.durability import checkpoint, interruption
from rdrop_paddle.durability.interruption import Interruption
from rdrop_paddle.reporting.runlog import RunLog
from rdrop_paddle.training import engine
from rdrop_paddle.training.trainer import Trainer
from rdrop_paddle.vision.task import ImageClassification


@pytest.fixture
def signals():
    """Gives the handlers back that an Interruption keeps until its process ends."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, handlers):
        signal.signal(number, handler)


@pytest.fixture
def train(tiny_config, signals):
    """train(name, before_update=N or in_batch=N, resume=False) -> (score or None, weights), with a SIGTERM at that moment.

    Batches are those of all evaluations: the held-out part has four, read after updates 3 and 6; then the test set follows.
    """

    def run(name, before_update=None, in_batch=None, resume=False):
        config = tiny_config(f"name={name}", "model.drop_rate=0.1", "train.save_every=2")
        paddle.seed(0)
        task = ImageClassification(config)
        trainer = Trainer(task, config)
        if resume:
            trainer.restore(Path(config.output) / name)
        step, evaluate, batches = trainer.step, task.evaluate, []

        def terminating_step(micro_batches):
            if trainer.updates_done + 1 == before_update:
                os.kill(os.getpid(), signal.SIGTERM)
            step(micro_batches)

        def terminating_evaluate(*arguments):
            batches.append(None)
            if len(batches) == in_batch:
                os.kill(os.getpid(), signal.SIGTERM)
            return evaluate(*arguments)

        trainer.step, task.evaluate = terminating_step, terminating_evaluate
        with RunLog(config, kept_updates=trainer.updates_done) as log, Interruption() as stop:
            score = engine.train(trainer, log, stop)
        if in_batch:
            assert len(batches) in (in_batch, 0)  # nothing is evaluated after the signal
        return score, checkpoint.model_arrays(task.model)

    return run


MOMENTS = [
    (dict(before_update=1), 1),
    (dict(before_update=3), 3),  # where an evaluation is due and no checkpoint
    (dict(in_batch=2), 3),
    (dict(before_update=4), 4),
    (dict(before_update=6), 6),  # the last one
    (dict(in_batch=6), 6),
    (dict(in_batch=10), 6),  # on the test set
]


def test_a_run_stopped_by_sigterm_at_any_moment_resumes_exactly(train, tmp_path):
    score, weights = train("straight")
    records = logged(tmp_path / "output" / "straight")
    for number, (moment, update) in enumerate(MOMENTS):
        folder = tmp_path / "output" / str(number)
        assert train(folder.name, **moment)[0] is None
        last_line = (folder / "train.log").read_text().splitlines()[-1]
        assert last_line == f"stopped by SIGTERM after update {update}; continue with --resume"
        assert checkpoint.latest(folder).name == f"update-{update:08d}"
        assert not any(record.get("final") for record in logged(folder))
        again, resumed = train(folder.name, resume=True)
        assert again == score, moment
        assert all(weights[name].tobytes() == resumed[name].tobytes() for name in weights), moment
        assert logged(folder) == records, moment


def test_a_second_signal_does_no_harm(signals):
    with Interruption() as stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
    os.kill(os.getpid(), signal.SIGTERM)  # while the process is ending
    assert (stop.cause, stop.status) == ("SIGINT", 130)


def test_the_handlers_go_when_no_signal_came(signals):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Interruption() as stop:
        pass
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert not stop.requested()


class RanksAsThreads:
    """Stands in for the module `ranks`: its ranks are threads, and the store's answers take a while."""

    def __init__(self, count, seed):
        self._count, self._random = count, random.Random(seed)
        self._tallies, self._lock, self._local = collections.Counter(), threading.Lock(), threading.local()

    def count(self):
        return self._count

    def rank(self):
        return self._local.rank

    def tally(self, key, number=0):
        time.sleep(self._random.random() * 3e-4)
        with self._lock:
            self._tallies[key] += number
            return self._tallies[key]

    def last_updates(self, updates, signalled, collectives):
        """For each rank the update after which it stops, or None; `signalled` are (rank, update)."""
        barrier, last = threading.Barrier(self._count), [None] * self._count

        def run(rank):
            self._local.rank = rank
            stop = Interruption()
            for update in range(1, updates + 1):
                if (rank, update) in signalled:
                    stop.signal = signal.SIGTERM
                time.sleep(self._random.random() * 3e-4)
                if collectives:
                    barrier.wait(timeout=5)
                if stop.ends_training():
                    last[rank] = update
                    return

        threads = [threading.Thread(target=run, args=[rank]) for rank in range(self._count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert not barrier.broken and not any(thread.is_alive() for thread in threads)
        return last


@pytest.mark.parametrize("collectives", [True, False])
def test_ranks_stop_after_the_same_update_whenever_and_wherever_signals_come(monkeypatch, collectives):
    """Whether collectives hold them together, as gloo's do, or their hosts run ahead of each other, as GPUs let them."""
    stops = 0
    for seed in range(40):
        choose = random.Random(seed)
        ranks = RanksAsThreads(choose.choice([2, 3]), seed)
        monkeypatch.setattr(interruption, "ranks", ranks)
        signalled = {(rank, choose.randint(4, 8)) for rank in range(ranks.count()) if choose.random() < 0.6}
        last = ranks.last_updates(16, signalled, collectives)
        assert len(set(last)) == 1, (seed, signalled, last)
        if signalled and collectives:
            first = min(update for _, update in signalled)
            assert first <= last[0] <= first + 1
        stops += last[0] is not None
    assert stops > 20
