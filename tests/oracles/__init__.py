"""Other people's implementations, asked for the answers ours must equal."""
