"""Recurrent networks in NumPy: TensorFlow's cells and loops under their own names, and `Network` on top of them."""

from rnn_engine.cells import BasicLSTMCell, BasicRNNCell, GRUCell, LSTMCell, RNNCell
from rnn_engine.errors import EngineError
from rnn_engine.forward import Forward
from rnn_engine.kernels import set_kernel
from rnn_engine.network import Network
from rnn_engine.packed import PackedBatch
from rnn_engine.readout import softmax
from rnn_engine.threads import set_threads
from rnn_engine.types import LSTMStateTuple
from rnn_engine.unroll import (
    bidirectional_dynamic_rnn,
    dynamic_rnn,
    raw_rnn,
    stack_bidirectional_dynamic_rnn,
)
from rnn_engine.wrappers import DropoutWrapper, MultiRNNCell, ResidualWrapper

__all__ = [
    "BasicLSTMCell",
    "BasicRNNCell",
    "DropoutWrapper",
    "EngineError",
    "Forward",
    "GRUCell",
    "LSTMCell",
    "LSTMStateTuple",
    "MultiRNNCell",
    "Network",
    "PackedBatch",
    "RNNCell",
    "ResidualWrapper",
    "bidirectional_dynamic_rnn",
    "dynamic_rnn",
    "raw_rnn",
    "set_kernel",
    "set_threads",
    "softmax",
    "stack_bidirectional_dynamic_rnn",
]
