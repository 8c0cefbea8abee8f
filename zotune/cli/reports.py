"""Reports before the first step, as lines of text: calibration and preflight.

Knows the events; knows no terminal.
"""

from __future__ import annotations

from typing import Final

from zotune.events import Calibrated, PreflightDone

CLEAR_SIGNAL: Final = 2.0
"""Expected signal, in units of its noise, from which on a run can be expected to learn."""


def calibration_lines(event: Calibrated) -> list[str]:
    """The options that a calibration chose, and what the perturbation costs that they are derived from."""
    out = []
    if event.perturbation is not None:
        cost = f"a KL divergence of {event.kl:.3g} nats a token" if event.kl is not None else "nothing"
        if event.loss_increase is not None:
            cost = f"{100 * event.loss_increase:.2g} % of the objective"
        out.append(f"calibration: a perturbation of {event.perturbation:.3g} in all weights costs {cost}")
    out += [f"chosen: {name} = {value:.3g}" for name, value in event.options]
    if event.steps is not None:
        out[-1] += f", with which {event.steps:,} steps move the weights as far as that perturbation"
    return out


def preflight_lines(event: PreflightDone) -> list[str]:
    """What the preflight measured, with a warning where a run can hardly learn."""
    if event.failed:
        return [f"preflight: the objective failed: {event.failed}"]
    out = []
    if event.zero_share is not None and event.directions is not None:
        zero = (
            f"preflight: {100 * event.zero_share:.0f} % of {2 * event.directions} evaluated steps without a difference"
        )
        if event.signal_share is None and event.zero_share == 0.0:
            out.append("preflight: this optimizer compares nothing that can be repeated on other rows")
        elif event.signal_share is None:
            out.append(f"{zero}: no signal; try a larger --batch-size or an objective with finer values")
        else:
            out += _signal_lines(event, zero)
    if event.wider_eps is not None and event.eps is not None and event.wider_zero_share is not None:
        share = f"{100 * event.wider_zero_share:.0f} % without a difference"
        out.insert(1, f"with --eps {event.wider_eps:.2g} instead of {event.eps:.2g}: {share} (or try --eps auto)")
    if event.linear_probe is not None and event.base_score is not None:
        scores = f"{event.linear_probe:.4f} on the validation set, the base model {event.base_score:.4f}"
        out.append(f"a linear probe scores {scores}: --init linear-probe starts from it")
    return out


def _signal_lines(event: PreflightDone, zero: str) -> list[str]:
    share, error, size = event.signal_share or 0.0, event.signal_share_error or 0.0, 4 * (event.batch_size or 0)
    larger = event.signal_share_with(size)
    text = f"signal share {100 * max(share, 0.0):.0f} % ± {100 * error:.0f} %"
    out = [f"{zero}; {text}" + (f" ({100 * larger:.0f} % with batch size {size})" if larger is not None else "")]
    if event.signal is not None and event.steps:
        out.append(f"expected signal over {event.steps:,} steps: {max(event.signal, 0.0):.0f}x the noise")
        if event.signal + (event.signal_error or 0.0) < CLEAR_SIGNAL:
            out[-1] += "; a run of this budget can hardly learn anything"
    return out


__all__ = ["calibration_lines", "preflight_lines"]
