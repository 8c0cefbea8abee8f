"""An objective in six lines: among right answers, prefer short class names (a toy, but a complete one)."""

from collections.abc import Sequence

import zotune


@zotune.objective(direction="maximize")
def brevity(completions: Sequence[str], references: Sequence[str], **_: object) -> list[float]:
    return [float(c == r) - 0.01 * len(c) for c, r in zip(completions, references, strict=True)]
