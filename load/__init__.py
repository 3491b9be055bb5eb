"""Both ends of a load test, each a black box to the gateway: nothing here imports the gateway."""
