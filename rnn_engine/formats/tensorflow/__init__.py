"""TensorFlow's checkpoints. What each module of this package does, from the ground up:

- checkpoint: the container: its index, its data files, its checksums
- object_graph: the names that variables had before TensorFlow 2 numbered them
- cells: variables' names -> cells
- reader: cells -> Contents
"""

from rnn_engine.formats.tensorflow.reader import TAIL, read

__all__ = ["TAIL", "read"]
