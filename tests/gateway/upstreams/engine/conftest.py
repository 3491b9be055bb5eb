from tests.gateway.upstreams.engine.talk import engine

__all__ = ["engine"]
