"""An honest figure for a swept setting: chosen on some groups of clips, scored on others.

The best of many settings is the luckiest one, too: on the clips by which it was chosen it looks better than it is.
Here it is chosen on all folds but one and scored on that one, for each fold in turn, and the held-out counts are
pooled (cross-validation with pooled counts; M. Stone, "Cross-Validatory Choice and Assessment of Statistical
Predictions", Journal of the Royal Statistical Society B 36, 1974). What is scored so is the way of choosing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from benchmarks.evaluation import Options
from benchmarks.figures import Breakdown, Counts
from benchmarks.score import score
from benchmarks.sweep import Cell, Grid, best_of, nearest_of

__all__ = ["Choice", "CrossFit", "Fold", "cross_fit"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting that was chosen.

    Attributes:
        cell: The setting.
        keeps_target: Whether it kept the target on the clips that it was chosen on; otherwise it is the nearest, or
            the grid's first where no setting raised an alarm there.
        figures: Its figures on these clips: optimistic.
    """

    cell: Cell
    keeps_target: bool
    figures: Breakdown


@dataclass(frozen=True, slots=True)
class Fold:
    """Groups that were held out.

    Attributes:
        groups: Their names, sorted.
        choice: Made on all other groups.
        held_out: Figures of the chosen setting on these groups.
    """

    groups: tuple[str, ...]
    choice: Choice
    held_out: Breakdown


@dataclass(frozen=True, slots=True)
class CrossFit:
    """What a sweep's best setting is worth on clips that it was not chosen on.

    Attributes:
        folds: Each held out once.
        held_out: Their figures, pooled: every clip counts once, under a setting that was chosen without it.
        in_sample: The choice on all clips and its figures on these same clips.
    """

    folds: tuple[Fold, ...]
    held_out: Breakdown
    in_sample: Choice

    @property
    def agree(self) -> bool:
        """Whether every fold chose the setting that all clips choose."""
        return all(fold.choice.cell is self.in_sample.cell for fold in self.folds)


def cross_fit(grid: Grid, fold_of: Mapping[str, int], options: Options) -> CrossFit:
    """Choose and score by folds.

    Args:
        grid: A sweep with these folds.
        fold_of: Fold by group, see `benchmarks.folds.split`.
        options: What the figures are asked for.
    """

    def figures(counts: Counts) -> Breakdown:
        return counts.breakdown(options.target, options.rate_per_hour)

    def choose(folds: Sequence[int]) -> Choice:
        tried = [reduce(Counts.plus, (cell.parts[fold] for fold in folds)) for cell in grid.cells]
        scores = [score(counts.together, options.target) for counts in tried]
        best = best_of(scores)
        index = best if best is not None else nearest_of(scores) or 0
        return Choice(grid.cells[index], best is not None, figures(tried[index]))

    every = range(1 + max(fold_of.values()))
    folds: list[Fold] = []
    for out in every:
        choice = choose([fold for fold in every if fold != out])
        groups = tuple(sorted(group for group, fold in fold_of.items() if fold == out))
        folds.append(Fold(groups, choice, figures(choice.cell.parts[out])))
    pooled = reduce(Counts.plus, (fold.choice.cell.parts[out] for out, fold in enumerate(folds)))
    return CrossFit(tuple(folds), figures(pooled), choose(every))
