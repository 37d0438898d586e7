"""What computes a network: a kernel where there is one, else the loop; and that nobody can tell but by its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from rnn_engine import GRUCell, LSTMCell, Network, kernels, set_kernel
from rnn_engine.blueprint import Blueprint
from rnn_engine.errors import OptionError
from rnn_engine.kernels import host, library
from rnn_engine.kernels.host import host_of
from rnn_engine.kernels.specs import KNOWN, LSTMSpec, spec_of
from rnn_engine.kernels.tile import TILES
from tests.rnn_engine import assert_close, assert_same
from tests.rnn_engine.kernels.nets import BOTH, OPTIONS, example, layer, rows_of
from tests.rnn_engine.kernels.tiles import needs_kernels

pytestmark = needs_kernels

ROOT = Path(__file__).parents[3]
X = np.random.default_rng(0).uniform(-1, 1, (3, 4, 5)).astype(np.float32)


@pytest.fixture(autouse=True)
def _as_it_was_chosen_before():
    yield
    set_kernel("auto")


@pytest.fixture
def unknown(monkeypatch):
    """As if no kernel had been looked for yet, and none will be found beyond this test."""
    monkeypatch.setattr(kernels, "_found", [])


def in_process(code):
    """What a Python without llvmlite prints."""
    blocked = f"import sys; sys.modules['llvmlite'] = None\n{code}"
    command = [sys.executable, "-W", "error", "-c", blocked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


# -- which -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "options"), OPTIONS.values(), ids=OPTIONS)
def test_kernels_compute_every_cell_with_every_option_in_float32(cell, options):
    blueprint = Blueprint([layer(np.random.default_rng(1), cell, 5, 4, BOTH, options)], "keras")
    assert Network.from_blueprint(blueprint).kernel == "fused"
    assert Network.from_blueprint(blueprint, "float64").kernel == "numpy"
    assert Network.from_blueprint(blueprint).with_kernel("numpy").kernel == "numpy"
    assert Network.from_blueprint(blueprint).with_kernel("numpy").with_kernel("auto").kernel == "fused"


@pytest.mark.parametrize(
    ("cell", "options", "kernel"),
    [
        ("rnn", {"activation": "gelu"}, "numpy"),
        ("rnn", {"activation": "leaky_relu"}, "numpy"),
        ("gru", {"activation": "elu"}, "numpy"),
        ("gru", {"recurrent_activation": "softsign"}, "numpy"),
        ("lstm", {"activation": "softplus"}, "numpy"),
        ("lstm", {"recurrent_activation": "selu"}, "numpy"),
        ("lstm", {"output_activation": "silu"}, "numpy"),
        ("gru", {"recurrent_activation": {"name": "hard_sigmoid", "alpha": 0.3}}, "numpy"),
        ("gru", {"recurrent_activation": {"name": "hard_sigmoid", "alpha": 0.2, "beta": 0.5}}, "fused"),
        ("rnn", {"activation": "HardSigmoid"}, "fused"),
        ("rnn", {"activations": ["Relu"]}, "fused"),
        ("rnn", {"activations": ["HardSigmoid"], "activation_alpha": [0.3]}, "numpy"),
        ("lstm", {"activations": ["Sigmoid", "Tanh", "Tanh"] * 2, "direction": "bidirectional"}, "fused"),
        (
            "lstm",
            {"activations": ["Sigmoid", "Tanh", "Tanh", "Elu", "Tanh", "Tanh"], "direction": "bidirectional"},
            "numpy",
        ),
    ],
)
def test_the_loop_computes_activations_that_no_kernel_knows(cell, options, kernel):
    planned = Network.planned(cell, [4, 3], 5, cell_options=options)
    assert planned.kernel == planned.description["kernel"] == kernel
    net = planned.initialize(1)
    assert net.kernel == net.description["kernel"] == kernel
    assert_close(net.run(X), net.with_kernel("numpy").run(X), 1e-6)


def test_one_layer_that_no_kernel_knows_makes_it_the_loops_but_not_wrong():
    random = np.random.default_rng(2)
    known, other = (
        layer(random, "gru", 5, 5, BOTH, {"reset_after": True}),
        layer(random, "rnn", 10, 5, options={"activation": "elu"}),
    )
    for plans in ([known, other], [layer(random, "rnn", 5, 5, options={"activation": "elu"}), known]):
        table = random.uniform(-1, 1, (7, 5)).astype(np.float32)
        for embedding in (None, table):
            ex = example(random, Blueprint(plans, "keras", embedding=embedding), [3, 4, 0], 4, with_state=True)
            net, exact = ex.net(), ex.net("float64").run(*ex.batch(dtype="float64"))
            assert net.kernel == "numpy"
            outputs, state = net.run(*ex.batch())
            np.testing.assert_allclose(outputs, exact[0], rtol=0, atol=1e-6)
            batch = net.pack(*ex.batch()[:2])
            assert_same(net.forward(batch, ex.state, gates=True).outputs.padded(), outputs)
            assert_close(state, rows_of(exact[1], slice(None)), 1e-6)


def test_the_description_tells_what_computes_and_follows():
    net = Network.from_seed("lstm", 4, 5)
    assert net.description["kernel"] == "fused"
    assert net.with_kernel("numpy").description["kernel"] == "numpy"
    assert net.planned_in("float64").description["kernel"] == "numpy"
    assert net.planned_in("float64").planned_in("float32").description["kernel"] == "fused"
    assert net.description["kernel"] == "fused"


def test_networks_made_after_set_kernel_compute_with_what_it_said_and_others_as_before():
    before = Network.from_seed("gru", 4, 5)
    set_kernel("numpy")
    after = Network.from_seed("gru", 4, 5)
    assert (before.kernel, after.kernel, after.with_kernel("auto").kernel) == ("fused", "numpy", "fused")
    assert_close(before.run(X), after.run(X), 1e-6)
    for choice in ("fused", "auto"):
        set_kernel(choice)
        assert Network.from_seed("gru", 4, 5).kernel == "fused"


def test_set_kernel_refuses_what_it_does_not_know_and_stays_with_what_was_chosen():
    set_kernel("numpy")
    with pytest.raises(
        OptionError, match=r"kernel is 'nunpy': did you mean `numpy`\? Known: auto, fused, numpy"
    ) as caught:
        set_kernel("nunpy")
    assert caught.value.where == ("kernel",)
    with pytest.raises(OptionError, match="kernel is None"):
        set_kernel(None)
    assert Network.from_seed("rnn", 2, 5).kernel == "numpy"


def test_new_weights_are_packed_anew():
    net = Network.from_seed("gru", 4, 5, 1)
    first, _ = net.run(X)
    net.step(X[:, 0])
    net.initialize(2)
    assert_same(net.run(X), Network.from_seed("gru", 4, 5, 2).run(X))
    assert_same(net.step(X[:, 0]), Network.from_seed("gru", 4, 5, 2).step(X[:, 0]))
    assert np.abs(net.run(X)[0] - first).max() > 0.01


def test_once_a_process_has_compiled_as_many_kinds_of_cells_as_it_may_the_loop_computes_the_rest(monkeypatch):
    net = Network.from_seed("lstm", 4, 5, cell_options={"activation": "relu", "output_activation": "hard_sigmoid"})
    known = Network.from_seed("lstm", 4, 5)
    assert known.run(X)[0].any()
    assert kernels.costs(net.layers[0].first)
    assert not kernels.costs(known.layers[0].first)
    monkeypatch.setattr(library, "MOST_SPECS", 0)
    assert (net.kernel, known.kernel) == ("numpy", "fused")
    assert_same(net.run(X), net.with_kernel("numpy").run(X))


# -- of what, where ----------------------------------------------------------------------------------------------------


def test_what_is_compiled_in_are_the_options_that_change_the_code():
    cell = LSTMCell(7, use_peepholes=True, cell_clip=2.0, num_proj=3, forget_bias=2.0, clip=1.0, input_forget=True)
    assert spec_of(cell) == LSTMSpec(use_peepholes=True, clips=True, clips_cell=True, input_forget=True, projects=True)
    assert spec_of(LSTMCell(9, proj_clip=1.0)) == LSTMSpec()  # there is nothing to clip
    assert spec_of(LSTMCell(9, activation="relu")) == LSTMSpec("relu", output_activation="relu")
    assert spec_of(GRUCell(3, "gelu")) is None
    assert {spec_of(GRUCell(3, name)).activation for name in KNOWN} == set(KNOWN)


@pytest.mark.parametrize(
    ("triple", "has", "instructions"),
    [
        ("x86_64-unknown-linux-gnu", {"avx512f", "avx512vl", "avx2", "fma"}, "AVX-512"),
        ("x86_64-unknown-linux-gnu", {"avx512f", "avx2", "fma"}, "AVX2"),
        ("x86_64-unknown-linux-gnu", {"avx2", "fma", "sse4.2"}, "AVX2"),
        ("x86_64-unknown-linux-gnu", {"avx2"}, ""),
        ("x86_64-unknown-linux-gnu", {"sse4.2", "avx"}, ""),
        ("aarch64-unknown-linux-gnu", {"neon", "sve"}, "NEON"),
        ("arm64-apple-darwin23.0.0", set(), "NEON"),
        ("riscv64-unknown-linux-gnu", {"v"}, ""),
    ],
)
def test_the_best_tile_that_the_instructions_allow_is_chosen(triple, has, instructions):
    found = host_of("cpu", triple, frozenset(has), "+some")
    tile = TILES[instructions][1] if instructions else None
    assert found == host.Host("cpu", "+some", instructions, tile)


def test_on_a_processor_that_no_tile_fits_the_loop_computes_and_it_is_told_why(monkeypatch, unknown):
    monkeypatch.setattr(library, "this_host", lambda: host.Host("i486", "", "", None))
    reason = "the processor (i486) has none of the instruction sets that kernels are written for"
    assert kernels.here() is None
    assert kernels.why_not() == reason
    assert kernels.report() == {"kernel": "numpy", "because": reason}
    assert kernels.told() == f"the plain loop computes: {reason}"
    kernels.prepare()
    net = Network.from_seed("lstm", 4, 5)
    assert net.kernel == "numpy"
    assert_same(net.prepare().run(X), net.with_kernel("numpy").run(X))
    with pytest.raises(OptionError, match=r"no fused kernel here: the processor \(i486\)") as caught:
        set_kernel("fused")
    assert caught.value.where == ("kernel",)


def test_what_llvm_finds_wrong_is_told_and_the_loop_computes(monkeypatch, unknown, caplog):
    def fails(*_):
        raise RuntimeError("no such target")

    monkeypatch.setattr(library.Library, "load", fails)
    assert kernels.why_not() == "LLVM compiles no kernels here: no such target"
    assert "no kernels: no such target" in caplog.text
    assert Network.from_seed("lstm", 4, 5).kernel == "numpy"


def test_where_there_are_kernels_nothing_speaks_against_them():
    assert kernels.why_not() == ""
    report, found = kernels.report(), kernels.here()
    assert (report["kernel"], report["instructions"]) == ("fused", found.host.instructions)
    assert report["tile"] == str(TILES[report["instructions"]][1])
    assert {*report["compiled"], *report["cached"]} == set(found.seconds)
    kernels.prepare()
    assert not any(kernels.costs(cell) for cell in (LSTMCell(3), GRUCell(3), GRUCell(3, reset_after=True)))
    assert f"{found.host.instructions} ({found.host.cpu}), tile {found.tile}, compiled " in kernels.told()


def test_without_llvmlite_the_loop_computes_and_it_is_told_what_to_install():
    told = in_process("""
import numpy as np
from rnn_engine import Network, kernels, set_kernel
net = Network.from_seed("lstm", 4, 5)
x = np.linspace(-1, 1, 60, dtype=np.float32).reshape(3, 4, 5)
print(net.kernel, net.description["kernel"], net.run(x)[0].tobytes().hex(), net.step(x[:, 0])[0].tobytes().hex())
print(kernels.why_not())
kernels.prepare()
try:
    set_kernel("fused")
except ValueError as error:
    print(error)
""")
    first, why_not, refusal = told.splitlines()
    net = Network.from_seed("lstm", 4, 5).with_kernel("numpy")
    x = np.linspace(-1, 1, 60, dtype=np.float32).reshape(3, 4, 5)
    assert first == f"numpy numpy {net.run(x)[0].tobytes().hex()} {net.step(x[:, 0])[0].tobytes().hex()}"
    assert why_not.startswith("llvmlite cannot be imported")
    assert why_not.endswith('install it, or the extra "fused"')
    assert refusal == f"there is no fused kernel here: {why_not}; or use auto"


def test_without_llvmlite_the_engine_passes_its_own_tests():
    in_process("""
import pytest
files = ["tests/rnn_engine/test_goldens.py", "tests/rnn_engine/test_network.py"]
sys.exit(pytest.main([*files, "-x", "-q", "-p", "no:cacheprovider", "-m", "not hypothesis"]))
""")
