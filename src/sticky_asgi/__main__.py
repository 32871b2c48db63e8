"""`python -m sticky_asgi` and the command `sticky-asgi`."""

from __future__ import annotations

import sys

#: What the extra `cli` installs, by the names it is imported under.
_EXTRA = ("click", "pydantic", "pydantic_core", "uvicorn", "watchfiles", "yaml")


def main() -> None:
    """Run the command line, or say how to get it."""
    try:
        from .cli import cli
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(
            "sticky-asgi needs its command line extra: pip install 'sticky-asgi[cli]'\n"
        )
        sys.exit(2)
    cli(prog_name="sticky-asgi")


if __name__ == "__main__":
    main()
