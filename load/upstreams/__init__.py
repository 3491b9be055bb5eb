"""Stand-ins that speak the vendors' dialects over real sockets, with scripted latency, limits and faults."""
