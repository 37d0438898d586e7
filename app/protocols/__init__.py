"""Protocols that other people's clients speak, translated to the fields of /run and from its answers."""
