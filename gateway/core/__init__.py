"""Pure decisions: values in, decisions out; no clock, no chance, no I/O of its own."""
