"""A stand-in of Stability AI v2beta stable-image: its endpoints, answers, errors, credits and rate limit.

    async with StabilityV2Beta(key="sk-test", credits=100.0) as standin:
        ...  # send forms to standin.url, then look at standin.log, standin.form(1) and standin.credits

From a shell, `python -m load.upstreams.stability_v2beta --port 8082` prints one line of JSON with the address
when it is ready and runs until SIGTERM. What is known of the vendor and what is a guess stands in
PROVENANCE.md beside this file; what each operation does to pixels stands in `paint`.
"""

from load.upstreams.stability_v2beta.service import StabilityV2Beta, Words
from load.upstreams.stability_v2beta.trouble import Lose, RefuseWithoutId

__all__ = ["Lose", "RefuseWithoutId", "StabilityV2Beta", "Words"]
