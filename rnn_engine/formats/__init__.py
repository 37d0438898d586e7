"""Files of trained models, one module a format: bytes -> named arrays, and what the file says of the architecture.

`rnn_engine.formats.files.read(files, config)` reads any of them into a Blueprint, of which a Network is made.
"""
