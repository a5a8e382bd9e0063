"""`nas devices`: list what latency can be measured on."""

from __future__ import annotations

from nas.cli.terminal import print_table

__all__ = ["devices"]


def devices() -> None:
    """List what latency can be measured on from here, and why not on the others.

    Example: nas devices
    """
    from rich.table import Table

    from nas.catalog import load_plugin, plugins

    shown = Table("device", "available", "what it is, or why not and what to do", "options", box=None)
    for name in plugins("devices"):
        module = load_plugin("device", "devices", name)
        reason = module.unavailable()
        about = (module.__doc__ or "").splitlines()[0]
        shown.add_row(name, "no" if reason else "yes", reason or about, ", ".join(module.Options.model_fields))
    print_table(shown)
