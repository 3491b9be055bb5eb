"""A stand-in of the OpenAI Images API and of the self-hosted servers that speak it.

    async with OpenAIImages(service_time=0.03) as standin:
        ...  # send requests to standin.url, then look at standin.calls and standin.log

From a shell, `python -m load.upstreams.openai_images --port 8081` prints one line of JSON with the address when it is
ready and runs until SIGTERM. What is known of the vendor and what is a guess stands in PROVENANCE.md.
"""

from load.upstreams.openai_images.server import OpenAIImages as OpenAIImages
