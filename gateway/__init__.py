"""The gateway: from a WebSocket session to an upstream and back."""
