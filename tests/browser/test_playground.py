"""What the front page is for: stepping through time, looking into cells, comparing, running models of one's own."""

import json
import re
import subprocess
import sys

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.browser.test_front_page import ALL, NET, SHOWN, cell, numbers, run, snippet

pytestmark = pytest.mark.browser

DRAW = np.random.default_rng(1)
LETTERS = [*"abcdefg", " "]
UNITS, SIZE = 6, 4
SPELLER = {
    "rnn.weight_ih_l0": DRAW.normal(size=(3 * UNITS, SIZE)),
    "rnn.weight_hh_l0": DRAW.normal(size=(3 * UNITS, UNITS)),
    "rnn.bias_ih_l0": DRAW.normal(size=3 * UNITS),
    "rnn.bias_hh_l0": DRAW.normal(size=3 * UNITS),
    "emb.weight": 2 * DRAW.normal(size=(len(LETTERS), SIZE)),
    "fc.weight": DRAW.normal(size=(len(LETTERS), UNITS)),
    "fc.bias": DRAW.normal(size=len(LETTERS)),
}
CONFIG = {
    "embedding": "emb.weight",
    "readout": {"weight": "fc.weight", "bias": "fc.bias", "activation": "softmax"},
    "vocabulary": LETTERS,
}


def formula(page, name):
    """The number that an equation ends in, in full."""
    return float(page.locator(f'#equations [data-formula="{name}"]').get_attribute("title"))


def terms(page, name):
    """The numbers inside the activation of an equation, and what they add up to, as they are shown."""
    line = page.locator("#equations li", has=page.locator(f'[data-formula="{name}"]')).locator(".with-numbers mn")
    shown = [float(text.replace("−", "-")) for text in line.all_text_contents()]
    return shown[:-2], shown[-2]


@pytest.fixture
def speller(front, expect, tmp_path):
    """The page with a model of letters, registered through it."""
    file = tmp_path / "speller.safetensors"
    save_file({name: array.astype(np.float32) for name, array in SPELLER.items()}, file)
    front.locator("#upload summary").click()
    front.locator("#upload-files").set_input_files(file)
    expect(front.locator("#upload-name")).to_have_value("speller")
    front.locator("#upload-config").fill(json.dumps(CONFIG))
    front.locator("#upload-send").click()
    expect(front.locator("#upload-told")).to_contain_text("Registered: speller, version")
    expect(front.locator("#model")).to_have_value("speller")
    expect(front.locator("#snippet")).to_contain_text('"model": "speller"')
    return front


# -- equations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [0, 3])
def test_the_equations_have_the_numbers_of_the_unit_that_is_chosen(front, address, unit):
    front.locator("#unit").select_option(str(unit + 1))
    answer = run(address, **NET, **ALL)
    for name, gate in answer["gates"][0].items():
        assert formula(front, name) == gate["values"][SHOWN][1][unit]
        inside, total = terms(front, name)
        assert abs(sum(inside) - total) < 3e-4
        value = np.tanh(total) if name == "candidate" else 1 / (1 + np.exp(-total))
        assert abs(value - gate["values"][SHOWN][1][unit]) < 1e-4
    for name in ("c", "h"):
        assert formula(front, name) == answer["states"][0][name]["values"][SHOWN][1][unit]


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("kind", ["rnn", "gru"])
def test_the_terms_of_every_cell_add_up_to_what_the_service_answers(front, address, expect, kind, layer):
    front.locator("#cell").select_option(kind)
    expect(front.locator("#snippet")).to_contain_text(f'"cell": "{kind}"')
    cell(front, layer, 3).click()
    answer = run(address, **NET | {"cell": kind}, **ALL)
    at = {name: gate["values"][SHOWN][2][0] for name, gate in answer["gates"][layer - 1].items()}
    at |= {"h": answer["states"][layer - 1]["h"]["values"][SHOWN][2][0]} if kind == "rnn" else {}
    for name, value in at.items():
        inside, total = terms(front, name)
        assert abs(sum(inside) - total) < 3e-4
        act = np.tanh(total) if name in ("candidate", "h") else 1 / (1 + np.exp(-total))
        assert abs(act - value) < 1e-4


def test_all_digits_are_shown_where_they_are_wanted(front, address):
    front.locator("#exact").check()
    shown = front.locator('#panel data[data-column="gates forget"]').all_inner_texts()
    forget = run(address, **NET, **ALL)["gates"][0]["forget"]["values"][SHOWN][1]
    assert [float(text.replace("−", "-")) for text in shown] == forget


# -- exact numbers, time -----------------------------------------------------------------------------------------------


def test_the_numbers_under_the_pointer_and_at_the_focus_are_told(front, address, expect):
    states = run(address, **NET, **ALL)["states"][0]
    box = cell(front, 1, 2).bounding_box()
    front.mouse.move(box["x"] + box["width"] / 2, box["y"] + 24)
    expect(front.locator("#tip strong")).to_have_text("Layer 1, step 2")
    found = front.locator("#tip data").evaluate_all("all => all.map(data => Number(data.value))")
    assert found == [states[name]["values"][SHOWN][1][0] for name in ("c", "h")]
    front.mouse.move(1, 1)
    expect(front.locator("#tip")).to_be_hidden()
    cell(front, 1, 2).focus()
    front.keyboard.press("ArrowRight")
    expect(front.locator("#tip strong")).to_have_text("Layer 1, step 3")
    expect(cell(front, 1, 3)).to_have_attribute("aria-describedby", "tip")
    found = front.locator("#tip data").evaluate_all("all => all.map(data => Number(data.value))")
    assert found[1::2] == states["h"]["values"][SHOWN][2]


def test_one_steps_through_time_and_the_inspector_goes_along(front, expect, artifacts):
    front.get_by_role("button", name="Before the first step").click()
    expect(front.locator("#tick-told")).to_have_text("step 0 of 4")
    expect(front.locator(".cell.to-come")).to_have_count(8)
    forth = front.get_by_role("button", name="A step on")
    for step in (1, 2, 3):
        forth.click()
        expect(front.locator("#tick-told")).to_have_text(f"step {step} of 4")
        expect(front.locator("#panel-title")).to_have_text(f"Layer 1, step {step}")
        assert front.locator(".cell.now").evaluate_all("all => all.map(one => one.dataset.step)") == [f"{step}"] * 2
        expect(front.locator(".cell.to-come")).to_have_count(2 * (4 - step))
    front.screenshot(path=artifacts / "front-step.png", full_page=True)
    front.get_by_role("button", name="A step back").click()
    expect(front.locator("#panel-title")).to_have_text("Layer 1, step 2")
    front.get_by_role("button", name="All steps").click()
    expect(front.locator(".cell.to-come, .veil.down")).to_have_count(0)
    assert front.complaints == []


def test_a_backward_lane_is_stepped_from_its_end(front, expect):
    front.locator("#direction").select_option("bidirectional")
    expect(front.locator(".cell")).to_have_count(16)
    front.locator("#tick").fill("1")
    now = front.locator(".cell.now")
    expect(now).to_have_count(4)
    found = now.evaluate_all("all => all.map(({dataset}) => dataset.direction + dataset.step)")
    assert sorted(found) == ["backward4", "backward4", "forward1", "forward1"]


def test_play_goes_from_step_to_step_until_the_end(front, expect):
    front.get_by_role("button", name="Play").click()
    for step in range(5):
        expect(front.locator("#tick-told")).to_have_text(f"step {step} of 4")
    expect(front.get_by_role("button", name="Play")).to_be_visible()


# -- batches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "inputs", "lengths"),
    [
        ("[[[1, 2], [3, 4]], [[5, 6]]]", [[[1, 2], [3, 4]], [[5, 6], [0, 0]]], [2, 1]),
        ("1 2\n3,4\n\n5\t6\n", [[[1, 2], [3, 4]], [[5, 6], [0, 0]]], [2, 1]),
        ('{"inputs": [[[1], [2]], [[3], [4]]], "lengths": [2, 1]}', [[[1], [2]], [[3], [4]]], [2, 1]),
    ],
)
def test_a_batch_is_typed_or_pasted(front, expect, text, inputs, lengths):
    front.locator("#batch").select_option("typed")
    real = [row[:length] for row, length in zip(NET["inputs"], NET["lengths"], strict=True)]
    expect(front.locator("#inputs")).to_have_value(re.compile("."))
    assert json.loads(front.locator("#inputs").input_value()) == real
    front.locator("#inputs").fill(text)
    expect(front.locator(".cell")).to_have_count(2 * lengths[min(SHOWN, len(lengths) - 1)])
    asked = json.loads(snippet(front, "json"))
    assert (asked["inputs"], asked["lengths"]) == (inputs, lengths)
    assert front.complaints == []


@pytest.mark.parametrize(
    ("text", "said"), [("1 2\n3 x", "Line 2: “x” is no number."), ("[[1", "This is no JSON"), ("", "Type a batch")]
)
def test_what_is_typed_wrong_is_said_at_the_field(front, expect, text, said):
    front.locator("#batch").select_option("typed")
    front.locator("#inputs").fill(text)
    expect(front.locator("#inputs-fault")).to_contain_text(said)


def test_random_batches_are_generated_with_lengths(front, expect):
    front.locator("#batch").select_option("random")
    front.locator("#count").fill("5")
    front.locator("#features").fill("3")
    front.locator("#max_time").fill("10")
    expect(front.locator("#snippet")).to_contain_text('"inputs"')
    expect(front.locator(".sequence")).to_have_count(5)
    front.locator("#roll").click()
    expect(front.locator(".padded, .cell")).to_have_count(20)
    first = json.loads(snippet(front, "json"))
    assert np.shape(first["inputs"]) == (5, 10, 3)
    assert all(5 <= length <= 10 for length in first["lengths"])
    front.locator("#roll").click()
    expect(front.locator("#snippet")).not_to_have_text(front.locator("#snippet").text_content())
    assert np.shape(json.loads(snippet(front, "json"))["inputs"]) == (5, 10, 3)


# -- the answer and the request ----------------------------------------------------------------------------------------


def test_final_states_are_those_of_the_answer(front, address):
    assert json.loads(front.locator("#final").text_content()) == run(address, **NET)["state"]


@pytest.mark.parametrize("way", ["forward", "bidirectional"])
def test_the_request_runs_in_python_as_it_stands(front, address, expect, way):
    front.locator("#direction").select_option(way)
    expect(front.locator(".cell")).to_have_count(8 if way == "forward" else 16)
    done = subprocess.run([sys.executable, "-c", snippet(front, "python")], capture_output=True, text=True, check=True)
    both = {"bidirectional": True} if way == "bidirectional" else {}
    assert done.stdout.strip() == str(run(address, **NET | both)["state"])


def test_the_request_runs_in_javascript_as_it_stands(front, address):
    code = snippet(front, "javascript").replace("console.log(answer.state)", "return answer.state")
    assert front.evaluate(f"(async () => {{ {code} }})()") == run(address, **NET)["state"]


# -- compare -----------------------------------------------------------------------------------------------------------


def test_cells_are_compared_on_the_same_batch(front, address, expect, artifacts):
    for kind in ("rnn", "gru"):
        front.locator(f"#beside-{kind}").check()
    captions = front.locator(".maps figcaption")
    expect(captions).to_have_text([f"{kind} (2 × 5, seed 0)" for kind in ("lstm", "rnn", "gru")])
    columns = front.locator("#compared tbody tr").evaluate_all(
        "all => all.map(row => [...row.querySelectorAll('data')].map(data => Number(data.value)))"
    )
    for k, kind in enumerate(("lstm", "rnn", "gru")):
        outputs = run(address, **NET | {"cell": kind})["outputs"]["values"][SHOWN]
        assert [row[k] for row in columns] == [values[0] for values in outputs[:4]]
    front.screenshot(path=artifacts / "front-compare.png", full_page=True)
    assert front.complaints == []


def test_a_run_is_kept_beside_what_is_changed_after_it(front, expect):
    front.locator("#keep").click()
    front.locator("#seed").fill("3")
    captions = front.locator(".maps figcaption")
    expect(captions).to_have_text(["lstm (2 × 5, seed 3)", "lstm (2 × 5, seed 0)"])
    front.locator("#forget").click()
    expect(front.locator("#compared")).to_be_hidden()


# -- models ------------------------------------------------------------------------------------------------------------


def test_a_model_is_registered_through_the_page_and_run_on_text(speller, address, expect, artifacts):
    assert httpx.get(f"{address}/models/speller").json()["vocabulary"] == LETTERS
    speller.locator("#inputs").fill("cab face\nbad")
    expect(speller.locator("#snippet")).to_contain_text("[2,0,1,7,5,0,2,4]")
    speller.get_by_role("radio", name="Sequence 1").check()
    expect(speller.locator(".cell")).to_have_count(8)
    cell(speller, 1, 3).click()
    answer = run(address, model="speller", dtype="float64", inputs=[[2, 0, 1, 7, 5, 0, 2, 4], [1, 0, 3]], **ALL)
    for name, gate in answer["gates"][0].items():
        assert numbers(speller, f"gates {name}") == gate["values"][0][2], name
    assert numbers(speller, "new state h′") == answer["outputs"]["values"][0][2]
    labels = speller.locator(".token").evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
    assert labels[:3] == ["Token at step 1: c", "Token at step 2: a", "Token at step 3: b"]
    speller.screenshot(path=artifacts / "front-model.png", full_page=True)
    assert speller.complaints == []


def test_what_no_token_begins_with_is_said(speller, expect):
    speller.locator("#inputs").fill("cab, face")
    expect(speller.locator("#inputs-fault")).to_contain_text("“, face” begins with nothing that the vocabulary has")


def test_generation_streams_in_what_the_service_generates(speller, address, expect, artifacts):
    speller.locator("#prompt-text").fill("bad")
    speller.locator("#max_steps").fill("12")
    speller.locator("#draw").fill("5")
    with speller.expect_response("**/generate") as answered:
        speller.locator("#write").click()
    assert answered.value.headers["content-type"].startswith("text/event-stream")
    expect(speller.locator("#generation-told")).to_have_text("12 tokens: that is as many as were asked for.")
    asked = {"inputs": [[1, 0, 3]], "max_steps": 12, "temperature": 0.8, "seed": 5}
    (tokens,) = httpx.post(f"{address}/models/speller/generate", json=asked).json()["tokens"]
    assert speller.locator(".written.new").all_text_contents() == [LETTERS[token] for token in tokens]
    speller.locator("#generation").screenshot(path=artifacts / "front-generation.png")
    speller.locator("#prompt-text").fill("x")
    speller.locator("#write").click()
    expect(speller.locator("#generation-fault")).to_contain_text("“x” begins with nothing")
    assert speller.complaints == []


def test_a_file_that_is_no_model_is_refused_in_words(front, expect, tmp_path):
    file = tmp_path / "model.pt"
    file.write_bytes(b"PK")
    front.locator("#upload summary").click()
    front.locator("#upload-send").click()
    expect(front.locator("#upload-told")).to_have_text("Give the model a name.")
    front.locator("#upload-files").set_input_files(file)
    front.locator("#upload-send").click()
    expect(front.locator("#upload-told")).to_contain_text("pickle")
