"""The fuzz itself: what it begins with is right, a case can be repeated, and it sees what it is there to see."""

import multiprocessing
import os
import time
from dataclasses import replace

import pytest

from tests.fuzz import decoders
from tests.fuzz.decoders import Fuzzing, case, draw_of, look
from tests.fuzz.targets import TARGETS, Finding, stocked

FILES = [name for name, target in TARGETS.items() if not target.needs_service]


@pytest.fixture(scope="module")
def client():
    with stocked() as client:
        yield client


@pytest.mark.parametrize("name", TARGETS)
def test_what_cases_are_made_of_is_taken(client, name):
    target = TARGETS[name]
    seeds = target.seeds(client)
    assert len(seeds) > 2
    # files in formats that need much time to read: a few of them
    refused = [one for one in seeds[:: 1 if target.needs_service else 5] if not target.ask(client, one)]
    assert refused == []


@pytest.mark.parametrize("name", TARGETS)
def test_cases_follow_from_their_numbers_and_most_differ_from_what_they_are_made_of(client, name):
    target = TARGETS[name]
    seeds = target.seeds(client)
    cases = [case(target, seeds, draw_of(3, name, number)) for number in range(20)]
    assert cases == [case(target, seeds, draw_of(3, name, number)) for number in range(20)]
    assert sum(one in seeds for one in cases) < 10


def test_an_error_and_much_memory_are_findings(client, monkeypatch):
    def ask(_, given):
        if given == "error":
            raise Finding("odd")
        return True

    target = replace(TARGETS["json"], ask=ask)
    assert "odd" in look(target, client, "error")
    assert look(target, client, "fine") is None
    sizes = iter([0, 1 << 40])
    monkeypatch.setattr(decoders, "peak", lambda: next(sizes))
    assert "MiB" in look(target, client, "fine")


def _crashes(name, seed, number, found, stop):
    """In place of `fuzz`: its case 2 ends the process, its case 4 never comes back, its case 6 is a finding."""
    while not stop.is_set():
        if number.value == 2:
            os._exit(9)
        if number.value == 4:
            time.sleep(600)
        if number.value == 6:
            found.put((6, "found"))
        number.value += 1


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="a stand-in cannot be sent elsewhere")
def test_a_crash_and_a_hang_are_told_with_their_cases_and_what_follows_them_is_tried(monkeypatch):
    monkeypatch.setattr(decoders, "START", "fork")
    monkeypatch.setattr(decoders, "fuzz", _crashes)
    monkeypatch.setattr(decoders, "CASE_SECONDS", 0.5)
    fuzzing = Fuzzing("json", 0)
    assert fuzzing.run(3.0) > 6
    assert {number: said for said, number in fuzzing.findings.items()} == {
        2: "its process ended with exit code 9",
        4: "it took more than 0.5 s",
        6: "found",
    }
