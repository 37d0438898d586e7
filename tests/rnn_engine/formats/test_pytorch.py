"""PyTorch's state_dicts in safetensors files, by the names and shapes that PyTorch gives them."""

from __future__ import annotations

import json
import math
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rnn_engine import Network
from rnn_engine.errors import EngineError, NonFiniteError, OptionError, ShapeError
from rnn_engine.formats import safetensors
from rnn_engine.formats.base import FormatError, UnsupportedError
from rnn_engine.formats.files import read
from tests.oracles.case import load
from tests.rnn_engine import TOLERANCE, assert_close, poisoned

RECORDED = load(Path(__file__).parents[2] / "goldens" / "pytorch.npz")
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def stored(folder, tensors, name="model.safetensors"):
    """One file, by the name that its owner gave it."""
    save_file({key: np.ascontiguousarray(array) for key, array in tensors.items()}, folder / name, {"format": "pt"})
    return {name: folder / name}


def module(cell, prefix="", *, inputs=3, units=2, layers=1, end="_l{}", seed=0):
    """The parameters of one module, under a prefix."""
    normal, rows = np.random.default_rng(seed).standard_normal, GATES[cell] * units
    found = {}
    for k in range(layers):
        at = end.format(k)
        found |= {f"{prefix}weight_ih{at}": normal((rows, units if k else inputs))}
        found |= {f"{prefix}weight_hh{at}": normal((rows, units)), f"{prefix}bias_ih{at}": normal(rows)}
        found |= {f"{prefix}bias_hh{at}": normal(rows)}
    return {name: array.astype(np.float32) for name, array in found.items()}


def inputs_for(size, seed=1):
    return np.random.default_rng(seed).standard_normal((2, 5, size)).astype(np.float32)


def alone(tensors, cell, x, prefix=""):
    """Outputs of one module: what `Network.from_weights` computes, whose values test_goldens.py holds to PyTorch's."""
    own = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
    own = {name if re.search(r"_l\d", name) else f"{name}_l0": array for name, array in own.items()}
    return Network.from_weights({"layout": "pytorch", "state_dict": own}, cell).run(x)[0]


def run(blueprint, x):
    return Network.from_blueprint(blueprint).run(x)[0]


def refused(error, files, config=None):
    """What the owner of the files is told, whether while they are read or while a network is made of them."""
    with pytest.raises(error) as caught:
        Network.from_blueprint(read(files, config))
    return caught.value


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "rnn.", "model.encoder.0.rnn."])
@pytest.mark.parametrize(("case", "golden"), [pytest.param(*pair, id=pair[0].name) for pair in RECORDED])
def test_a_file_answers_what_pytorch_did(tmp_path, case, golden, prefix):
    tensors = {f"{prefix}{name}": array for name, array in case.weights["state_dict"].items()}
    files = stored(tmp_path, tensors | {"steps": np.array(7)})
    blueprint = read(files, {"cell_options": case.cell_options} if case.cell_options else None)
    files["model.safetensors"].unlink()  # nothing of it is needed any more
    assert {layer.cell for layer in blueprint.layers} == {case.cell}
    assert {layer.name for layer in blueprint.layers} == {prefix.rstrip(".")}
    assert blueprint.ignored == ["steps"]
    net = Network.from_blueprint(blueprint, case.dtype)
    ours = net.run(poisoned(case.inputs, case.lengths), case.lengths, case.initial_state)
    assert_close(ours, (golden.outputs, golden.state), TOLERANCE[case.dtype])


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_half_floats_are_computed_with_in_float32(tmp_path, cell):
    exact = module(cell, "rnn.")
    half = {name: array.astype(np.float16) for name, array in exact.items()}
    x = inputs_for(3)
    expected = alone({name: array.astype(np.float32) for name, array in half.items()}, cell, x, "rnn.")
    assert_close(run(read(stored(tmp_path, half)), x), expected, 1e-7)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_bfloat16_is_computed_with_in_float32(tmp_path, cell):
    bits = {name: array.view("<u4") >> 16 for name, array in module(cell, "rnn.").items()}
    header, data = [], b""
    for name, array in bits.items():
        begin, data = len(data), data + array.astype("<u2").tobytes()
        shape = list(array.shape)
        header.append(f'"{name}": {{"dtype": "BF16", "shape": {shape}, "data_offsets": [{begin}, {len(data)}]}}')
    text = f"{{{', '.join(header)}}}".encode()
    path = tmp_path / "half.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    x = inputs_for(3)
    expected = alone({name: (array << 16).view(np.float32) for name, array in bits.items()}, cell, x, "rnn.")
    assert_close(run(read({"half.safetensors": path}), x), expected, 1e-7)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_cells_names_have_no_layer_and_are_one_layer(tmp_path, cell):
    """`torch.nn.LSTMCell` and its kin: weight_ih, weight_hh, bias_ih, bias_hh."""
    tensors, x = module(cell, "decoder.cell.", end=""), inputs_for(3)
    blueprint = read(stored(tmp_path, tensors))
    assert [(layer.cell, layer.name) for layer in blueprint.layers] == [(cell, "decoder.cell")]
    assert_close(run(blueprint, x), alone(tensors, cell, x, "decoder.cell."), 0)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64])
def test_whole_numbers_as_weights_are_refused_for_they_are_a_quantized_networks_codes(tmp_path, kind):
    tensors = module("gru") | {"weight_hh_l0": np.ones((6, 2), kind)}
    error = refused(UnsupportedError, stored(tmp_path, tensors))
    assert "'weight_hh_l0'" in error.detail
    assert "quantized" in error.detail


@pytest.mark.parametrize("missing", ["bias_ih_l1", "bias_hh_l0"])
def test_one_bias_without_the_other_is_refused_by_name(tmp_path, missing):
    tensors = module("gru", layers=2)
    del tensors[missing]
    assert f"{missing} missing: there is bias_" in refused(OptionError, stored(tmp_path, tensors)).detail


def test_a_learned_initial_state_is_begun_with_layer_by_layer_and_side_by_side(tmp_path):
    tensors = projected_free("lstm")
    h0, c0 = (np.random.default_rng(k).standard_normal((4, 1, 2)).astype(np.float32) for k in (1, 2))
    path = stored(tmp_path, tensors | {"h0": h0, "c0": c0})
    x = inputs_for(3)
    assert "h0" in " ".join(read(path).notes)
    net = Network.from_blueprint(read(path, {"initial_state": {"h": "h0", "c": "c0"}}))
    states = [
        {
            side: {"c": np.repeat(c0[k], len(x), 0), "h": np.repeat(h0[k], len(x), 0)}
            for side, k in zip(SIDES, ks, strict=True)
        }
        for ks in ((0, 1), (2, 3))
    ]
    plain = Network.from_blueprint(read(path))
    expected, _ = plain.run(x, initial_state=states)
    assert_close(net.run(x)[0], expected, 0)
    assert not np.array_equal(plain.run(x)[0], expected)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"h": "c5"}, "'c5' has shape [5, 1, 2], expected [4, 1, units]"),
        ({"h": "h7"}, "expected [1 or batch, 2]"),
        ({"h": "nowhere"}, "no tensor 'nowhere'"),
    ],
)
def test_an_initial_state_that_does_not_fit_is_refused_with_what_does(tmp_path, config, told):
    extra = {"c5": np.zeros((5, 1, 2), np.float32), "h7": np.zeros((4, 1, 7), np.float32)}
    path = stored(tmp_path, projected_free("lstm") | extra)
    error = refused(EngineError, path, {"initial_state": config})
    assert told in error.detail
    assert error.where[:2] == ("config", "initial_state")


SIDES = ("forward", "backward")


def projected_free(cell):
    """Two layers of two units, both ways, without a projection."""
    forward = module(cell, layers=2)
    widened = {name: np.ones((8, 4), np.float32) * 0.1 if name == "weight_ih_l1" else a for name, a in forward.items()}
    back = {f"{name}_reverse": -array for name, array in widened.items()}
    return widened | back


# -- which module ------------------------------------------------------------------------------------------------------


def two_modules():
    return module("gru", "encoder.rnn.", inputs=3, units=4) | module("lstm", "decoder.rnn.", inputs=4, units=2)


def test_several_modules_are_named_and_one_is_asked_for(tmp_path):
    error = refused(OptionError, stored(tmp_path, two_modules()))
    assert error.where == ("config", "module")
    assert "2 recurrent modules" in error.detail
    assert "'encoder.rnn' (gru)" in error.detail
    assert "'decoder.rnn' (lstm)" in error.detail


@pytest.mark.parametrize(("name", "cell", "size"), [("encoder.rnn", "gru", 3), ("decoder.rnn", "lstm", 4)])
def test_the_module_that_is_asked_for_is_read_and_the_rest_is_ignored(tmp_path, name, cell, size):
    tensors, x = two_modules(), inputs_for(size)
    blueprint = read(stored(tmp_path, tensors), {"module": name})
    assert_close(run(blueprint, x), alone(tensors, cell, x, f"{name}."), 0)
    assert blueprint.ignored == sorted(key for key in tensors if not key.startswith(f"{name}."))
    assert set(blueprint.tensors) == {key for key in tensors if key.startswith(f"{name}.")}


@pytest.mark.parametrize("name", ["encoder", "encoder.", "encoder.rnn."])
def test_a_scope_with_one_module_in_it_names_that_one(tmp_path, name):
    assert [layer.name for layer in read(stored(tmp_path, two_modules()), {"module": name}).layers] == ["encoder.rnn"]


def test_a_scope_with_several_modules_in_it_names_them(tmp_path):
    tensors = module("gru", "net.a.") | module("gru", "net.b.")
    assert (
        "'net' holds several: net.a and net.b"
        in refused(OptionError, stored(tmp_path, tensors), {"module": "net"}).detail
    )


def test_a_module_that_is_not_there_gets_the_nearest_name(tmp_path):
    error = refused(OptionError, stored(tmp_path, two_modules()), {"module": "encoder.rn"})
    assert "did you mean `encoder.rnn`?" in error.detail
    assert error.where == ("config", "module")


def test_listed_modules_are_stacked_in_that_order(tmp_path):
    tensors, x = two_modules(), inputs_for(3)
    blueprint = read(stored(tmp_path, tensors), {"module": ["encoder.rnn", "decoder.rnn"]})
    below = alone(tensors, "gru", x, "encoder.rnn.")
    assert_close(run(blueprint, x), alone(tensors, "lstm", below, "decoder.rnn."), 1e-6)
    assert [layer.cell for layer in blueprint.layers] == ["gru", "lstm"]
    assert blueprint.tensors["decoder.rnn.weight_hh_l0"] == "layers.1.forward.weight_hh"
    assert blueprint.ignored == []


def test_a_module_list_of_cells_is_stacked_by_name(tmp_path):
    """`ModuleList([LSTMCell(3, 2), LSTMCell(2, 2)])`: cells.0.weight_ih, cells.1.weight_ih, …"""
    tensors = module("lstm", "cells.0.", end="") | module("lstm", "cells.1.", inputs=2, end="", seed=1)
    x = inputs_for(3)
    below = alone(tensors, "lstm", x, "cells.0.")
    blueprint = read(stored(tmp_path, tensors), {"module": ["cells.0", "cells.1"]})
    assert_close(run(blueprint, x), alone(tensors, "lstm", below, "cells.1."), 1e-6)


def test_modules_that_do_not_fit_on_each_other_are_refused(tmp_path):
    files = stored(tmp_path, two_modules())
    detail = refused(ShapeError, files, {"module": ["decoder.rnn", "encoder.rnn"]}).detail
    assert "takes 3" in detail
    assert "puts out 2" in detail


def test_a_message_about_very_many_modules_stays_short(tmp_path):
    tensors = {f"m{k}.{name}": np.zeros(1, np.float32) for k in range(3000) for name in ("weight_hh", "bias_hh")}
    files = stored(tmp_path, tensors)
    assert len(refused(OptionError, files).detail) < 4000
    assert len(refused(OptionError, files, {"module": "x"}).detail) < 4000


# -- which cell --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["gru", "GRU", "GRUCell"])
def test_a_cell_that_is_told_may_be_what_the_shapes_say(tmp_path, said):
    assert read(stored(tmp_path, module("gru")), {"cell": said}).layers[0].cell == "gru"


def test_a_cell_that_contradicts_the_shapes_is_refused(tmp_path):
    error = refused(OptionError, stored(tmp_path, module("gru", "rnn.")), {"cell": "lstm"})
    assert error.where == ("config", "cell")
    assert "'lstm'" in error.detail
    assert "'rnn'" in error.detail
    assert "gru" in error.detail


def test_an_unknown_cell_is_refused_with_the_known_ones(tmp_path):
    error = refused(OptionError, stored(tmp_path, module("gru")), {"cell": "lstmm"})
    assert error.where == ("config", "cell")
    assert "id you mean `lstm`?" in error.detail


def test_a_plain_rnns_nonlinearity_is_assumed_until_it_is_told(tmp_path):
    files = stored(tmp_path, module("rnn"))
    (sentence,) = read(files).assumed
    assert sentence.startswith("activation: tanh")
    told = read(files, {"cell_options": {"activation": "relu"}})
    assert told.assumed == []
    assert told.layers[0].options["activation"] == "relu"


def test_a_nonlinearity_that_is_told_in_onnx_words_is_no_assumption_any_more(tmp_path):
    assert read(stored(tmp_path, module("rnn")), {"cell_options": {"activations": ["Relu"]}}).assumed == []


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_of_a_gru_and_an_lstm_nothing_is_assumed(tmp_path, cell):
    assert read(stored(tmp_path, module(cell))).assumed == []


# -- what does not fit -------------------------------------------------------------------------------------------------

# Which tensor of a two-layer, two-way LSTM with projection (inputs 3, units 4, projected to 2) gets which shape.
WRONG = {
    "weight_ih_l0": ((15, 3), "[16, input_size]"),
    "weight_hh_l0": ((16, 3), "[16, 2]"),
    "bias_ih_l0": ((15,), "[16]"),
    "bias_hh_l0_reverse": ((16, 1), "[16]"),
    "weight_hr_l0": ((2, 5), "[proj_size, 4]"),
    "weight_ih_l1": ((16, 3), "[16, 4]"),
    "weight_hh_l1_reverse": ((16, 3), "[16, 2]"),
}


def projected():
    shapes = {"weight_hh": (16, 2), "bias_ih": (16,), "bias_hh": (16,), "weight_hr": (2, 4)}
    ends = [f"_l{k}{side}" for k in range(2) for side in ("", "_reverse")]
    found = {f"enc.{name}{end}": np.zeros(shape, np.float32) for end in ends for name, shape in shapes.items()}
    return found | {f"enc.weight_ih{end}": np.zeros((16, 3 if "0" in end else 4), np.float32) for end in ends}


def test_the_net_whose_shapes_are_spoiled_below_is_read_as_it_is(tmp_path):
    net = Network.from_blueprint(read(stored(tmp_path, projected())))
    assert net.description["state_size"] == [{side: {"c": 4, "h": 2} for side in ("forward", "backward")}] * 2


@pytest.mark.parametrize("name", WRONG)
def test_a_shape_that_disagrees_is_told_by_tensor_with_what_was_expected(tmp_path, name):
    shape, expected = WRONG[name]
    error = refused(EngineError, stored(tmp_path, projected() | {f"enc.{name}": np.zeros(shape, np.float32)}))
    assert f"enc.{name}" in error.detail
    assert str(list(shape)) in error.detail
    assert expected in error.detail
    assert error.where[0] in ("files", "weights")


@pytest.mark.parametrize("shape", [(9, 4), (8, 4, 1), (8,), (8, 0)], ids=str)
def test_a_recurrent_matrix_that_fits_no_cell_is_named_with_its_shape(tmp_path, shape):
    error = refused(EngineError, stored(tmp_path, module("lstm", "rnn.") | {"rnn.weight_hh_l0": np.zeros(shape, "f4")}))
    assert "weight_hh_l0" in error.detail
    assert str(list(shape)) in error.detail


@pytest.mark.parametrize("missing", ["weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1_reverse"])
def test_a_missing_tensor_is_named_with_what_is_there(tmp_path, missing):
    tensors = projected()
    del tensors[f"enc.{missing}"]
    error = refused(EngineError, stored(tmp_path, tensors))
    assert f"{missing} missing" in error.detail
    assert missing.replace("ih", "??").replace("hh", "ih").replace("??", "hh") in error.detail.partition("missing")[2]
    assert "'enc'" in error.detail


def test_a_missing_layer_is_told(tmp_path):
    tensors = {name: array for name, array in module("gru", layers=3).items() if "_l1" not in name}
    assert "layers 0 and 2" in refused(OptionError, stored(tmp_path, tensors)).detail


def test_a_file_without_recurrent_layers_tells_what_it_has(tmp_path):
    files = stored(tmp_path, {"fc.weight": np.zeros((2, 2), np.float32), "fc.bias": np.zeros(2, np.float32)})
    error = refused(UnsupportedError, files)
    assert "'fc.bias'" in error.detail
    assert "'fc.weight'" in error.detail
    assert "no tensors at all" in refused(UnsupportedError, stored(tmp_path, {}, "empty.safetensors")).detail


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_weight_that_is_not_finite_is_named(tmp_path, value, kind):
    tensors = {name: array.astype(kind) for name, array in module("lstm", "enc.", layers=2).items()}
    tensors["enc.weight_hh_l1"][3, 1] = value
    error = refused(NonFiniteError, stored(tmp_path, tensors))
    assert "'enc.weight_hh_l1'" in error.detail
    assert "not finite" in error.detail
    assert error.where == ("files",)


@pytest.mark.parametrize("name", ["weight_ih_l" + "1" * 5000, "weight_ih_l00", "weight_ih_l٣", "weight_ih_l-1"])
def test_odd_layer_numbers_are_refused_or_ignored_and_nothing_else(tmp_path, name):
    tensors = module("gru", "rnn.")
    files = stored(tmp_path, tensors | {f"rnn.{name}": tensors["rnn.weight_ih_l0"]})
    try:
        assert read(files).ignored == [f"rnn.{name}"]
    except EngineError as error:
        assert name[:20] in error.detail  # noqa: PT017
        assert len(error.detail) < 2000  # noqa: PT017


# -- several files -----------------------------------------------------------------------------------------------------


def test_a_model_may_be_spread_over_several_files(tmp_path):
    tensors, x = module("lstm", "rnn.", layers=2), inputs_for(3)
    names = sorted(tensors)
    files = stored(tmp_path, {name: tensors[name] for name in names[::2]}, "model-00001-of-00002.safetensors")
    files |= stored(tmp_path, {name: tensors[name] for name in names[1::2]}, "model-00002-of-00002.safetensors")
    assert_close(run(read(files), x), alone(tensors, "lstm", x, "rnn."), 0)


def test_a_tensor_in_two_files_is_refused_by_name(tmp_path):
    files = stored(tmp_path, module("gru", "a."), "1.safetensors") | stored(
        tmp_path, module("gru", "a."), "2.safetensors"
    )
    assert "the tensor 'a." in refused(OptionError, files).detail


def test_of_several_files_the_broken_one_is_named(tmp_path):
    files = stored(tmp_path, module("gru", "a."), "1.safetensors") | stored(
        tmp_path, {"b": np.ones(9)}, "2.safetensors"
    )
    files["2.safetensors"].write_bytes(files["2.safetensors"].read_bytes()[:-1])
    error = refused(FormatError, files)
    assert error.detail.startswith("2.safetensors is not a safetensors file")
    assert error.where == ("files", "2.safetensors")


def test_what_was_read_is_independent_of_the_file(tmp_path):
    blueprint = read(stored(tmp_path, module("gru") | {"e": np.ones((4, 3), np.float32)}), {"embedding": "e"})
    arrays = blueprint.to_parts()[1]
    assert arrays
    assert all(array.flags.owndata and array.flags.writeable for array in arrays.values())
    assert safetensors.read(tmp_path / "model.safetensors")[1]["e"].tolist() == np.ones((4, 3)).tolist()


@pytest.mark.parametrize(("dtype", "kind"), [("F32", "<f4"), ("F16", "<f2"), ("BF16", "<u2")])
def test_reading_takes_under_two_and_a_half_times_the_files_size(tmp_path, dtype, kind):
    shapes = {"weight_ih_l0": (1024, 256), "weight_hh_l0": (1024, 256), "emb": (4000, 256)}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * np.dtype(kind).itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text, path = json.dumps(header).encode(), tmp_path / "large.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))
    tracemalloc.start()
    try:
        read({path.name: path}, {"embedding": "emb"})
        assert tracemalloc.get_traced_memory()[1] < 2.5 * path.stat().st_size
    finally:
        tracemalloc.stop()
