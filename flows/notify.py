"""Have nightly runs that go wrong reported to a webhook: `python -m flows.notify URL`.

It makes the automations of deploy/failed-nightly.yaml on the Prefect server, which then sends what
they say by itself, and changes those that it made earlier. No process stays behind.
"""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

import yaml
from prefect import get_client
from prefect.blocks.webhook import Webhook
from prefect.events.schemas.automations import AutomationCore

from flows.serve import server_problem

AUTOMATIONS = Path("deploy", "failed-nightly.yaml")
BLOCK = "grpo-pipeline-nightly"


def main() -> None:
    parser = argparse.ArgumentParser(description="Report nightly runs that fail or do not start.")
    parser.add_argument("url", help="the webhook's address, such as https://hooks.slack.com/...")
    url = parser.parse_args().url
    if not url.startswith(("http://", "https://")):
        sys.exit(f"{url!r} is no address of a webhook: it begins with http:// or https://.")
    if problem := server_problem():
        sys.exit(problem)
    automations = yaml.safe_load(AUTOMATIONS.read_text())["automations"]
    asyncio.run(report(url, automations))
    for wanted in automations:
        print(f"Reported: {wanted['name']}")


async def report(url: str, automations: list[dict[str, Any]]) -> None:
    """Make the automations on the Prefect server, each of whose actions calls the webhook."""
    webhook = Webhook(url=url, headers={"Content-Type": "application/json"})
    block = await webhook.save(BLOCK, overwrite=True)
    async with get_client() as client:
        for wanted in automations:
            actions = [{**action, "block_document_id": block} for action in wanted["actions"]]
            new = AutomationCore.model_validate({**wanted, "actions": actions})
            if made := await client.read_automations_by_name(new.name):
                await client.update_automation(made[0].id, new)
            else:
                await client.create_automation(new)


if __name__ == "__main__":
    main()
