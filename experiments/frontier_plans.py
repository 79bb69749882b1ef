"""Which ways to stop are compared, for which generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..sampling.offline.races import races, restarts
from ..sampling.offline.search import Problem
from ..sampling.policy import Policy, parse_policy

Policies = Callable[[Problem], Iterable[Policy]]


@dataclass(frozen=True)
class Way:
    """A family of policies by one scorer, or by a stack of several.

    Attributes:
        policies: of a problem; None: all fixed ones.
        latest: position.
        recall: whether the best of all goes on if no wave is good enough; else the last one does.
    """

    row: str
    scorers: tuple[str, ...]
    policies: Policies | None = None
    latest: int | None = None
    stack: bool = False
    recall: bool = True


@dataclass(frozen=True)
class Source:
    """A scorer, and the bench with its signals; model None: the x0-vqa model that is trained for this generator."""

    model: str | None
    bench: str | None = None


@dataclass(frozen=True)
class Frontier:
    """A generator's bench, its scorers by row, and the ways to stop by them.

    Attributes:
        best: the scorer whose races, stacks and early cuts are compared.
        together: scorers that are stacked.
        latest: position of policies that look at scores, and of stacks.
        oracle: positions at which one acts that knows the final scores.
        finding: the answer, written when it had been run.
    """

    title: str
    question: str
    bench: str
    scorers: Mapping[str, Source]
    best: str
    latest: int
    oracle: tuple[int, ...]
    together: tuple[str, ...] = ()
    restarting: tuple[str, ...] = ()
    finding: str = ""

    def ways(self, more: Sequence[str] = ()) -> list[Way]:
        """The rows; `more`: further scorers, with fixed keeps and restarts."""
        best, latest = self.best, self.latest
        stacks = [(best,), *([self.together] if self.together else [])]
        return [
            *(Way(f"fixed keeps, {name}", (name,)) for name in (*self.scorers, *more)),
            *(Way(f"fixed keeps, stack of {' and '.join(names)}", names, None, latest, True) for names in stacks),
            Way(f"race, {best}", (best,), races, latest),
            *(
                Way(f"restart below a threshold, then the best, {name}", (name,), restarts, latest)
                for name in (*self.restarting, *more)
            ),
            Way(
                f"restart below a threshold, then the last (2512.08985), {best}",
                (best,),
                restarts,
                latest,
                recall=False,
            ),
            Way(f"one cut at 20 % of the run (2603.02829), {best}", (best,), _few("10:1")),
            Way("the paper's 20:1, noisyclip", ("noisyclip",), _few("20:1")),
        ]


def _few(stage: str) -> Policies:
    """One fixed stage, of as many candidates as the budget pays for."""
    return lambda problem: [parse_policy(f"{drawn},{stage}") for drawn in range(2, problem.n + 1)]


_COSTS = """\
Full Best-of-6 finishes and decodes six images and scores them with CLIP. Policies are chosen on four fifths of the
prompts by `vqascore` and measured on the rest. Costs are denoiser calls, with scores and decodes counted by their
seconds in full batches (`nbench tune --measure`). Empty: no policy of this kind fits the budget."""

FRONTIERS = {
    "frontier": Frontier(
        "The frontier: gain at a cost",
        f"""How much of Best-of-6's gain is kept at 17 to 50 % of its cost, by which way to stop?

{_COSTS}

A stack weighs the scores at all stages of its policy (`nbench train stack`), fitted on other prompts. Resampled
particles (FK steering, 2501.06848) have no row: a copied candidate takes noise that was not recorded, so they cannot be
replayed; `perf/best_of_n.py` measures them live ([sampling.md](sampling.md#gain-kept-in-seconds)).""",
        "bench",
        {
            "noisyclip": Source("noisyclip"),
            "noisyclip-t": Source("noisyclip-t"),
            "x0-clip": Source("x0-clip"),
            "x0-clip@2": Source("x0-clip@2", "ahead"),
            "x0-vqa": Source(None),
        },
        best="x0-vqa",
        latest=16,
        oracle=(1, 2, 3, 4, 6, 8, 10, 15, 20),
        together=("x0-clip", "x0-vqa"),
        restarting=("noisyclip", "noisyclip-t", "x0-clip", "x0-clip@2", "x0-vqa"),
        finding="""\
With x0-vqa, drawing one candidate at a time until one scores well at 9 to 12, and taking the best of all if none does,
keeps .96 (.89 to 1.04) of the gain by `vqascore` at 22 % and 1.04 (.97 to 1.12) at 25 %. Most prompts stop after the
first draw, so the calls go to those that need them. Fixed keeps reach that at 35 %. A race by chances is no better than
fixed keeps within the intervals: it cannot tell a prompt whose candidates are all good. That the best of all is
recalled, where published rejection takes the last, adds .00 at 22 %, .03 at 25 % and .05 at 50 % with x0-vqa, and more
with scorers that need no training: `x0-clip@2` keeps .80 at 22 % and .94 at 25 % (.69 and .84 without recall), and .92
by `truth` at 25 %, more than x0-vqa. `noisyclip-t`, which costs no call, keeps .74 at 22 %, .89 at 25 % and .94 at
35 %. By `truth`, x0-vqa keeps .81 (.71 to .91) at 22 % and .86 (.76 to .96) at 25 %: it was trained to predict
`vqascore`, and the policies were tuned by it. Stacks add nothing to x0-vqa within the intervals. Position is no
ceiling: one who knows the final score and acts at 3 keeps all of the gain at 22 %. What scorers know at 3 is.""",
    ),
    "frontier-unet": Frontier(
        "The frontier of another generator",
        f"""The same for the second generator, a UNet that predicts noise and decides its images later, by scorers that
have not seen it, and by a VQA model that was trained on its x0 estimates (x0-vqa). {_COSTS}""",
        "bench-shapes-unet",
        {
            "noisyclip": Source("noisyclip"),
            "noisyclip-t": Source("noisyclip-t"),
            "x0-clip": Source("x0-clip"),
            "x0-vqa": Source(None),
        },
        best="noisyclip-t",
        latest=35,
        oracle=(5, 10, 15, 20, 25, 30),
        restarting=("noisyclip-t", "x0-clip", "x0-vqa"),
        finding="""\
By scorers that have not seen this generator, restarts are again ahead of fixed keeps: with noisyclip-t they keep .61
(.54 to .68) of the gain by `vqascore` at 22 %, .72 (.64 to .80) at 25 % and .92 (.84 to 1.00) at 35 %; by `truth` .57,
.67 and .89. Fixed keeps need half of the cost for .89. That the best of all is recalled adds .03 at 22 %, .06 at 35 %
and .13 at 50 %. A VQA model trained on 2,400 trajectories of this generator, by the recipe of the first one, keeps .85
(.75 to .95) at 22 % and 1.06 (.96 to 1.18) at 25 %; by `truth` .66 and .80. Images are decided at 15 to 30 here, so
less can be saved than with the first generator: one who knows the final score and acts at 15 keeps .65 at 22 %
by a fixed keep. One cut at 20 % of the run comes before anything is known (.08 at 25 %), and so does the
paper's 20:1 with noisyclip (.10), which reads previews and was trained for the other generator. `x0-clip`, with one
more call per score, is level with noisyclip-t or behind it.""",
    ),
}
