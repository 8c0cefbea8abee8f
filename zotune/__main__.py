"""`python -m zotune`."""

from __future__ import annotations

from zotune.cli import main

if __name__ == "__main__":
    main()
