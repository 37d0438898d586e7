"""The front page as axe-core judges it, in light and dark, with all that it can show open."""

import pytest

from tests.browser.test_front_page import cell

pytestmark = pytest.mark.browser


@pytest.fixture
def axe():
    return pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core, as in .ci/run").Axe()


def findings(axe, page):
    """What axe-core finds that is serious or critical: the rule, and what it is about."""
    found = axe.run(page).response["violations"]
    grave = [one for one in found if one["impact"] in ("serious", "critical")]
    return [(one["id"], node["html"], node["failureSummary"]) for one in grave for node in one["nodes"]]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_there_are_no_serious_findings(front, axe, expect, artifacts, scheme, width):
    front.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    front.set_viewport_size({"width": width, "height": 900})
    front.locator("#beside-gru").check()
    expect(front.locator(".maps figure")).to_have_count(2)
    cell(front, 2, 2).click()
    for summary in front.locator("summary").all():
        summary.click()
    front.locator("#tick").fill("2")
    expect(front.locator(".cell.now")).to_have_count(2)
    assert findings(axe, front) == []
    assert front.evaluate("document.documentElement.scrollWidth") == width
    front.screenshot(path=artifacts / f"front-{scheme}-{width}.png", full_page=True)


def test_errors_have_no_serious_findings(front, axe, expect):
    front.locator("#length-1").fill("9")
    expect(front.locator("#length-1-fault")).to_be_visible()
    assert findings(axe, front) == []
