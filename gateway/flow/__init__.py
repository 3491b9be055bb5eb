"""Asynchronous, but without network: what happens in which order, spoken through ports only."""
