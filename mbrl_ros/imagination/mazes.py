# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The mazes of Sutton and Barto (2018), chapter 8, as Gymnasium environments."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

try:
    import gymnasium
except ImportError as error:
    raise ImportError(
        f"mazes are Gymnasium environments, and Gymnasium cannot be imported ({error}); "
        "install it with: pip install 'mbrl_ros[bench]'"
    ) from None

Layout = tuple[str, ...]

MOVES = ((-1, 0), (1, 0), (0, 1), (0, -1))  # up, down, right, left, by row and column

# S start, G goal, # wall.
DYNA_MAZE: Layout = (
    ".......#G",
    "..#....#.",
    "S.#....#.",
    "..#......",
    ".....#...",
    ".........",
)
_WALL_FROM_LEFT: Layout = (
    "........G",
    ".........",
    ".........",
    "########.",
    ".........",
    "...S.....",
)
_WALL_FROM_RIGHT: Layout = (*_WALL_FROM_LEFT[:3], ".########", *_WALL_FROM_LEFT[4:])
_WALL_AMIDST: Layout = (*_WALL_FROM_LEFT[:3], ".#######.", *_WALL_FROM_LEFT[4:])


class Maze(gymnasium.Env):  # type: ignore[misc]
    """A grid of cells; walls and the edge leave the walker where it is.

    phases: the layouts, each with the step, counted over all episodes, from which on it holds.
    They differ in walls only. Observation: row * columns + column. Actions: `MOVES`. The reward
    is 1 on reaching the goal, where the episode ends, else 0.
    Raises ValueError for layouts that do not fit.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 - Gymnasium has it so

    def __init__(
        self, phases: Sequence[tuple[int, Layout]], render_mode: str | None = None
    ) -> None:
        if not phases or phases[0][0] != 0:
            raise ValueError("the phases of a maze start at another step than 0, expected 0")
        if render_mode not in (None, "ansi"):
            raise ValueError(f"render_mode is '{render_mode}', expected None or 'ansi'")
        begins = [begin for begin, _ in phases]
        if begins != sorted(set(begins)):
            raise ValueError(f"the phases begin at {begins}, expected rising steps")
        layouts = [layout for _, layout in phases]
        self.rows, self.columns = len(layouts[0]), len(layouts[0][0])
        self.start, self.goal = _find("S", layouts[0]), _find("G", layouts[0])
        for layout in layouts:
            if {len(row) for row in layout} != {self.columns} or len(layout) != self.rows:
                raise ValueError("the layouts of a maze differ in size, or rows do in length")
            if (_find("S", layout), _find("G", layout)) != (self.start, self.goal):
                raise ValueError("the layouts of a maze differ in start or goal")
        self.observation_space = gymnasium.spaces.Discrete(self.rows * self.columns)
        self.action_space = gymnasium.spaces.Discrete(len(MOVES))
        self.render_mode = render_mode
        self._phases = list(phases)
        self.steps = 0  # over all episodes
        self._cell = self.start

    @property
    def layout(self) -> Layout:
        """The layout that holds now."""
        return [layout for begin, layout in self._phases if begin <= self.steps][-1]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Go to the start; walls stay as the steps so far have them."""
        super().reset(seed=seed)
        self._cell = self.start
        return self._observation(), {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Make one move."""
        self._cell = _move(self.layout, self._cell, int(action))
        self.steps += 1
        arrived = self._cell == self.goal
        return self._observation(), float(arrived), arrived, False, {}

    def render(self) -> str | None:
        """Return the maze as text, the walker as @."""
        if self.render_mode is None:
            return None
        rows = [list(row) for row in self.layout]
        rows[self._cell[0]][self._cell[1]] = "@"
        return "\n".join("".join(row) for row in rows)

    def shortest(self) -> int:
        """Return how many steps the shortest path through the present layout has."""
        layout, distance, queue = self.layout, {self.start: 0}, deque([self.start])
        while queue:
            cell = queue.popleft()
            for action in range(len(MOVES)):
                after = _move(layout, cell, action)
                if after not in distance:
                    distance[after] = distance[cell] + 1
                    queue.append(after)
        if self.goal not in distance:
            raise ValueError("no path leads through this maze")
        return distance[self.goal]

    def _observation(self) -> int:
        return self._cell[0] * self.columns + self._cell[1]


def _find(mark: str, layout: Layout) -> tuple[int, int]:
    found = [(i, j) for i, row in enumerate(layout) for j, c in enumerate(row) if c == mark]
    if len(found) != 1:
        raise ValueError(f"a maze has {len(found)} cells '{mark}', expected one")
    return found[0]


def _move(layout: Layout, cell: tuple[int, int], action: int) -> tuple[int, int]:
    row, column = cell[0] + MOVES[action][0], cell[1] + MOVES[action][1]
    inside = 0 <= row < len(layout) and 0 <= column < len(layout[0])
    return (row, column) if inside and layout[row][column] != "#" else cell


def dyna_maze() -> Maze:
    """Return the maze of figure 8.2; its shortest path has 14 steps."""
    return Maze([(0, DYNA_MAZE)])


def blocking_maze(change: int = 1000) -> Maze:
    """Return the maze of figure 8.4: the short way is closed, a longer one opened."""
    return Maze([(0, _WALL_FROM_LEFT), (change, _WALL_FROM_RIGHT)])


def shortcut_maze(change: int = 3000) -> Maze:
    """Return the maze of figure 8.5: a shorter way is opened, and the old one stays."""
    return Maze([(0, _WALL_FROM_RIGHT), (change, _WALL_AMIDST)])


# By name, with their options.
MAZES: dict[str, Callable[..., Maze]] = {
    "dyna_maze": dyna_maze,
    "blocking_maze": blocking_maze,
    "shortcut_maze": shortcut_maze,
}
