"""OpenAI's Images API as a door."""

from gateway.edges.compat.openai_images.routes import OpenaiImagesDoor

__all__ = ["OpenaiImagesDoor"]
