"""GET /cells says what /run does."""

import pytest

from tests.app.client import listed
from tests.app.reference import random_weights

CELLS = ["rnn", "lstm", "gru"]
FRAMEWORKS = ["tensorflow", "pytorch", "keras", "onnx"]
X = [[[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]], [[0.0, 1.0, -1.0], [0.75, 0.5, 0.25]]]

#: A value other than the default for every option, to show that /run takes it.
OTHER = {
    "activation": {"name": "leaky_relu", "alpha": 0.2},
    "recurrent_activation": "hard_sigmoid",
    "output_activation": "softsign",
    "forget_bias": 0.5,
    "use_peepholes": True,
    "cell_clip": 0.1,
    "num_proj": 2,
    "proj_clip": 0.01,
    "input_forget": True,
    "state_is_tuple": False,
    "reset_after": True,
    "linear_before_reset": 1,
    "clip": 0.1,
    "residual": True,
    "direction": "reverse",
    "activations": {"rnn": ["Relu"], "gru": ["Sigmoid", "Elu"], "lstm": ["Sigmoid", "Elu", "Tanh"]},
    "activation_alpha": [0.3],
    "activation_beta": [0.3],
}
ONLY_WITH = {
    "proj_clip": {"num_proj": 3},
    "activation_alpha": {
        "activations": {"rnn": ["Elu"], "gru": ["Sigmoid", "Elu"], "lstm": ["Sigmoid", "Elu", "Tanh"]}
    },
    "activation_beta": {
        "activations": {
            "rnn": ["HardSigmoid"],
            "gru": ["HardSigmoid", "Tanh"],
            "lstm": ["HardSigmoid", "Tanh", "Tanh"],
        }
    },
}


@pytest.fixture(scope="module")
def cells(client):
    return {cell["name"]: cell for cell in client.get("/cells").json()["cells"]}


def net(cell, **options):
    chosen = {
        name: value[cell] if isinstance(value, dict) and cell in value else value for name, value in options.items()
    }
    return {"cell": cell, "num_units": 3, "dtype": "float64", "inputs": X, "cell_options": chosen}


def test_all_cells_are_there_with_all_that_the_contract_names(cells):
    assert list(cells) == CELLS
    for cell in cells.values():
        assert {"name", "equations", "gates", "state", "options", "names"} <= set(cell)
        assert all(cell["equations"])
        assert list(cell["names"]) == FRAMEWORKS
        for option in cell["options"].values():
            assert set(option) == {"type", "default", "meaning"}
            assert option["type"]
            assert option["meaning"]


def test_gates_and_states_are_named_as_in_an_answer(client, cells):
    assert cells["lstm"]["gates"] == ["input", "forget", "output", "candidate"]
    assert cells["gru"]["gates"] == ["reset", "update", "candidate"]
    for name, cell in cells.items():
        answer = client.run(**net(name), **{"return": ["gates", "state"]})
        assert list(answer["gates"][0]) == cell["gates"]
        assert list(answer["state"][0]) == cell["state"]


@pytest.mark.parametrize("cell", CELLS)
def test_run_answers_to_every_name_that_is_listed(client, cells, cell):
    own = client.run(**net(cell))
    for alias in {alias for names in cells[cell]["names"].values() for alias in names}:
        assert client.run(**net(cell) | {"cell": alias}) == own


@pytest.mark.parametrize("cell", CELLS)
def test_the_default_that_is_listed_is_what_run_does(client, cells, cell):
    plain = client.run(**net(cell))
    for name, option in cells[cell]["options"].items():
        if option["default"] is not None:
            answer = client.run(**net(cell, **{name: option["default"]}))
            assert answer["model"].pop("cell_options") == {name: option["default"]}
            assert answer == plain, name


@pytest.mark.parametrize("cell", CELLS)
def test_every_option_that_is_listed_does_something(client, cells, cell):
    for name in cells[cell]["options"]:
        given = ONLY_WITH.get(name, {})
        without = client.run(**net(cell, **given))
        assert client.run(**net(cell, **given, **{name: OTHER[name]})) != without, name


@pytest.mark.parametrize("cell", CELLS)
def test_an_option_of_no_cell_is_refused_naming_the_nearest(client, cells, cell):
    said = client.refusal("/run", **net(cell, activatoin="relu"))
    assert "`activation`" in said["detail"] or "`activations`" in said["detail"]
    assert said["errors"][0]["pointer"] == "/cell_options/activatoin"
    foreign = "reset_after" if cell == "lstm" else "forget_bias"
    assert foreign in client.refusal("/run", **net(cell, **{foreign: 1}))["detail"]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_variables_that_are_listed_are_those_of_the_layout(cells, cell, framework):
    weights = random_weights(framework, cell, [3, 3])
    given = weights["state_dict"] if framework == "pytorch" else weights["layers"][0]
    assert set(given) <= set(cells[cell]["weights"][framework])


def test_the_gate_orders_are_the_frameworks(cells):
    order = {name: cell["gate_order"] for name, cell in cells.items()}
    assert order["lstm"]["tensorflow"] == ["input", "candidate", "forget", "output"]
    assert order["lstm"]["pytorch"] == order["lstm"]["keras"] == ["input", "forget", "candidate", "output"]
    assert order["lstm"]["onnx"] == ["input", "output", "forget", "candidate"]
    assert order["gru"]["tensorflow"] == order["gru"]["pytorch"] == ["reset", "update", "candidate"]
    assert order["gru"]["keras"] == order["gru"]["onnx"] == ["update", "reset", "candidate"]


def test_an_unknown_cell_is_answered_with_those_that_exist(client):
    said = client.refusal("/run", **net("lstm") | {"cell": "lsmt"})
    assert said["errors"][0]["pointer"] == "/cell"
    assert "`lstm`" in said["detail"]
    assert all(name in said["detail"] for name in CELLS)
    weights = listed(random_weights("tensorflow", "lstm", [3, 3]))
    client.refusal("/run", cell="transformer", weights=weights, inputs=X)
