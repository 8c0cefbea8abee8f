"""An objective in six lines: among right answers, prefer short class names (a toy, but a complete one)."""

import zotune


@zotune.objective(direction="maximize")
def brevity(completions, references, **_):
    return [float(c == r) - 0.01 * len(c) for c, r in zip(completions, references, strict=True)]
