"""Records and protocols that the core shares with plugins.

A plugin may import this module for its annotations and declarations; it needs neither torch nor transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, overload, runtime_checkable

from zotune.errors import OptionError

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    State = TypeVar("State", default=Any)
else:
    from typing import TypeVar

    State = TypeVar("State")

Direction = Literal["maximize", "minimize"]
Level = Literal["sample", "set"]
Gives = Literal["values", "order"]
Learn = Literal["perturbed", "answers", "both"]
"""What steps learn from, where people compare completions: which of two perturbed members wrote the better one, a
preference loss on all answers so far, or both."""
Schedule = Literal["constant", "linear", "cosine"]
"""constant: 1; linear: from 1 to 0; cosine: half a cosine from 1 to 0 (Loshchilov and Hutter 2017, no restarts)."""
CallOption = Literal["concurrency", "batch_size", "timeout"]
PROVIDED: Final = frozenset(
    {"prompts", "completions", "completion_ids", "references", "predictions", "labels", "logits", "losses"}
    | {"chosen_logps", "rejected_logps", "chosen_tokens", "rejected_tokens", "model", "batch"}
)
"""Inputs of an objective that tasks provide; every other input is a column of the data."""


@dataclass(frozen=True)
class RunContext:
    """What an objective's `start` learns about the run.

    folder: the run directory. message: shows one line to the user. stopping: whether the run is to end; an objective
    that waits asks it and raises `zotune.errors.Stopped`. seed: the run seed. planned: rows that the run is going to
    score, as far as its budget tells.
    """

    folder: Path
    message: Callable[[str], None]
    stopping: Callable[[], bool]
    seed: int
    planned: int


@dataclass(frozen=True)
class ObjectiveInfo:
    """The declaration of an objective: all that the core reads from it besides calling it.

    `@zotune.objective(...)` takes the same fields, except the callables, for a function or a class. Where the
    declaration depends on an instance's options, the class has a method `info()` that returns an ObjectiveInfo; it
    replaces the decorator's declaration. Raises OptionError for values that no field takes.

    direction: which values are better.
    level: "sample" where the objective scores each row by itself, "set" where it scores all rows together, None where
        that is unknown; its first result decides then.
    gives: "values", or "order" where it compares completions and has no values.
    needs: names of the inputs that it is called with; None: the parameters of the function.
    batch_size: training rows a step, where the user gives none.
    cacheable: whether the score of a row may be reused; None: for sample-level and async objectives.
    fast: True where a thousand calls on a test set are cheap, so that set-level scores get a bootstrap interval, and
        rows of a population their own credit; False where a call takes long or costs money, so that they get neither;
        None: a jackknife of 20 calls.
    timeout: seconds that a call may take, where the user gives no limit.
    candidates: completions of a prompt that an order objective compares at a time.
    validates: False where it scores no validation rows, so that the last weights are kept.
    test_rows: test rows that it scores at most; None: all.
    max_scores: scores that a run may ask for, where the user limits nothing.
    call_options: options of the class that `--score-concurrency`, `--score-batch-size` and `--score-timeout` set. The
        class honours them itself. The core reads this field from the decorator, for it sets options before there is an
        instance.

    check: called with the number of classes of a classification task before the model is loaded; raises OptionError
        where the objective cannot score so many.
    check_row: called with the columns of each row before the model is loaded; reference texts are in the column
        `completion`. Raises OptionError for a row that the objective cannot score; the message gets the row's file and
        line. Returns a line that the user should read, or None; equal lines are shown once with their number.
    start: called once before the run's first score.
    ask: for an objective that waits for people: called as the objective is, with the questions of the next step before
        the answers of this one are awaited. It returns at once; a population's completions are then generated a step
        ahead, from the weights before this step, whatever the pace of the answers.
    learn: with `ask`, what a step learns from.
    widen: asked before the questions of a step are generated; other questions than pairs, or None. What it returns may
        follow from answers that were used already, whatever the pace of the others. Needs `learn` to use answers again.
    written: with `ask`, called as the objective is once it has answered: for each row a text that a person has written
        as a better completion, or None. Needs `learn` to use answers again.
    examples: path of a file with prompts, chosen and rejected completions that count as answers before the first one.
        Needs `learn` to use answers again.
    observe: called with prompts of the validation set and the completions of the base model and of the present weights
        (`prompts`, `before`, `now`), after `ask`, while answers are awaited. It changes nothing of the run.
    satisfied: asked after each step; True ends the run as its budget does.
    faults: counts of what went wrong while scoring, such as {"retries": 3}, for the run's summary.
    close: called at the end of the run; releases processes, connections and memory.
    """

    direction: Direction = "maximize"
    level: Level | None = None
    gives: Gives = "values"
    needs: tuple[str, ...] | None = None
    batch_size: int | None = None
    cacheable: bool | None = None
    fast: bool | None = None
    timeout: float | None = None
    candidates: int = 4
    validates: bool = True
    test_rows: int | None = None
    max_scores: int | None = None
    call_options: tuple[CallOption, ...] = ()
    check: Callable[[int], None] | None = None
    check_row: Callable[[Mapping[str, Any]], str | None] | None = None
    start: Callable[[RunContext], None] | None = None
    ask: Callable[..., object] | None = None
    learn: Learn = "perturbed"
    widen: Callable[[], WiderQuestions | None] | None = None
    written: Callable[..., Sequence[str | None]] | None = None
    examples: str | None = None
    observe: Callable[..., object] | None = None
    satisfied: Callable[[], bool] | None = None
    faults: Callable[[], Mapping[str, int]] | None = None
    close: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        for name, value, words in (
            ("direction", self.direction, ("maximize", "minimize")),
            ("level", self.level, (None, "sample", "set")),
            ("gives", self.gives, ("values", "order")),
            ("learn", self.learn, ("perturbed", "answers", "both")),
        ):
            if value not in words:
                raise OptionError(f"{name} must be {' or '.join(map(repr, words))}, got {value!r}")
        for option in self.call_options:
            if option not in ("concurrency", "batch_size", "timeout"):
                raise OptionError(f"call_options are concurrency, batch_size and timeout, got {option!r}")
        for name, number, least in (
            ("batch_size", self.batch_size, 1),
            ("candidates", self.candidates, 2),
            ("test_rows", self.test_rows, 1),
            ("max_scores", self.max_scores, 1),
        ):
            if number is not None and (not isinstance(number, int) or number < least):
                raise OptionError(f"{name} must be a whole number of at least {least}, got {number!r}")
        if self.timeout is not None and not self.timeout > 0:
            raise OptionError(f"timeout must be positive, got {self.timeout!r}")


Needs = Literal["values", "comparisons", "order", "per_sample"]


@dataclass(frozen=True)
class OptimizerInfo:
    """The declared capabilities of an optimizer: class attributes, properties or methods of these names.

    A dataclass field or a parameter of `__init__` is an option of the user and never a capability.

    needs: what it asks the oracle for. "values"; "comparisons" where it evaluates several points in one call and uses
        their differences alone; "order" where ranks are enough; "per_sample" where it asks for one value a row.
    fields: tensors that its state stores, in multiples of the tuned weights.
    compares: points that it compares in one call, where the objective gives an order.
    calibrates: whether it finds its own step size and perturbation scale, so that `--learning-rate auto` and
        `--eps auto` add nothing.
    stratifies: whether its batches of labelled rows hold the classes in proportion, unless the user decides.
    interpolates: whether weights between the base model and the last step are evaluated at the end, unless the user
        decides.
    populations: whether it asks `at.population` and evaluates populations where rows have directions of their own.
    sharpens: whether it scales all logits where completions are sampled, by the tensors of `at.logit_scales`; its
        populations then decode greedily, unless several completions a prompt are asked for.
    reuses_answers: whether its populations ask `oracle.preferences` where `at.learning` has pairs.
    affine: whether a shift and a positive factor of the objective change none of its decisions.
    """

    needs: Needs = "values"
    fields: float = 0
    compares: int = 2
    calibrates: bool = False
    stratifies: bool = False
    interpolates: bool = False
    populations: bool = False
    sharpens: bool = False
    reuses_answers: bool = False
    affine: bool = False


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker learns about a run at its start, and again when it is resumed.

    name: of the run; unique, and the same when it is resumed. folder: the run directory, None for `zotune.Tuner`.
    config: the options of the run and what follows from them, as JSON values by name. step: steps before this start.
    message: shows one line to the user.
    """

    name: str
    folder: Path | None
    config: Mapping[str, Any]
    step: int
    message: Callable[[str], None]


@dataclass(frozen=True)
class TrackedSample:
    """A validation row and the model's output for it. score: the row's own, None where it has none."""

    prompt: str
    completion: str
    reference: str
    score: float | None = None


class Tracker(Protocol):
    """Receives the numbers of a run: a callback, or what `--report-to` names. Subclass it to leave methods out.

    A tracker that raises is reported once and not called again; the run goes on. In several processes the first calls
    trackers. Steps count from 1, evaluations from step 0, which is the base model.
    """

    def on_run_start(self, run: TrackedRun) -> int | None:
        """The run begins or is resumed.

        Returns the last step of which the tracker's store holds everything: -1 for nothing. It then gets every step
        and evaluation after that, those of earlier processes included. None: it gets what no process has recorded.
        """
        return None

    def on_step_end(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """A step was taken or dropped. metrics: "loss" (smaller is better), "difference" between points, and "dropped"
        (1) where it was; each where it is known. Returns a reason to end the run after this step, or None."""
        return None

    def on_evaluation(self, step: int, metrics: Mapping[str, float], samples: Sequence[TrackedSample]) -> str | None:
        """The validation set was scored after a step. metrics: "score" in the objective's own direction, "kl" from the
        base model in nats a token, "evaluations" so far, "zero_share", and the parts of a sum; each where it is known.
        samples: a few rows. Returns a reason to end the run, or None."""
        return None

    def on_run_end(self, summary: Mapping[str, Any]) -> None:
        """The run ended. summary: what `zotune fit --json` prints, or {"reason": "failed"} after an error."""
        return


@dataclass(frozen=True)
class Score:
    """One evaluation of an objective over some rows.

    value: the scalar, in the objective's own direction; samples: one float (or None: not applicable) a row for
    sample-level objectives, None for set-level ones; parts: (name, value) of each objective in a
    sum.
    """

    value: float
    samples: tuple[float | None, ...] | None = None
    parts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class TensorInfo:
    """One tuned tensor, as optimizers see it.

    name: canonical name; shape: its shape; kind: "bias", "norm", "embedding", "linear" or "other", decided by the
    type of the module that owns it; block: index of the layer it belongs to, or None; dtype: "float32", "bfloat16" …
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    block: int | None
    dtype: str = "float32"

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Batch:
    """Row indices into the training data."""

    rows: tuple[int, ...]

    @property
    def each(self) -> tuple[Batch, ...]:
        """Every row as a batch of its own."""
        return tuple(Batch((row,)) for row in self.rows)


class Learning(NamedTuple):
    """What the steps of a population learn from. pairs: pairs of members that a step evaluates on the answers so far; 0
    where these are not reused."""

    source: Learn = "perturbed"
    pairs: int = 0


class WiderQuestions(NamedTuple):
    """Questions for a wish that the model hardly ever meets. candidates: completions of the present weights in each;
    temperature: at which they are sampled, at least; wish: words before the prompt, for these completions alone."""

    candidates: int
    temperature: float
    wish: str = ""


class Recipe(Protocol):
    """An expression over weights, fields and noise, evaluated element by element when the core needs its values.

    Arithmetic with recipes and numbers gives recipes; so do the functions `zotune.sqrt`, `sign`, `where`, `clip`,
    `maximum`, `minimum`, `weighted_sum`, `only` and `outer`. A recipe has no truth value: choose elements with
    `zotune.where(condition, a, b)`.
    """

    def __add__(self, other: Recipe | float, /) -> Recipe: ...
    def __radd__(self, other: float, /) -> Recipe: ...
    def __sub__(self, other: Recipe | float, /) -> Recipe: ...
    def __rsub__(self, other: float, /) -> Recipe: ...
    def __mul__(self, other: Recipe | float, /) -> Recipe: ...
    def __rmul__(self, other: float, /) -> Recipe: ...
    def __truediv__(self, other: Recipe | float, /) -> Recipe: ...
    def __rtruediv__(self, other: float, /) -> Recipe: ...
    def __pow__(self, power: int, /) -> Recipe:
        """The square: `power` must be 2."""
        ...

    def __neg__(self) -> Recipe: ...
    def __abs__(self) -> Recipe: ...
    def __le__(self, other: Recipe | float, /) -> Recipe: ...
    def __lt__(self, other: Recipe | float, /) -> Recipe: ...
    def __ge__(self, other: Recipe | float, /) -> Recipe: ...
    def __gt__(self, other: Recipe | float, /) -> Recipe: ...


class PerTensor(Recipe, Protocol):
    """One float for every tuned tensor. Arithmetic with numbers and other per-tensor values happens on the host."""

    @property
    def values(self) -> Mapping[str, float]:
        """The floats by canonical name of the tensor."""
        ...

    def map(self, fn: Callable[[float], float], /) -> PerTensor:
        """`fn` of each float."""
        ...


class Theta(Recipe, Protocol):
    """The weights from before the step."""

    @property
    def tensors(self) -> tuple[TensorInfo, ...]: ...

    def per(self, fn: Callable[[TensorInfo], float], /) -> PerTensor:
        """One number (a bool counts as 0 or 1) for every tensor: `theta.per(lambda t: t.kind != "bias")`."""
        ...


class Noise(Recipe, Protocol):
    """A handle of noise, fixed by the run seed, a step and a draw. A state may keep it and use it again steps later."""

    @property
    def kind(self) -> str: ...
    @property
    def step(self) -> int: ...
    @property
    def draw(self) -> int: ...


class Factor(Protocol):
    """One small matrix of normal noise for every tensor in `shapes`: `zotune.outer` makes a recipe of two."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]: ...
    @property
    def step(self) -> int: ...
    @property
    def draw(self) -> int: ...


class Directions(Protocol):
    """`count` directions u_p v_pᵀ of rank 1 for every matrix in `shapes`: `zotune.direction_sum` makes a recipe of
    them, and `oracle.population` evaluates the members θ ± S u_p v_pᵀ."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]: ...
    @property
    def count(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def draw(self) -> int: ...


class PopulationSize(NamedTuple):
    """What a population of the run should hold. rows: training rows that all members together score in a step; 0 where
    rows of one pass cannot have directions of their own, so that each member costs a pass. each: rows a member, 1 where
    rows are scored by themselves."""

    rows: int
    each: int

    @property
    def pairs(self) -> int:
        """Pairs of members: at least 1."""
        return max(self.rows // (2 * self.each), 1)


class Oracle(Protocol):
    """Evaluates points of weight space with the objective. Smaller is better, whatever direction the objective has.

    Every value passes through the journal, so that a replay reads it instead of evaluating again.
    """

    @property
    def evaluations(self) -> int:
        """Evaluations so far: one batch at one point each."""
        ...

    @overload
    def __call__(self, *points: Recipe, batch: Batch | None = None) -> tuple[float, ...]: ...
    @overload
    def __call__(
        self, *points: Recipe, batch: Batch | None = None, per_sample: Literal[True]
    ) -> tuple[tuple[float | None, ...], ...]:
        """The value of each point on `batch`, the step's own by default; with `per_sample=True` one float a row
        (None: not applicable) for each point. Raises ObjectiveError where an evaluation fails."""
        ...

    def spread(self, point: Recipe, batch: Batch | None = None) -> tuple[float, float | None]:
        """The value of a point and the standard deviation of its rows' values; None: the objective scores the rows
        together, or fewer than two have a value."""
        ...

    def rank(self, *points: Recipe, batch: Batch | None = None) -> tuple[int | None, ...]:
        """The place of each point, 0 the best; equal points share a place, None: unranked."""
        ...

    def population(
        self,
        directions: Directions,
        sizes: PerTensor,
        *,
        scales: Sequence[float] = (),
        each: int | None = None,
        batch: Batch | None = None,
    ) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
        """The values of the members θ + S u_p v_pᵀ, and those of their partners θ − S u_p v_pᵀ, one for each pair.

        sizes: S, one number a tensor. scales: a further factor for each pair, by default 1. each: rows that a member
        scores, by default `at.population.each`; partners score the same rows. batch: the rows, dealt to the pairs in
        order and repeated where they are few; by default the next rows of the epoch. None: a member that was not
        scored. Raises ObjectiveError where fewer than half of the pairs were.
        """
        ...

    def preferences(self, directions: Directions, sizes: PerTensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """A preference loss of the members θ + S u_p v_pᵀ, and of their partners, on the answers that people have given
        so far: each pair of members on one of them, dealt in a drawn order. Nobody is asked, and it counts as no
        evaluation. Two empty tuples before the first answer that prefers one completion to another."""
        ...

    @property
    def measures_kl(self) -> bool:
        """Whether `kl` can be called: where the model generates text."""
        ...

    def kl(self, *points: Recipe, counted: bool = True) -> tuple[float, ...]:
        """The KL divergence of each point from the base model, in nats a token. The objective is not called. counted:
        whether a point counts as an evaluation."""
        ...


class At(Protocol):
    """The moment of a step: its number, noise, batches, learning-rate schedule and journaled reductions."""

    @property
    def t(self) -> int:
        """The step, from 0; -1 in `init`."""
        ...

    @property
    def total(self) -> int | None:
        """Planned steps; None where only time limits the run."""
        ...

    @property
    def progress(self) -> float:
        """Share of the budget that is used, in [0, 1)."""
        ...

    @property
    def damping(self) -> float:
        """Factor by which the run scales the update that the step returns: 1, and less after a rollback."""
        ...

    @property
    def interpolated(self) -> bool:
        """Whether a rollback has interpolated the weights toward the base model since the last step: they differ from
        those that the state was computed with."""
        ...

    @property
    def epoch(self) -> int:
        """Whole passes over the training rows before this step."""
        ...

    @property
    def per_epoch(self) -> int:
        """Steps that one pass over the training rows takes."""
        ...

    def schedule(self, kind: Schedule, /) -> float:
        """The factor of the learning rate at this step, in [0, 1]."""
        ...

    def normal(self, draw: int = 0, step: int | None = None) -> Noise:
        """Noise of mean 0 and variance 1 for every element; other draws and steps are independent."""
        ...

    def rademacher(self, draw: int = 0, step: int | None = None) -> Noise:
        """Noise of -1 and 1."""
        ...

    def sphere(self, draw: int = 0, step: int | None = None) -> Recipe:
        """Noise on the sphere of radius √d in d dimensions; its length is journaled."""
        ...

    def factor(
        self, shape: Callable[[TensorInfo], tuple[int, int] | None], draw: int = 0, step: int | None = None
    ) -> Factor:
        """A matrix of normal noise with (rows, columns) = shape(tensor) for each tensor; None: no matrix."""
        ...

    def directions(self, count: int, draw: int = 0, step: int | None = None) -> Directions:
        """`count` directions of rank 1 for every tuned matrix, of elements with mean 0 and variance 1."""
        ...

    @property
    def population(self) -> PopulationSize:
        """How large a population of this run should be."""
        ...

    @property
    def learning(self) -> Learning:
        """What the steps of a population learn from, where people compare completions."""
        ...

    @property
    def max_kl(self) -> float:
        """The KL divergence from the base model that kept weights may have, in nats a token; 0: no limit."""
        ...

    @property
    def logit_scales(self) -> frozenset[str]:
        """Names of the tuned tensors by which all logits are multiplied: c times their values sample as at 1/c of the
        temperature and change no greedy completion. Empty where completions are greedy, or the model has none."""
        ...

    def vector(self, length: int, draw: int = 0) -> list[float]:
        """`length` standard normal numbers on the host."""
        ...

    @property
    def full(self) -> Batch:
        """All training rows."""
        ...

    def sample(self, draw: int, /) -> Batch:
        """Draw 0 is the step's own batch, further draws are independent samples."""
        ...

    def large(self, rows: int, /) -> Batch:
        """A seeded sample of at least so many rows, all where there are fewer."""
        ...

    def cost(self, batch: Batch, /) -> int:
        """Evaluations that one point costs on this batch."""
        ...

    def norm(self, recipe: Recipe, /) -> PerTensor:
        """Euclidean norm of the recipe on each tensor, journaled."""
        ...

    def rms(self, recipe: Recipe, /) -> PerTensor:
        """Root mean square of the recipe on each tensor, journaled."""
        ...

    def quantile(self, recipe: Recipe, q: float, /) -> PerTensor:
        """The q-quantile of the recipe's elements on each tensor, journaled."""
        ...


@runtime_checkable
class Optimizer(Protocol[State]):
    """A zeroth-order update rule: usually a frozen dataclass whose fields are its options.

    init(theta) -> state, or init(theta, oracle, at) where it wants to evaluate points before step 0. The state is plain
    data; a recipe in it becomes a stored field.

    step(theta, oracle, state, at) -> (next theta, next state). Pure: the same arguments and oracle values give the same
    result, which makes a replay exact. It may call the oracle as often as it likes; every value it sees is journaled. A
    step may be taken back: after a rollback the optimizer gets an earlier state at a later `at.t`.

    Capabilities that it may declare: see `OptimizerInfo`; and `forwards`, evaluations of one batch at one point that a
    step costs, or, where steps differ, a method `cost(theta, at)` that returns them for the step to come; and a method
    `describe(state)` that returns numbers by name about the state after init, which are shown to the user; and
    `warning(state)`, a line for the user about that state, or ""; and `summarize(state)`, numbers by name about the
    last state, which the end of a run shows. Options that came later than recorded runs stand in a
    class attribute `unrecorded`, a mapping with the values that such runs had.
    """

    @property
    def init(self) -> Callable[..., State]: ...

    def step(self, theta: Theta, oracle: Oracle, state: State, at: At, /) -> tuple[Recipe, State]: ...


Result = float | Sequence[float | None]
"""What an objective returns: one float for the set, or one float or None (not applicable) for each row."""


class Objective(Protocol):
    """Anything callable that scores. It is called by keyword with the inputs that it declares: those in `PROVIDED`, and
    every column of the data. An order objective returns a strength for each of the `candidates` of each row."""

    def __call__(self, *args: Any, **inputs: Any) -> Any: ...
