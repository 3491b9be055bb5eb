"""The adapters of `gateway.ports.Upstream`, one file a vendor."""
