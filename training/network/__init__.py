"""The network: what it is shown, how it is trained, and what ships of it."""
