"""The command `safelight`."""
