"""`nas devices`: list what latency can be measured on."""

from __future__ import annotations

from typing import Any

from nas.cli import options
from nas.cli.terminal import print_json, print_table

__all__ = ["devices"]


def devices(as_json: options.Json = False) -> None:
    """List what latency can be measured on from here, and why not on the others.

    --json: {"devices": [{"name", "available", "about", "reason" why it is not available or null, "options": names}]};
    that of the tests, fake, is there as well.

    Example: nas devices
    """
    from nas.catalog import OF_TESTS, load_plugin, plugins

    rows: list[tuple[str, str, str, str]] = []
    documents: list[dict[str, Any]] = []
    for name in plugins("devices"):
        module = load_plugin("device", "devices", name)
        reason = module.unavailable() or None
        about, settings = (module.__doc__ or "").splitlines()[0], list(module.Options.model_fields)
        if name != OF_TESTS:
            rows.append((name, "no" if reason else "yes", reason or about, ", ".join(settings)))
        documents.append(
            {"name": name, "available": not reason, "about": about, "reason": reason, "options": settings},
        )
    if as_json:
        print_json({"devices": documents})
    else:
        print_table(("device", "available", "what it is, or why not and what to do", "options"), rows)
