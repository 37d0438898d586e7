"""The pages of a service that wants keys: they open without one, say that one is missing, and take it."""

import hashlib

import pytest

from tests.browser.conftest import serving

pytestmark = pytest.mark.browser

SECRET = "unrolled_of_these_tests"
KEYS = ",".join(
    f"{name}:{scopes}:{hashlib.sha256(secret.encode()).hexdigest()}"
    for name, scopes, secret in (("ci", "infer", SECRET), ("read", "", "unrolled_that_only_reads"))
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    with serving(models=tmp_path_factory.mktemp("models"), keys=KEYS) as address:
        yield address


def test_a_service_without_keys_asks_for_none(page, address, expect):
    page.goto(address)
    expect(page.locator(".cell")).to_have_count(8)
    expect(page.locator("#api_key")).to_be_hidden()
    assert "KEY" not in page.locator("#snippet").inner_text()


def test_the_front_page_asks_for_a_key_and_draws_with_it(page, guarded, artifacts, expect):
    page.goto(guarded)
    field = page.locator("#api_key")
    expect(field).to_be_visible()
    expect(page.locator("#api_key-fault")).to_contain_text("This needs a key")
    page.screenshot(path=artifacts / "front-key.png")
    field.fill("unrolled_that_only_reads")
    expect(page.locator("#api_key-fault")).to_contain_text("the scope `infer`")
    field.fill(SECRET)
    expect(page.locator(".cell")).to_have_count(8)
    expect(page.locator("#api_key-fault")).to_have_count(0)
    assert '-H "X-API-Key: $KEY"' in page.locator("#snippet").inner_text()
    assert SECRET not in page.content()


def test_the_docs_page_takes_a_key_and_sends_it(page, guarded, expect):
    page.goto(f"{guarded}/docs")
    page.locator(".btn.authorize").click()
    form = page.locator(".auth-container", has_text="X-API-Key")
    form.locator("input").fill(SECRET)
    form.get_by_role("button", name="Apply credentials").click()
    page.locator(".btn-done").first.click()
    block = page.locator("#operations-Compute-run")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table tbody .response-col_status").first
    expect(answer).to_contain_text("200")
    assert page.complaints == []
