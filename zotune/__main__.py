"""`python -m zotune`."""

from __future__ import annotations

from zotune.cli.app import main

if __name__ == "__main__":
    main()
