"""What scripts/audit makes of pip-audit's answers: those here are in its own form, as version 2.10 wrote them."""

from __future__ import annotations

import json

import pytest

from scripts.audit import CLEAN, FOUND, NOT_LOOKED_UP, verdict

SOUND = {"name": "click", "version": "8.5.1", "vulns": []}
SKIPPED = {"name": "h11", "skip_reason": "Dependency not found on PyPI and could not be audited: h11 (0.18.0)"}
FAULTY = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [{"id": "PYSEC-2014-8", "fix_versions": ["2.7.2"], "aliases": [], "description": "…"}],
}


@pytest.mark.parametrize(
    ("packages", "code"),
    [
        ([SOUND], CLEAN),
        ([SOUND, FAULTY], FOUND),
        ([SOUND, SKIPPED], NOT_LOOKED_UP),
        ([SKIPPED, FAULTY], FOUND),
        ([SKIPPED, SKIPPED], NOT_LOOKED_UP),
    ],
)
def test_a_finding_counts_for_more_than_what_could_not_be_looked_up(packages, code):
    assert verdict(json.dumps({"dependencies": packages, "fixes": []}), "")[0] == code


def test_a_finding_is_told_with_its_package_and_what_mends_it():
    _, text = verdict(json.dumps({"dependencies": [FAULTY], "fixes": []}), "")
    assert "jinja2 2.4.1: PYSEC-2014-8, mended in 2.7.2" in text


def test_what_was_not_looked_up_is_named():
    _, text = verdict(json.dumps({"dependencies": [SOUND, SKIPPED], "fixes": []}), "")
    assert "in 1 packages" in text
    assert "h11" in text


@pytest.mark.parametrize(
    "said",
    [
        "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='…', port=443): Max retries exceeded",
        "pip_audit._service.interface.ServiceError",
        "ERROR:pip_audit._cli:Tip: your network may be blocking this service. Try another service with `-s SERVICE`",
    ],
)
def test_a_service_out_of_reach_is_no_finding(said):
    assert verdict("", f"Traceback (most recent call last):\n  …\n{said}\n")[0] == NOT_LOOKED_UP


def test_any_other_failure_is_red_and_told():
    code, text = verdict("", "ERROR:pip_audit._cli:invalid requirements input: requirements/serve.txt")
    assert code == FOUND
    assert "invalid requirements input" in text
