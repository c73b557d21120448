import pytest
from kill_repeatedly import kill_repeatedly


@pytest.mark.parametrize("kills, steps", [(3, 20), pytest.param(100, 200, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_loses_at_most_an_interval_and_ends_the_same(tmp_path, kills, steps):
    summary = kill_repeatedly(tmp_path, kills, steps, minutes=30)
    assert summary["kills"] == kills and summary["worst_loss"] <= 2
