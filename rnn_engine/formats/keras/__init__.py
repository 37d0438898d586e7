"""Keras' files. What each module of this package does, from the ground up:

- activations: Keras' names of activations -> specs
- defaults: what each version of Keras does where a file does not say it
- config: a model's config -> its layers, along one path
- archive: the zip that a `.keras` file is
- variables: which of a file's datasets belong to which layer
- recurrent: a recurrent layer, with its variables -> a Module
- layers: every other kind of layer, and what they make of the net
- weights: files of weights alone
- reader: a file -> Contents
"""

from rnn_engine.formats.keras.reader import read

__all__ = ["read"]
