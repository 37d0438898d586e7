"""ONNX models. What each module of this package does, from the ground up:

- tensors: TensorProto -> arrays
- model: ModelProto -> graphs of nodes
- values: what a tensor of a graph is while the graph is traced
- shapes: operators that move elements about
- constants: operators on arrays that are known
- recurrent: the nodes RNN, GRU and LSTM
- dense: what may stand behind them
- operators: one node at a time
- trace: runs a graph on element numbers
- outputs: what the graph's outputs are
- probe: runs a graph twice, with different sizes, and compares
- alone: one recurrent node without the graph around it
- reader: a file -> Contents
"""

from rnn_engine.formats.onnx.reader import read

__all__ = ["read"]
