"""`tinker-actors model`: the base models on offer."""

import click

from tinker_actors.cli.service import answer, asks_service, rest_client, show

__all__ = ["model"]


@click.group()
def model() -> None:
    """List base models."""


@model.command("list")
@click.argument("substring", default="")
@asks_service
def list_(substring: str, base_url: str | None, form: str) -> None:
    """Base models whose name has SUBSTRING in it."""
    with rest_client(base_url) as rest:
        offered = answer(rest.get_server_capabilities()).supported_models
    found = [one for one in offered if substring.lower() in (one.model_name or "").lower()]
    rows = [(one.model_name, one.max_context_length, one.trainable, one.sampleable) for one in found]
    show(form, {"models": found}, "models", ["name", "context", "trainable", "sampleable"], rows)
