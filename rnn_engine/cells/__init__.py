"""The cells: one time step each, `(output, next_state) = cell.call(inputs, state)`.

There is one RNN, one LSTM and one GRU. What tells TensorFlow's, PyTorch's, Keras' and ONNX' apart are fields (an
activation, a clip, where a GRU resets) and the layout of the weights, which `layouts/` turns into the canonical
parameters that stand here, one block a gate:

    kernel            [G, D, U]   the inputs' weights         bias            [G, U]   optional
    recurrent_kernel  [G, O, U]   the output's weights        recurrent_bias  [G, U]   optional: a second bias

Gate order: lstm i, f, o, g; gru r, z, n (z is TensorFlow's u). The sigmoid gates stand together, so that one call
activates them, and each gate of many rows is one block of memory.

A step is split in two, because the inputs' product does not wait for the state: `project` does it for many steps in
one matrix product, `advance` does the rest of one step without allocating.
"""

from rnn_engine.cells.base import RNNCell, WeightedCell
from rnn_engine.cells.gru import GRUCell
from rnn_engine.cells.lstm import BasicLSTMCell, LSTMCell
from rnn_engine.cells.rnn import BasicRNNCell

__all__ = ["BasicLSTMCell", "BasicRNNCell", "GRUCell", "LSTMCell", "RNNCell", "WeightedCell"]
