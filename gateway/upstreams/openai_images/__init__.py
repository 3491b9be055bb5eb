"""OpenAI Images, and servers that speak it."""

from gateway.upstreams.openai_images.adapter import ImageModel, OpenAIImages

__all__ = ["ImageModel", "OpenAIImages"]
