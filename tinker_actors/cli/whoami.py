"""`tinker-actors whoami`: whose key it is."""

import click

from tinker_actors.cli.service import answer, asks_service, rest_client, show_facts

__all__ = ["whoami"]


@click.command()
@asks_service
def whoami(base_url: str | None, form: str) -> None:
    """Who the key in use belongs to, as far as it says so itself."""
    with rest_client(base_url) as rest:
        found = answer(rest.whoami())
    show_facts(form, found, {"user": found.user_urn, "organization": found.org_urn, "email": found.email})
