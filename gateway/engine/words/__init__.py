"""Reading a prompt: what things, colours, counts and places its words name."""
