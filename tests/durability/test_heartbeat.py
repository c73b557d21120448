from rdrop_paddle.durability.heartbeat import Beat, Ledger


def test_a_rank_without_beats_is_named_when_patience_ends():
    ledger = Ledger(0, 3)
    for second in range(1, 21):
        for rank in (0, 1, 2) if second <= 5 else (0, 2):
            ledger.hear(rank, Beat(second, 1, second), second)
        late = ledger.silent(second, 10)
        assert late is None if second < 15 else late == f"rank 1 has not been heard of for {second - 5} s, dead or hanging"


def test_rank_0_is_named_when_the_store_does_not_answer():
    ledger = Ledger(1, 3)
    for rank in range(3):
        ledger.hear(rank, Beat(1, 1, 1), 1)
    assert ledger.silent(21, 20) == "rank 0 has not been heard of for 20 s, dead or hanging"


def standing(stages, evaluating=(), training=True):
    """What rank 0 says after 20 s in which all ranks beat and only those `evaluating` work."""
    ledger = Ledger(0, len(stages))
    for second in range(21):
        for rank, stage in enumerate(stages):
            ledger.hear(rank, Beat(second, stage, int(training) + (second if rank in evaluating else 0)), second)
    assert ledger.silent(20, 20) is None
    return ledger.standing(20, 20)


def test_a_rank_that_beats_but_makes_no_progress_is_named_by_those_who_wait_for_it():
    line = "made no progress for 20 s while the others waited, hanging"
    assert standing([7, 6, 7]) == f"rank 1 has {line}" and standing([7, 6, 6]) == f"ranks 1, 2 have {line}"
    assert standing([7, 7]).startswith("no rank has made progress for 20 s")


def test_a_rank_that_falls_silent_is_named_as_such_though_its_last_beat_is_younger_than_the_last_progress():
    ledger = Ledger(0, 2)
    for second in range(1, 22):
        for rank in (0, 1) if second <= 3 else (0,):  # who makes no progress from the start
            ledger.hear(rank, Beat(second, 1 + (rank == 0), 1), second)
        missing = ledger.missing(second, 10, 10)
        assert missing is None if second < 11 else missing.startswith(f"rank 1 has not been heard of for {second - 3} s")


def test_long_evaluations_and_slow_reading_of_data_are_no_hanging():
    assert standing([7, 6], evaluating=[1]) is None
    assert standing([2, 1], training=False) is None
