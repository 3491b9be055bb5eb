"""The absolute addresses that events carry, for one tenant."""

from gateway.flow.access import Access


class TenantLinks:
    """See `protocol.tail.Links`."""

    def __init__(self, public_url: str, access: Access, tenant: str) -> None:
        self._base = public_url.rstrip("/")
        self._access = access
        self._tenant = tenant

    def asset(self, job: str, asset: str, time_ms: int) -> tuple[str, int]:
        query, expires_in_ms = self._access.asset_query(self._tenant, asset, time_ms)
        return f"{self._base}/v1/assets/{asset.removeprefix('sha256:')}?sig={query}", expires_in_ms

    def events(self, job: str, time_ms: int) -> str:
        return self.events_by(job, self._access.events_grant(job, time_ms))

    def events_by(self, job: str, grant: str) -> str:
        """Return the address of a job's stream for whoever holds `grant`."""
        return f"{self._base}/v1/jobs/{job}/events?sig={grant}"

    def preview_by(self, job: str, grant: str, policy: str) -> str:
        """Return the address of a job's newest preview; `policy` is the rest of its query."""
        return f"{self._base}/v1/jobs/{job}/preview?{policy}&sig={grant}"
