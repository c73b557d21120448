import pytest

from rdrop_paddle import console


@pytest.fixture
def clock(monkeypatch):
    """clock(seconds) moves the time on."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])

    def move_on(seconds):
        now[0] += seconds

    return move_on


def test_only_the_first_rank_says_something_and_on_stderr(capsys, monkeypatch):
    for rank in ("0", "1"):
        monkeypatch.setenv("PADDLE_TRAINER_ID", rank)
        console.say(f"rank {rank}")
    assert capsys.readouterr() == ("", "rank 0\n")


def test_a_long_step_says_how_far_it_is_and_a_short_one_nothing(capsys, clock):
    for seconds, said in ((0.1, ""), (6.0, "batch 2/5\nbatch 4/5\n")):
        done = []
        for item in console.reported("abcde", "batch", 5):
            done.append(item)
            clock(seconds)
        assert done == list("abcde") and capsys.readouterr().err == said


def test_what_is_said_otherwise_starts_the_wait_anew(capsys, clock):
    patience = console.Patience("update", 9)
    for update in range(1, 10):
        clock(6.0)
        if update % 2:
            patience.restart()
        patience.done(update)
    assert capsys.readouterr().err == ""
