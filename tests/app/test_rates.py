"""How often and how much at once a key may ask, by a clock that is handed in."""

import asyncio
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import RateLimitItemPerSecond
from limits.strategies import MovingWindowRateLimiter

from app.keys import Key
from app.problems import Problem
from app.rates import Limits, Windows
from app.settings import Settings, rates_of
from tests.app.client import problem, service

RUN = {"cell": "rnn", "num_units": 1, "inputs": [[[1]]]}


class Clock:
    """Seconds, which pass when they are told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def key(name="ci", **limits):
    return Key(name, frozenset(), name.encode(), **limits)


def limits_of(clock, **settings):
    return Limits(Settings(keys="ci", **settings), clock)


def refused(limits, asking):
    with pytest.raises(Problem) as caught:
        limits.admit(asking)
    assert caught.value.status == 429
    return caught.value


# -- how often ---------------------------------------------------------------------------------------------------------


def test_so_many_requests_pass_in_a_time_and_then_as_many_as_it_frees(clock):
    limits = limits_of(clock, rate_limit="2/minute")
    limits.admit(key())
    clock.now += 50
    limits.admit(key())
    said = refused(limits, key())
    assert said.headers == {"Retry-After": "10"}, "when the first one is a minute ago"
    assert "'ci'" in said.detail
    assert "2 per 1 minute" in said.detail
    clock.now += 10
    limits.admit(key())
    assert refused(limits, key()).headers == {"Retry-After": "50"}


def test_who_is_refused_is_not_counted(clock):
    limits = limits_of(clock, rate_limit="1/minute")
    limits.admit(key())
    for _ in range(5):
        clock.now += 10
        refused(limits, key())
    clock.now += 10
    limits.admit(key())


def test_of_several_limits_each_holds(clock):
    limits = limits_of(clock, rate_limit="2/second;3/hour")
    limits.admit(key())
    limits.admit(key())
    assert refused(limits, key()).headers == {"Retry-After": "1"}
    clock.now += 1
    limits.admit(key())
    assert refused(limits, key()).headers == {"Retry-After": "3599"}


def test_a_retry_is_said_in_whole_seconds_and_never_before_it_helps(clock):
    limits = limits_of(clock, rate_limit="1/second")
    limits.admit(key())
    clock.now += 0.75
    assert refused(limits, key()).headers == {"Retry-After": "1"}


def test_keys_are_counted_apart_and_their_own_limit_goes_first(clock):
    limits = limits_of(clock, rate_limit="1/minute", concurrency_limit=1)
    limits.admit(key("one"))
    limits.admit(key("two"))
    refused(limits, key("two"))
    more = key("more", rate_limit="3/minute", concurrency_limit=2)
    for _ in range(3):
        limits.admit(more)
    refused(limits, more)
    free = key("free", rate_limit="none", concurrency_limit=0)
    for _ in range(100):
        with limits.admit(free), limits.admit(free):
            pass


def test_without_limits_everything_passes(clock):
    limits = limits_of(clock)
    for _ in range(100):
        limits.admit(key()).__enter__()


@given(st.lists(st.floats(0, 2, allow_nan=False), max_size=60), st.integers(1, 4))
def test_no_window_ever_holds_more_than_the_limit(pauses, amount):
    clock, passed = Clock(), []
    limiter, rate = MovingWindowRateLimiter(Windows(clock)), RateLimitItemPerSecond(amount)
    for pause in pauses:
        clock.now += pause
        last = [moment for moment in passed if moment > clock.now - 1]
        assert limiter.hit(rate, "x") == (len(last) < amount)
        if len(last) < amount:
            passed.append(clock.now)


def test_what_is_over_is_forgotten():
    clock = Clock()
    windows = Windows(clock)
    for _ in range(1000):
        clock.now += 0.5
        windows.acquire_entry("x", 5, 1)
    assert windows.get("x") <= 5
    assert windows.check()
    windows.clear("x")
    assert windows.get("x") == 0
    windows.acquire_entry("x", 5, 1)
    assert (windows.reset(), windows.get("x")) == (1, 0)


@pytest.mark.parametrize("text", ["", "none", "100", "100/fortnight", "0/second", "5/second;0/hour", "1.5/s"])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match="expected a number of requests in a time"):
        rates_of(text)


def test_a_rate_may_be_of_several_times():
    assert [(rate.amount, rate.get_expiry()) for rate in rates_of("5 per 2 minutes; 100/hour")] == [
        (5, 120),
        (100, 3600),
    ]


# -- how much at once --------------------------------------------------------------------------------------------------


def test_so_many_requests_are_under_way_at_once(clock):
    limits = limits_of(clock, concurrency_limit=2)
    with limits.admit(key()):
        with limits.admit(key()):
            said = refused(limits, key())
            assert said.headers == {"Retry-After": "1"}
            assert "has 2 requests under way; its limit is 2" in said.detail
            limits.admit(key("other"))
        limits.admit(key())


def test_a_request_that_fails_is_no_longer_under_way(clock):
    limits = limits_of(clock, concurrency_limit=1)
    with pytest.raises(RuntimeError), limits.admit(key()):
        raise RuntimeError
    limits.admit(key())


def test_what_is_over_the_number_at_once_does_not_count_for_the_rate(clock):
    limits = limits_of(clock, concurrency_limit=1, rate_limit="2/hour")
    with limits.admit(key()):
        refused(limits, key())
    limits.admit(key())


# -- in the service ----------------------------------------------------------------------------------------------------


def test_a_key_over_its_rate_is_answered_429_by_every_protocol_and_probes_are_not_counted():
    secret = "unrolled_of_these_tests"
    keys = f"ci:infer:{hashlib.sha256(secret.encode()).hexdigest()}"
    headers = {"X-API-Key": secret}
    with service(keys=keys, rate_limit="1/day") as client:
        for _ in range(3):
            assert client.get("/readyz", headers=headers).status_code == 200
        assert client.post("/run", json=RUN, headers=headers).status_code == 200
        for path in ("/run", "/v2/models/x/infer", "/v1/models/x:predict"):
            response = client.post(path, json=RUN, headers=headers)
            assert "its limit of 1 per 1 day" in problem(response, 429)["detail"]
            assert 86_000 < int(response.headers["retry-after"]) <= 86_400
        assert client.post("/run", json=RUN).status_code == 401, "others are told that they need a key"


def test_a_key_with_too_much_under_way_is_answered_429_until_one_is_done():
    secret = "unrolled_of_these_tests"
    keys = f"ci:infer:{hashlib.sha256(secret.encode()).hexdigest()}"
    with service(keys=keys, concurrency_limit=1) as client:
        headers = {"X-API-Key": secret, "Content-Type": "application/json"}

        async def both():
            rest, begun = asyncio.Event(), asyncio.Event()

            async def slowly():
                begun.set()
                yield b'{"cell": "rnn", "num_units": 1, '
                await rest.wait()
                yield b'"inputs": [[[1]]]}'

            first = asyncio.create_task(client.http.post("/run", content=slowly(), headers=headers))
            await begun.wait()
            second = await client.http.post("/run", json=RUN, headers=headers)
            rest.set()
            return await first, second, await client.http.post("/run", json=RUN, headers=headers)

        first, second, third = client.runner.run(both())
        assert (first.status_code, third.status_code) == (200, 200)
        assert "1 requests under way" in problem(second, 429)["detail"]
