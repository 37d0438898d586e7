"""What faults.py and soak.py share: a server as a process that is watched, and clients of every kind."""
