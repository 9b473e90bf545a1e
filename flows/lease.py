"""The slot of a deployment that runs one at a time, kept while the Prefect server comes and goes.

Prefect ends a run, and its training, whose lease it could not renew three times (3.8): about seven
seconds after a renewal finds no server, with one due every few minutes.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from httpx import HTTPStatusError, TransportError
from prefect import flow_engine, get_client

logger = logging.getLogger("prefect.flows")

RETRY_S = 5


@asynccontextmanager
async def kept(lease_id: UUID, lease_duration: float, **_: Any) -> AsyncIterator[None]:
    """Renew a lease, again and again, while the block runs; what fails never ends the block."""
    renewing = asyncio.create_task(_renew(lease_id, lease_duration))
    try:
        yield
    finally:
        renewing.cancel()


async def _renew(lease_id: UUID, seconds: float) -> None:
    while True:
        try:
            async with get_client() as client:
                await client.renew_concurrency_lease(lease_id=lease_id, lease_duration=seconds)
        except (TransportError, HTTPStatusError) as error:
            logger.debug("the lease of this run's slot is not renewed: %s", error)
            await asyncio.sleep(RETRY_S)
        else:
            await asyncio.sleep(seconds / 2)


def keep() -> None:
    """Let Prefect's engine keep leases this way; it has no setting for it."""
    flow_engine.amaintain_concurrency_lease = kept
