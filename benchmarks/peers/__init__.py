"""Services that people write themselves, or take instead: each a file that is started by itself."""
