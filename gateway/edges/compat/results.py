"""From a job's end to what a dialect can tell: each picture once, those that a filter held back among them."""

from typing import Final

from gateway.edges.compat.dialect import Piece, Result, Trouble
from gateway.flow.feeds import Feed
from gateway.flow.node import Node
from protocol.errors import ClientFault
from protocol.messages import Canceled, Completed, Failed, Image

_CANCELED: Final = {"deadline": "the job's deadline passed", "operator": "the operator canceled the job"}


async def collect(node: Node, feed: Feed) -> Result:
    """Return what a job came to that has ended. Raises `Trouble` if it did not end well."""
    job = feed.tail.job
    end = feed.tail.event(feed.tail.head)
    match end:
        case Failed():
            raise Trouble.of(end.error, job)
        case Canceled(by="deadline"):
            raise Trouble("deadline_exceeded", _CANCELED["deadline"], job=job)
        case Canceled():
            raise Trouble("canceled", _CANCELED.get(end.by, "the job was canceled"), job=job)
    assert isinstance(end, Completed), "only an end ends a feed"
    return await _whole(node, feed, end)


async def _whole(node: Node, feed: Feed, end: Completed) -> Result:
    job = feed.tail.job
    request, record = await node.jobs.request(job), await node.jobs.find(job)
    if request is None or record is None:
        raise Trouble("job_not_found", "there is no such job", job=job)
    delivered = {image.index: image for image in end.images}
    pieces = []
    for index in range(request.n):
        image = delivered.get(index)
        if image is None:
            pieces.append(Piece(index, request.seed + index, request.width, request.height))
        else:
            pieces.append(await _piece(node, feed.tenant, image, request.seed + index, job))
    return Result(job, request, tuple(pieces), record.created_ms)


async def _piece(node: Node, tenant: str, image: Image, seed: int, job: str) -> Piece:
    try:
        stored = await node.pictures.fetch(tenant, image.asset)
    except ClientFault as fault:
        raise Trouble("expired", "the picture is past its retention", details=fault.details, job=job) from fault
    told = image.seed if isinstance(image.seed, int) else seed
    return Piece(image.index, told, image.w, image.h, image.format, stored.content, image.asset)
