"""The front page as a person uses it: every number that it shows is one that the service answers."""

import json
import shlex

import httpx
import numpy as np
import pytest

pytestmark = pytest.mark.browser

INPUTS = [
    [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]],
    [[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
    [[0, 0, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]],
]
NET = {"cell": "lstm", "num_layers": 2, "num_units": 5, "dtype": "float64", "inputs": INPUTS, "lengths": [6, 4, 6]}
ALL = {"return": ["outputs", "state", "states", "gates"]}
SHOWN = 1  # the sequence that the page shows first: the one of 4 steps


def run(address, **fields):
    response = httpx.post(f"{address}/run", json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def cell(page, layer, step, direction="forward"):
    return page.locator(f'.cell[data-layer="{layer}"][data-step="{step}"][data-direction="{direction}"]')


def numbers(page, column):
    """The numbers of one column of the panel, in full."""
    found = page.locator(f'#panel data[data-column="{column}"]')
    return found.evaluate_all("all => all.map(data => Number(data.value))")


def snippet(page, language):
    page.locator(f'#languages [value="{language}"]').check()
    return page.locator("#snippet").text_content()


def fault(page, name):
    """The error beside a field, which is what the field is described by."""
    field = page.locator(f"#{name}")
    field.and_(page.locator('[aria-invalid="true"]')).wait_for()
    return page.locator(f"#{field.get_attribute('aria-describedby')}").inner_text()


def test_it_shows_the_example_at_once_and_asks_no_other_host(front, address, artifacts, expect):
    expect(front.locator("#told")).to_contain_text("4 steps × 2 layers = 8 cell calls")
    links = front.eval_on_selector_all("[href], [src]", "all => all.map(a => a.href || a.src)")
    assert [link for link in links if isinstance(link, str) and not link.startswith(address)] == []
    assert front.hosts == {address.removeprefix("http://")}
    assert front.complaints == []
    front.screenshot(path=artifacts / "front.png", full_page=True)


def test_there_is_a_box_for_every_cell_call_of_the_batch(front, expect):
    drawn = 0
    for row, length in enumerate(NET["lengths"]):
        front.get_by_role("radio", name=f"Sequence {row + 1}").check()
        expect(front.locator(".cell")).to_have_count(length * NET["num_layers"])
        drawn += front.locator(".cell").count()
        assert front.locator(".padded").count() == (6 - length) * NET["num_layers"]
        assert front.locator(".end.initial").count() == front.locator(".end.final").count() == NET["num_layers"]
    assert drawn == sum(NET["lengths"]) * NET["num_layers"]


def test_padded_steps_are_drawn_as_not_computed(front):
    padded = front.locator(".padded")
    labels = padded.evaluate_all("all => all.map(box => box.getAttribute('aria-label'))")
    assert sorted(labels) == [f"Layer {k}, step {t}: not computed: past the end" for k in (1, 2) for t in (5, 6)]
    assert set(padded.locator("text").all_text_contents()) == {"not", "computed"}
    style = "box => { const {strokeDasharray} = getComputedStyle(box); return strokeDasharray }"
    assert padded.locator(".hollow").first.evaluate(style) != "none"
    assert front.locator(".cell .box").first.evaluate(style) == "none"


@pytest.mark.parametrize(("layer", "step"), [(1, 1), (1, 3), (2, 2), (2, 4)])
def test_a_click_shows_the_numbers_that_the_service_answers(front, address, expect, layer, step):
    cell(front, layer, step).click()
    expect(front.locator("#panel-title")).to_have_text(f"Layer {layer}, step {step}")
    expect(cell(front, layer, step)).to_have_attribute("aria-pressed", "true")
    gates = run(address, **NET, **ALL)["gates"][layer - 1]
    assert set(gates) == {"input", "forget", "output", "candidate"}
    for name, gate in gates.items():
        assert numbers(front, f"gates {name}") == gate["values"][SHOWN][step - 1], name
    outputs = run(address, **NET | {"num_layers": layer})["outputs"]["values"][SHOWN]
    assert numbers(front, "new state h′") == outputs[step - 1]
    assert numbers(front, "previous state h") == (outputs[step - 2] if step > 1 else [0] * 5)
    below = run(address, **NET | {"num_layers": layer - 1})["outputs"]["values"] if layer > 1 else INPUTS
    assert numbers(front, "input x") == below[SHOWN][step - 1]
    assert front.complaints == []


def test_the_equations_of_the_cell_stand_beside_its_numbers(front, address):
    (lstm,) = [kind for kind in httpx.get(f"{address}/cells").json()["cells"] if kind["name"] == "lstm"]
    assert front.locator("#options code").all_text_contents() == lstm["equations"]


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize(
    ("way", "direction"), [("forward", "forward"), ("bidirectional", "backward"), ("reverse", "backward")]
)
def test_the_states_on_the_way_end_in_those_that_are_answered(front, address, expect, kind, way, direction):
    front.locator("#cell").select_option(kind)
    front.locator("#direction").select_option(way)
    both = way == "bidirectional"
    expect(front.locator(f'.cell[data-direction="{direction}"]')).to_have_count(8)
    expect(front.locator("#snippet")).to_contain_text(f'"cell": "{kind}"')
    options = {"cell_options": {"direction": "reverse"}} if way == "reverse" else {"bidirectional": both}
    answer = run(address, **NET | {"cell": kind} | options, **ALL)
    last = 4 if direction == "forward" else 1
    for layer in (1, 2):
        cell(front, layer, last, direction).click()
        final = answer["state"][layer - 1]
        for name, values in (final[direction] if both else final).items():
            shown = numbers(front, f"new state {name}′")
            np.testing.assert_allclose(shown, values["values"][SHOWN], rtol=0, atol=1e-12)
        gates = answer["gates"][layer - 1]
        for name, values in (gates[direction] if both else gates).items():
            assert numbers(front, f"gates {name}") == values["values"][SHOWN][last - 1]
    assert front.complaints == []


def test_a_change_is_asked_for_and_drawn(front, address, expect):
    front.locator("#length-1").fill("2")
    expect(front.locator(".cell")).to_have_count(4)
    expect(front.locator(".padded")).to_have_count(8)
    front.locator("#num_layers").fill("3")
    expect(front.locator(".cell")).to_have_count(6)
    front.locator("#max_time").fill("9")
    expect(front.locator(".padded")).to_have_count(21)
    front.locator("#num_units").fill("3")
    cell(front, 1, 1).click()
    expect(front.locator('#panel data[data-column="gates forget"]')).to_have_count(3)
    before = numbers(front, "new state h′")
    front.locator("#seed").fill("7")
    expect(front.locator("#snippet")).to_contain_text('"seed": 7')
    assert numbers(front, "new state h′") != before
    assert front.complaints == []


def test_the_request_that_is_shown_is_the_one_that_is_drawn(front, address):
    request = json.loads(snippet(front, "json"))
    assert request == NET | {"seed": 0} | ALL
    words = shlex.split(snippet(front, "curl"))
    assert words[:4] == ["curl", f"{address}/run", "-H", "Content-Type: application/json"]
    assert json.loads(words[words.index("-d") + 1]) == request


def test_an_error_stands_beside_the_field_that_it_points_at(front, address, expect):
    front.locator("#length-1").fill("7")
    said = httpx.post(f"{address}/run", json=NET | {"lengths": [6, 7, 6]}).json()["errors"]
    assert said[0]["pointer"] == "/lengths/1"
    assert fault(front, "length-1").lower().rstrip(".") == said[0]["detail"].lower()
    expect(front.locator("#stale")).to_be_visible()
    expect(front.locator(".cell")).to_have_count(8)
    front.locator("#length-1").fill("5")
    expect(front.locator(".cell")).to_have_count(10)
    expect(front.locator(".fault:visible")).to_have_count(0)
    expect(front.locator("[aria-invalid]")).to_have_count(0)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("num_units", "0", "expected a whole number"),
        ("num_units", "", "missing"),
        ("num_units", "300", "up to 256 units"),
        ("num_layers", "0", "greater than or equal to 1"),
        ("num_layers", "9", "up to 8 layers"),
        ("seed", "1.5", "integer"),
        ("length-0", "-1", "outside 0..6"),
        ("max_time", "0", "from 1 to 256"),
        ("max_time", "100000", "from 1 to 256"),
    ],
)
def test_what_cannot_be_drawn_is_said_where_it_was_typed(front, field, value, said):
    front.locator(f"#{field}").fill(value)
    assert said in fault(front, field)


def test_what_is_too_much_altogether_is_said_below_the_fields(front, expect):
    front.locator("#num_units").fill("256")
    front.locator("#num_layers").fill("8")
    front.locator("#max_time").fill("256")
    expect(front.locator("#general")).to_contain_text("this page asks for up to 1,000,000")


def test_long_sequences_and_many_units_are_drawn_in_part_and_it_is_said(front, expect):
    front.locator("#max_time").fill("100")
    front.locator("#length-1").fill("90")
    front.locator("#num_units").fill("80")
    expect(front.locator("#told")).to_contain_text("90 steps × 2 layers = 180 cell calls")
    expect(front.locator("#told")).to_contain_text("The first 64 of 80 values are drawn.")
    expect(front.locator(".cell")).to_have_count(128)
    expect(front.locator("#pager-told")).to_have_text("Steps 1 to 64 of 100 are drawn.")
    front.locator("#later").click()
    expect(front.locator(".cell")).to_have_count(52)
    expect(front.locator(".padded")).to_have_count(20)
    assert front.locator("#later").is_disabled()
    cell(front, 2, 90).click()
    expect(front.locator('#panel data[data-column="gates forget"]')).to_have_count(80)
    front.locator("#earlier").click()
    expect(front.locator(".cell")).to_have_count(128)
    assert front.complaints == []


def test_the_cells_are_walked_and_opened_with_the_keyboard(front, expect):
    assert front.locator('.cell[tabindex="0"]').count() == 1
    cell(front, 1, 2).focus()
    for key in ("ArrowRight", "ArrowUp", "ArrowRight", "ArrowRight", "Enter"):
        front.keyboard.press(key)
    expect(front.locator("#panel-title")).to_have_text("Layer 2, step 4")
    expect(front.locator("#panel-title")).to_be_focused()
    front.keyboard.press("Escape")
    expect(cell(front, 2, 4)).to_be_focused()


def test_a_sequence_of_no_steps_keeps_its_state_and_has_no_calls(front, expect):
    front.locator("#length-1").fill("0")
    expect(front.locator(".cell")).to_have_count(0)
    expect(front.locator(".padded")).to_have_count(12)
    expect(front.locator("#panel")).to_be_hidden()
    assert front.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
def test_a_phone_scrolls_the_picture_and_not_the_page(front, artifacts, expect, scheme, both):
    front.emulate_media(color_scheme=scheme)
    front.set_viewport_size({"width": 390, "height": 844})
    front.locator("#direction").select_option("bidirectional" if both else "forward")
    expect(front.locator(".cell")).to_have_count(16 if both else 8)
    front.locator("#length-1").fill("9")
    fault(front, "length-1")
    assert front.evaluate("document.documentElement.scrollWidth") == 390
    assert front.locator("#scroll").evaluate("box => box.scrollWidth > box.clientWidth")
    front.screenshot(path=artifacts / f"front-phone-{scheme}-{'both' if both else 'forward'}.png", full_page=True)


def test_a_service_that_is_gone_is_said(front, expect):
    front.route("**/run", lambda route: route.abort())
    front.locator("#num_units").fill("4")
    expect(front.locator("#general")).to_have_text("The service does not answer. Is it running?")


def test_a_page_that_gets_no_answer_at_all_says_so(page, address, expect):
    page.route("**/cells", lambda route: route.fulfill(status=503, json={"detail": "not ready: starting"}))
    page.goto(address)
    expect(page.locator("#general")).to_have_text("Not ready: starting.")
    expect(page.locator("#told")).to_have_text("Nothing is drawn yet.")


@pytest.mark.parametrize("name", ["final", "snippet"])
def test_the_state_and_the_request_are_copied(front, expect, name):
    front.context.grant_permissions(["clipboard-read", "clipboard-write"])
    front.locator(f'[data-copies="{name}"]').click()
    expect(front.locator("#copied")).to_have_text("Copied.")
    assert front.evaluate("navigator.clipboard.readText()") == front.locator(f"#{name}").text_content()


def test_without_a_clipboard_the_request_is_selected(front, expect):
    front.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')) }")
    front.locator('[data-copies="snippet"]').click()
    expect(front.locator("#copied")).to_have_text("Selected: copy it with your keyboard.")
    assert front.evaluate("String(getSelection())").startswith("curl http")


def test_of_changes_in_quick_succession_the_last_one_is_drawn(front, expect):
    for length in (1, 2, 3, 6, 5):
        front.locator("#length-1").fill(str(length))
    expect(front.locator(".cell")).to_have_count(10)
    expect(front.locator("#snippet")).to_contain_text('"lengths": [6,5,6]')
    assert front.complaints == []
