"""The contract suite: every kind of upstream behind a real gateway, against its stand-in."""
