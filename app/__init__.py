"""The service: HTTP around `rnn_engine`."""

__version__ = "0.1.0"
