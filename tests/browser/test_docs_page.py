"""The docs page as a person sees it."""

import json

import httpx
import numpy as np
import pytest
from safetensors.numpy import save, save_file

pytestmark = pytest.mark.browser

VERSION = "/versions/{version}"
OF_MODEL = [f"/models/{{name}}{way}" for way in ("", VERSION)]
OF_V2 = [f"/v2/models/{{name}}{way}" for way in ("", VERSION)]
OF_V1 = [f"/v1/models/{{name}}{way}" for way in ("", VERSION, "/labels/{label}")]
V2 = [
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/stats",
    *(f"{model}{end}" for end in ("", "/ready", "/config", "/stats") for model in OF_V2),
    "/v2/repository/index",
    "/v2/repository/models/{name}/load",
    "/v2/repository/models/{name}/unload",
    *(f"{model}/infer" for model in OF_V2),
]
V1 = [*OF_V1, *(f"{model}/metadata" for model in OF_V1), *(f"{model}:predict" for model in OF_V1)]


def test_the_operation_list_is_there_and_nothing_comes_from_elsewhere(page, address, artifacts):
    page.goto(f"{address}/docs")
    page.wait_for_selector("#operations-Compute-run")
    shown = page.locator(".opblock-summary-path").all_inner_texts()
    assert [path.replace("\u200b", "") for path in shown] == [
        "/run",
        "/step",
        "/gradients",
        "/cells",
        *(f"{model}/{call}" for model in OF_MODEL for call in ("run", "step", "gradients")),
        "/models",
        *["/models/{name}"] * 3,
        *["/models/{name}/versions/{version}"] * 2,
        "/generate",
        *(f"{model}/generate" for model in OF_MODEL),
        *(f"{model}/stream" for model in OF_MODEL),
        *V2,
        *V1,
        "/healthz",
        "/readyz",
        "/metrics",
    ]
    links = page.eval_on_selector_all("[href], [src]", "all => all.map(a => a.href || a.src)")
    assert [link for link in links if isinstance(link, str) and not link.startswith((address, "data:"))] == []
    assert page.hosts == {address.removeprefix("http://")}
    assert page.complaints == []
    page.screenshot(path=artifacts / "docs.png")


@pytest.mark.parametrize("operation", ["run", "step"])
def test_try_it_out_gives_200(page, address, artifacts, operation):
    page.goto(f"{address}/docs")
    block = page.locator(f"#operations-Compute-{operation}")
    block.locator(".opblock-summary").click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table tbody .response-col_status").first
    answer.wait_for()
    assert answer.inner_text().strip().startswith("200")
    shown = block.locator(".live-responses-table .highlight-code code").first.inner_text()
    body = json.loads(shown)
    assert body["model"]["cell"] == "lstm"
    assert page.complaints == []
    page.screenshot(path=artifacts / f"docs-{operation}.png", full_page=True)


def test_what_stands_in_a_models_operation_runs_as_it_is(page, address, artifacts):
    tensors = {"rnn.weight_ih_l0": (3, 2), "rnn.weight_hh_l0": (3, 1), "emb": (50, 2), "fc": (3, 1)}
    file = save({name: np.ones(shape, np.float32) for name, shape in tensors.items()})
    config = {"embedding": "emb", "readout": {"weight": "fc", "activation": "softmax"}}
    sent = {"files": {"files": ("model.safetensors", file)}, "data": {"config": json.dumps(config)}}
    assert httpx.put(f"{address}/models/tagger", **sent).status_code == 201
    page.goto(f"{address}/docs")
    block = page.locator("#operations-Compute-run_model")
    block.locator(".opblock-summary").click()
    block.get_by_role("button", name="Try it out").click()
    errors = block.locator('.responses-table:not(.live-responses-table) .response[data-code="422"]')
    assert "Understood, but wrong" in errors.inner_text()
    assert not errors.locator(".model-example").is_visible(), "an error is a line"
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table tbody .response-col_status").first
    answer.wait_for()
    assert answer.inner_text().strip().startswith("200")
    assert page.complaints == []
    page.screenshot(path=artifacts / "docs-model.png", full_page=True)


def test_the_page_is_dark_where_the_readers_system_is(page, address, artifacts):
    page.emulate_media(color_scheme="dark")
    page.goto(f"{address}/docs")
    page.wait_for_selector("#operations-Compute-run")
    assert "dark-mode" in page.locator("html").get_attribute("class")
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("html:not(.dark-mode)")
    page.screenshot(path=artifacts / "docs-light.png")


def test_a_model_is_registered_from_the_page(page, address, artifacts, tmp_path):
    """The upload that the page sends is the one that the route reads."""
    file = tmp_path / "model.safetensors"
    tensors = {"rnn.weight_ih_l0": (3, 2), "rnn.weight_hh_l0": (3, 1), "emb": (9, 2)}
    save_file({name: np.ones(shape, np.float32) for name, shape in tensors.items()}, file)
    page.goto(f"{address}/docs")
    block = page.locator(".opblock-put")
    block.locator(".opblock-summary").click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_placeholder("name").fill("speller")
    block.locator('input[type="file"]').set_input_files(file)
    block.locator('[data-property-name="config"] input[type="text"]').fill('{"embedding": "emb"}')
    block.get_by_role("button", name="Execute").click()
    answer = block.locator(".live-responses-table tbody .response-col_status").first
    answer.wait_for()
    body = json.loads(block.locator(".live-responses-table .highlight-code code").first.inner_text())
    assert answer.inner_text().strip().startswith("201")
    assert (body["name"], body["version"], body["layers"][0]["cell"]) == ("speller", 1, "gru")
    assert page.complaints == []
    page.screenshot(path=artifacts / "docs-register.png", full_page=True)


def test_the_front_page_leads_to_the_docs(page, address):
    page.goto(address)
    page.get_by_role("link", name="/docs").click()
    page.wait_for_selector("#operations-Compute-run")
    assert page.complaints == []
