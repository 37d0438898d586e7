"""What the soak makes of its samples: a leak is seen, noise and the warm-up are none, and faults count."""

import numpy as np
import pytest

from benchmarks.soak import SAMPLE_SECONDS, WARM_UP_SECONDS, Seen, verdict

MINUTES = 20


def seen(memory):
    """Samples of `memory(seconds)` bytes over the whole of a soak."""
    times = np.arange(0, 60 * MINUTES, SAMPLE_SECONDS)
    return Seen(memory=[(float(at), int(memory(at))) for at in times])


def test_memory_that_is_flat_but_for_noise_and_the_warm_up_holds():
    noise = np.random.default_rng(0).normal(scale=5e6, size=60 * MINUTES)
    warming = seen(lambda at: 200e6 + 1e6 * min(at, WARM_UP_SECONDS) + noise[int(at)])
    assert abs(warming.growth()) < 0.01
    assert verdict(warming, 20, 20) == []


@pytest.mark.parametrize("share", [0.04, 0.06, 0.5])
def test_growth_is_told_as_a_share_of_what_there_was_after_the_warm_up(share):
    length = 60 * MINUTES - WARM_UP_SECONDS - SAMPLE_SECONDS
    growing = seen(lambda at: 200e6 * (1 + share * max(0, at - WARM_UP_SECONDS) / length))
    assert growing.growth() == pytest.approx(share, rel=0.02)
    assert len(verdict(growing, 20, 20)) == (share > 0.05)


def test_a_soak_of_a_minute_has_no_trend():
    short = Seen(memory=[(2.0 * k, 10**8 + 10**7 * k) for k in range(30)])
    assert short.growth() is None
    assert verdict(short, 20, 21) == []


def test_server_errors_faults_and_open_files_do_not_hold():
    bad = seen(lambda at: 1e8)
    bad.statuses[503] = 1
    assert "1 answers of 5xx" in verdict(bad, 20, 20)[0]
    bad = seen(lambda at: 1e8)
    bad.faults.append("v2: Unexpected")
    assert "v2: Unexpected" in verdict(bad, 20, 20)[0]
    assert "30 files" in verdict(seen(lambda at: 1e8), 20, 30)[0]
