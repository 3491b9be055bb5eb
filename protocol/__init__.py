"""The Safelight wire protocol: pure, sans I/O, and the ground under every other package."""
