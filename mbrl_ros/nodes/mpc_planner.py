# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Node `mpc_planner`: replans a whole trajectory at every state, sends its first action only.

Or acts by reflex, where a policy is there that was trained for the goal.
"""

from __future__ import annotations

import array
import contextlib
import math
import queue
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from builtin_interfaces.msg import Duration
from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter as RosParameter
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt8MultiArray
from torch import Tensor
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from mbrl_ros.dynamics.model import DynamicsModel, make_model
from mbrl_ros.dynamics.snapshot import SnapshotError, SnapshotInfo, decode
from mbrl_ros.dynamics.succession import Succession
from mbrl_ros.imagination.acting import PolicyInForce
from mbrl_ros.imagination.policy import Policy
from mbrl_ros.imagination.snapshot import decode as decode_policy
from mbrl_ros.imagination.snapshot import guide_of
from mbrl_ros.kinds import PLANNERS
from mbrl_ros.planning.delay import DelayCompensation
from mbrl_ros.planning.goals import Goals
from mbrl_ros.planning.limits import Leisure, Limits, time_to_plan
from mbrl_ros.planning.noise import random_actions
from mbrl_ros.planning.objective import CostError
from mbrl_ros.planning.planner import (
    Plan,
    Planner,
    PlanningError,
    Problem,
    Setting,
    make_planner,
)
from mbrl_ros.planning.sampling import SamplingPlanner
from mbrl_ros.planning.stops import EndStops
from mbrl_ros.robots import load_robot
from mbrl_ros.robots.spec import NANOSECONDS, Exploration, RobotSpec
from mbrl_ros.ros.clocks import FineClock
from mbrl_ros.ros.conversions import (
    UNSTEERED,
    read_named_values,
    to_nanoseconds,
    to_time,
)
from mbrl_ros.ros.diagnostics import OK, WARN, Diagnostics, Report
from mbrl_ros.ros.loop import ControlLoop
from mbrl_ros.ros.parameters import (
    ROBOT,
    Parameter,
    ParameterError,
    as_float,
    declare,
    from_setting,
)
from mbrl_ros.ros.planar import PlanarView
from mbrl_ros.ros.qos import LATCHED, LATEST, STREAM
from mbrl_ros.ros.runtime import ManagedNode, run


def _own_parameters(kind: str) -> dict[str, Parameter]:
    """Return the settings of one kind of planner as parameters; its variants share them."""
    prefix = kind.partition("+")[0] + "."
    parameters = [from_setting(setting, prefix) for setting in PLANNERS.load(kind).own_settings]
    return {parameter.name: parameter for parameter in parameters}


def _as_suits(setting: Setting) -> Parameter:
    """Return a setting as a parameter that leaves the choice to the kind of planner."""
    words = f"{setting.description.rstrip('.')}; 0: as many as suit the kind."
    return Parameter(setting.name, 0, words, 0, setting.most)


# Settings whose best value differs from kind to kind.
_AS_SUITS = ("samples", "iterations")
_COMMON = {setting.name: setting for setting in SamplingPlanner.settings}
PARAMETERS = (
    ROBOT,
    Parameter("model", "gp", "Kind of dynamics model that is expected on the topic `model`."),
    Parameter("planner", "mppi", "Kind of planner."),
    Parameter(
        "controller",
        "mpc",
        "mpc: plan at every tick. policy: act by the policy on the topic `policy`, and plan while "
        "there is none for the goal. mpc+policy: plan, helped by that policy where there is one.",
    ),
    Parameter("seed", 0, "Seed of all random numbers of the planner.", 0),
    Parameter(
        "lockstep",
        False,
        "Use each model from exactly the tick on that it names, and wait for it there.",
    ),
    Parameter("threads", 1, "Threads of one plan.", 1, 64),
    *(_as_suits(_COMMON[name]) for name in _AS_SUITS),
    *(from_setting(setting) for name, setting in _COMMON.items() if name not in _AS_SUITS),
    Parameter(
        "time_budget",
        0.5,
        "Share of the period that planning may take, and no longer than until nine tenths of it "
        "are over: what does not fit is left out (not in lockstep).",
        0.01,
        1.0,
    ),
    Parameter(
        "delay_compensation",
        True,
        "Predict the state over the loop's delay, and plan from there.",
    ),
    Parameter(
        "brake_for_limits",
        False,
        "Brake in time before the `limits` and the `safe_range` of the robot's file end, whatever "
        "the plan is (default on hardware: true).",
    ),
    *{
        name: parameter
        for kind in PLANNERS.built_in()
        for name, parameter in _own_parameters(kind).items()
    }.values(),
    Parameter(
        "waypoints",
        [],
        "Goals to visit in order, one after the other in one list; empty: stay with the goal in "
        "force.",
        fixed=False,
    ),
    Parameter(
        "waypoint_dwell",
        0.0,
        "Seconds within the tolerances of a way point after which the next one comes.",
        0.0,
        fixed=False,
    ),
    Parameter(
        "goal_trajectory",
        [],
        "Goals over time: rows [seconds from when it is set, goal...] in one list, linear in "
        "between; empty: stay with the goal in force.",
        fixed=False,
    ),
    Parameter(
        "exploration_duration",
        1.0,
        "Seconds of random actions, from when the robot can move, if nothing is known; as long as "
        "no model has come, the same again after a pause as long at the safe action.",
        0.0,
    ),
    Parameter("exploration_share", 0.3, "Their size as a share of half the range.", 0.0, 1.0),
    Parameter(
        "exploration_weight",
        -1.0,
        "Reward, in units of cost, for each nat that a step is expected to tell the model; -1: as "
        "the robot's file says (cost.exploration), which is 0 unless given.",
        -1.0,
    ),
    Parameter(
        "exploration_half_life",
        0.0,
        "Transitions after which that weight has halved; 0: as the robot's file says, 100 unless "
        "given.",
        0.0,
    ),
)

CONTROLLERS = ("mpc", "policy", "mpc+policy")
GOAL_PARAMETERS = ("goal", "goal_weights", "waypoints", "waypoint_dwell", "goal_trajectory")

_EXPLORATION_STEPS = 1024
# Ticks in a row on which the last plan is followed when no new one comes out; after that the
# robot is left to the guard.
_MAX_FALLBACKS = 3
_QUIET = 0.8  # share of a period in which the next state does not come
_DRIVEN = 4  # periods after an action that was sent in which the robot counts as driven
# Seconds that the robot moves without a new model until diagnostics say so.
_MODEL_SILENCE = 10.0
# What diagnostics call who chose the last action.
_PHASES = {"random": "moving at random", "mpc": "planning", "policy": "acting by reflex"}
# Ticks whose numbers diagnostics summarise.
_WINDOW = 100_000


class MpcPlanner(ManagedNode):
    """Explores until a model has learned something, then plans at every tick."""

    def __init__(self) -> None:
        super().__init__("mpc_planner")
        values = declare(self, PARAMETERS)
        torch.set_num_threads(values["threads"])
        robot = _exploring(
            load_robot(values["robot"]),
            values["exploration_weight"],
            values["exploration_half_life"],
        )
        if robot.discrete:
            raise ParameterError(
                f"parameter 'robot': '{robot.name}' has discrete actions, which nobody plans; "
                "policy_controller acts for it"
            )
        self._robot = robot
        self._period = robot.period_nanoseconds
        self._lockstep, self._seed = values["lockstep"], values["seed"]
        self._kind, self._controller = values["model"], values["controller"]
        if self._controller not in CONTROLLERS:
            raise ParameterError(
                f"parameter 'controller': is '{self._controller}', expected one of "
                f"{', '.join(CONTROLLERS)}"
            )
        self._planner = self._make_planner(values)
        # What cannot be used is refused now, not when a model comes.
        known = make_model(self._kind, robot)
        if robot.cost.exploration is not None and robot.cost.exploration.weight:
            _check_novelty(known, robot)
        self._exploration = random_actions(
            [dimension.bounds[0] for dimension in robot.command.dimensions],
            [dimension.bounds[1] for dimension in robot.command.dimensions],
            values["exploration_share"],
            _EXPLORATION_STEPS,
            self._seed,
        )
        self._time_budget = values["time_budget"] * robot.period
        self._exploration_ticks = round(values["exploration_duration"] / robot.period)
        self._bout_ticks = self._exploration_ticks or round(1.0 / robot.period)
        self._explored = 0  # ticks at random, or between two bouts, since nothing has been known
        self._known = False  # whether the model of the last tick had learned anything
        self._declare_goal()

        self._models: Succession[SnapshotInfo, DynamicsModel] = Succession(self._lockstep)
        self._policies = PolicyInForce(robot, self._lockstep)
        self._snapshots: queue.Queue[tuple[str, bytes] | None] = queue.Queue()  # with their topic
        self._prepared: deque[Callable[[], None]] = deque()  # what to do between two ticks
        self._is_prepared = self.create_guard_condition(self._swap)
        self._preparation = threading.Thread(target=self._prepare, daemon=True)
        self._swap_ms = 0.0
        self._model_came = math.nan  # when the last one did, seconds of the steady clock
        self._moved_since = 0  # commands applied since then
        self._plan: Plan | None = None
        self._leisure = Leisure()
        self._unrefined = 0  # plans that could not be
        self._fine_clock = FineClock(self, interpolate=not self._lockstep)
        self._driven_until = 0  # stamp; a little after the last action that the guard has sent
        self._moved = self._lockstep  # whether it has sent any; in lockstep it sends the first
        self._delay = DelayCompensation(
            robot.period, robot.safe_action, values["delay_compensation"]
        )

        self._stops = EndStops(robot) if values["brake_for_limits"] else None

        self._ticks_by = {"random": 0, "mpc": 0, "policy": 0}  # who chose the action
        self._acting = "random"  # who did last
        self._guide: Policy | None = None  # that helps to plan
        self._guided = 0  # plans that it helped with
        self._missed = 0
        self._failed = 0
        self._failed_in_a_row = 0
        self._discarded = 0
        self._rejected_goals = 0
        self._rejected_snapshots = {"model": 0, "policy": 0}
        self._left_to_guard = False
        self._stage_cost = float("nan")
        self._limits = Limits(robot, self._planner.horizon)
        self._plan_ms: deque[float] = deque(maxlen=_WINDOW)

        self._loop = ControlLoop(self, robot, self._answer)
        self._plans = self.create_publisher(JointTrajectory, "plan", LATEST)
        self._view = PlanarView(self, robot, self._change_goal) if robot.planar else None
        self.create_subscription(UInt8MultiArray, "model", self._on_model, LATCHED)
        if self._controller != "mpc":
            self.create_subscription(UInt8MultiArray, "policy", self._on_policy, LATCHED)
        self.create_subscription(JointState, "goal", self._on_goal, LATEST)
        self.create_subscription(JointState, "applied_action", self._on_applied, STREAM)
        self._diagnostics = Diagnostics(self, robot.name, self._report)
        self._preparation.start()
        self.get_logger().info("waiting for the learner and the first state")

    def _make_planner(self, values: dict[str, Any]) -> Planner:
        kind = values["planner"]
        if kind not in PLANNERS.built_in():
            values = values | declare(self, tuple(_own_parameters(kind).values()))
        planner = PLANNERS.load(kind)
        settings = {s.name: values[s.name] for s in planner.settings if s.name in _COMMON}
        for name in _AS_SUITS:
            if values[name] == 0:
                settings.pop(name, None)
        prefix = kind.partition("+")[0]
        settings |= {s.name: values[f"{prefix}.{s.name}"] for s in planner.own_settings}
        return make_planner(kind, self._robot, **settings)

    # -- goal -------------------------------------------------------------------------------

    def _declare_goal(self) -> None:
        robot = self._robot
        names = ", ".join(robot.goal_names)
        goal = Parameter("goal", robot.goal_default, f"Goal: [{names}].", fixed=False)
        weights = Parameter(
            "goal_weights",
            [robot.cost.goal.get(name, 0.0) for name in robot.goal_names],
            f"Weights on the distance to the goal: [{names}].",
            fixed=False,
        )
        known = Parameter("goal_names", robot.goal_names, "What each goal value means.")
        values = declare(self, (goal, weights, known))
        self._goals = Goals(robot)
        for name in ("goal", "goal_weights", "waypoint_dwell", "waypoints", "goal_trajectory"):
            value = values[name] if name in values else self.get_parameter(name).value
            if name in ("waypoints", "goal_trajectory") and not value:
                continue  # the goal counts
            try:
                self._set_goal_parameter(self._goals, name, value)
            except ValueError as error:
                raise ParameterError(f"parameter '{name}': {error}") from None
        self.add_pre_set_parameters_callback(self._floats)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._apply_parameters)

    def _floats(self, parameters: list[RosParameter]) -> list[RosParameter]:
        return [as_float(p) if p.name in GOAL_PARAMETERS else p for p in parameters]

    def _set_goal_parameter(self, goals: Goals, name: str, value: Any) -> None:
        """Set what a parameter stands for; raises ValueError if it cannot be used."""
        if name == "waypoint_dwell":
            goals.dwell = float(value)
            return
        if not isinstance(value, Iterable) or isinstance(value, str):
            raise ValueError(f"{name} is {value!r}, expected an array of numbers")
        try:
            numbers = [float(number) for number in value]
        except (TypeError, ValueError):
            raise ValueError(f"{name} is {value!r}, expected an array of numbers") from None
        if name == "goal":
            goals.set_goal(numbers)
        elif name == "waypoints":
            goals.set_waypoints(numbers)
        elif name == "goal_trajectory":
            goals.set_trajectory(numbers)
        else:
            weights = self._robot.check_goal_weights(numbers)
            if goals is self._goals:  # not only tried
                self._planner.objective.goal_weight = torch.tensor(weights)

    def _check_parameters(self, parameters: list[RosParameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name in GOAL_PARAMETERS:
                try:
                    self._set_goal_parameter(Goals(self._robot), parameter.name, parameter.value)
                except ValueError as error:
                    return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _apply_parameters(self, parameters: list[RosParameter]) -> None:
        for parameter in parameters:
            if parameter.name in GOAL_PARAMETERS:
                # The plan stays: the next tick bends it towards the new goal.
                self._set_goal_parameter(self._goals, parameter.name, parameter.value)
                self._limits.forget_promises()
                self.get_logger().info(f"{parameter.name}: {_shown(parameter.value)}")

    def _on_goal(self, message: JointState) -> None:
        try:
            self._change_goal(message.name, message.position)
        except ValueError as error:
            self._rejected_goals += 1
            self.get_logger().error(f"goal refused: {error}", throttle_duration_sec=1.0)

    def _change_goal(self, names: Sequence[str], values: Sequence[float]) -> None:
        """Put named values in place of the goal's own; raises ValueError if it cannot be used."""
        goal = self._robot.changed_goal(self._goals.goal, names, values)
        # By way of the parameter, so that it always shows the goal in force.
        self.set_parameters([RosParameter("goal", RosParameter.Type.DOUBLE_ARRAY, goal)])

    # -- models and policies ----------------------------------------------------------------

    def _on_model(self, message: UInt8MultiArray) -> None:
        self._model_came, self._moved_since = time.monotonic(), 0
        self._snapshots.put(("model", bytes(message.data)))

    def _on_policy(self, message: UInt8MultiArray) -> None:
        self._snapshots.put(("policy", bytes(message.data)))

    def _prepare(self) -> None:
        """Check and lay out snapshots in a thread of its own, so that a swap costs no time."""
        while (received := self._snapshots.get()) is not None:
            topic, data = received
            try:
                if topic == "model":
                    self._prepare_model(data)
                else:
                    policy, info = decode_policy(data, self._robot)
                    self._prepared.append(partial(self._policies.add, info, policy))
            except SnapshotError as error:
                self._rejected_snapshots[topic] += 1
                self.get_logger().error(f"{topic} refused, the old one stays: {error}")
                continue
            except Exception:
                self.fail(
                    f"the thread that prepares snapshots has died:\n{traceback.format_exc()}"
                )
                return
            self._is_prepared.trigger()

    def _prepare_model(self, data: bytes) -> None:
        model = make_model(self._kind, self._robot)
        info = decode(data, model, self._robot)
        for remark in self._planner.prepare(model):
            self.get_logger().info(remark)
        if self._stops is not None:
            self._stops.prepare(model)
        self._prepared.append(partial(self._models.add, info, model))

    def _swap(self) -> None:
        self._take_prepared()
        self._loop.retry()

    def _take_prepared(self) -> None:
        begin = time.perf_counter()
        while self._prepared:
            self._prepared.popleft()()
        self._swap_ms = max(self._swap_ms, 1e3 * (time.perf_counter() - begin))

    # -- control ----------------------------------------------------------------------------

    def _answer(self, stamp: int, state: list[float]) -> bool:
        """Send the action of one tick, once a model, and in lockstep a policy, is there."""
        self._take_prepared()  # the executor may yet have to hear of it
        model = self._models.at(stamp)
        if model is None or self._policy_overdue(stamp):
            return False
        begin = time.perf_counter()
        action, problem = self._choose(stamp, state, model)
        if action is None:
            self._limits.forget_promises()
            return True
        # In lockstep a state may overtake the clock message of its own tick.
        published = max(self._fine_clock.now(), stamp)
        skipped = self._loop.send(stamp, action)
        seconds = time.perf_counter() - begin
        self._plan_ms.append(1e3 * seconds)
        late = self.get_clock().now().nanoseconds - stamp > self._period
        missed = skipped + int(late)  # ticks without an action in their own period
        self._missed += missed
        self._delay.answered(stamp, action, published)
        self._publish_plan(stamp)
        self._limits.arrived(stamp, state, self._stage_cost)
        self._ticks_by[self._acting] += 1
        if problem is not None or self._acting == "policy":
            self._limits.ticked(seconds, missed, self._plan is not None and self._plan.hurried)
        if problem is not None:
            self._watch(stamp, problem, model)
            self._refine(problem, model, begin)
        return True

    def _refine(self, problem: Problem, model: DynamicsModel, begin: float) -> None:
        """Improve the plan for the next tick, if that is done before its state comes."""
        left = math.inf
        if not self._lockstep:
            left = _QUIET * self._robot.period - (time.perf_counter() - begin)
        if self._plan is None or not self._leisure.allows(left):
            return
        start = time.perf_counter()
        problem = replace(problem, time_budget=left)
        try:
            self._plan = self._planner.refine(problem, model, self._plan)
        except (PlanningError, CostError) as error:  # the plan is as good as it was
            self._unrefined += 1
            self.get_logger().error(f"plan not refined: {error}", throttle_duration_sec=1.0)
        self._leisure.took(time.perf_counter() - start, left)

    def _policy_overdue(self, stamp: int) -> bool:
        """Whether a tick has to wait for a policy, as in lockstep."""
        return self._controller != "mpc" and self._policies.overdue(stamp)

    def _move_at_random(self, present: Tensor, goal: Tensor, pauses: bool) -> list[float]:
        """Return the action (A,) of a tick that is not planned.

        pauses: whether it is the safe one between two bouts of random ones, because a robot that
        only moves at random while the first model takes its time drifts away. The first bout
        begins when the robot can move: a model learned from a pause would know of no action.
        """
        action, self._acting = self._exploration[self._loop.ticks % _EXPLORATION_STEPS], "random"
        if pauses:
            if self._explored // self._bout_ticks % 2:
                action = torch.tensor(self._robot.safe_action)
            self._explored += self._moved
        self._stage_cost = self._cost_now(present, action, goal)
        return action.tolist()

    def _explores(self, model: DynamicsModel) -> bool:
        """Whether too little is known to plan by this model."""
        known, self._known = self._known, model.transitions > 0
        if known and not self._known:
            self._explored = 0  # all has been forgotten
        # Who starts from a model that knows something does not explore at all.
        return not self._known or 0 < self._explored < self._exploration_ticks

    def _choose(
        self, stamp: int, state: list[float], model: DynamicsModel
    ) -> tuple[list[float] | None, Problem | None]:
        """Return the action (A,) for this state, or None to leave the robot to the guard.

        And the problem that a new plan solves; None where there is none.
        """
        present = torch.tensor(state, dtype=torch.float32)
        left = self._goals.left
        rows = self._goals.at(stamp, state, self._planner.horizon)
        goal = torch.tensor(rows, dtype=torch.float32)
        if self._goals.left < left:
            self._limits.forget_promises()
            self.get_logger().info(
                f"way point reached; now {self._goals.waypoint}: {self._goals.goal}"
            )
        goal_now, last_goal = (goal, goal) if goal.ndim == 1 else (goal[0], goal[-1])
        if self._models.info is not None:
            self._delay.actuation = self._models.info.delay
        if self._stops is not None:
            self._stops.observe(stamp, state, stamp < self._driven_until)
            if self._stops.resting:
                self._plan = None
                return self._move_at_random(present, goal_now, pauses=False), None
        if self._controller == "policy":
            policy = self._policy_for(stamp, goal_now)
            reaction = None
            if policy is not None:
                reaction = self._react(
                    policy, stamp, self._problem(stamp, present, goal, model), model
                )
            if reaction is not None:
                self._stage_cost = self._cost_now(present, reaction, goal_now)
                return reaction.tolist(), None
        if self._explores(model):
            return self._move_at_random(present, goal_now, pauses=True), None
        self._acting = "mpc"
        if self._controller == "mpc+policy":
            self._guide_by(self._policy_for(stamp, goal_now, last_goal))
        problem = self._problem(stamp, present, goal, model)
        solved: Problem | None = problem
        try:
            self._plan = self._planner.plan(problem, model, self._plan)
            if self._stops is not None:
                self._plan = self._stops.heed(
                    model, problem, self._plan, stamp, self._delay.whole_periods
                )
            self._failed_in_a_row, self._left_to_guard = 0, False
            self._discarded += self._plan.discarded
        except (PlanningError, CostError) as error:
            self._failed += 1
            self._failed_in_a_row += 1
            if self._plan is None or self._failed_in_a_row > _MAX_FALLBACKS:
                self._plan = None
                if not self._left_to_guard:
                    self._left_to_guard = True
                    self.get_logger().error(f"no plan: {error}; the robot is left to the guard")
                return None, None
            self.get_logger().error(
                f"no plan: {error}; following the last one", throttle_duration_sec=1.0
            )
            self._plan, solved = self._plan.shifted(), None
        action = self._plan.actions[0]
        self._stage_cost = self._cost_now(present, action, goal_now)
        return [float(value) for value in action], solved

    def _policy_for(self, stamp: int, *goals: Tensor) -> Policy | None:
        """Return the policy in use if it is for all of goals (G,); say when it no longer is."""
        outdated = self._policies.outdated
        policy = self._policies.at(stamp, [goal.tolist() for goal in goals])
        if self._policies.outdated and not outdated:
            self.get_logger().warning(f"{self._policies.absence}: planning without it")
        return policy

    def _problem(self, stamp: int, present: Tensor, goal: Tensor, model: DynamicsModel) -> Problem:
        """Return what is to be solved where the robot will be when the action takes effect."""
        start, before, fraction = self._delay.start_of_plan(stamp, present, model)
        return Problem(
            state=start,
            goal=goal,
            previous_action=before,
            delay_fraction=fraction,
            seed=self._seed * 1_000_003 + self._loop.ticks,
            time_budget=self._time_to_plan(stamp),
        )

    def _time_to_plan(self, stamp: int) -> float:
        """Return the seconds that the plan of this tick may take."""
        if self._lockstep:
            return math.inf
        age = (self.get_clock().now().nanoseconds - stamp) / NANOSECONDS
        return time_to_plan(self._time_budget, age, self._robot.period)

    def _react(
        self, policy: Policy, stamp: int, problem: Problem, model: DynamicsModel
    ) -> Tensor | None:
        """Return the action (A,) that a policy chooses for when it takes effect.

        None if that is not finite, as it may be far from all that the policy was trained in.
        """
        action = policy.act(problem.state[None])[0]
        if not action.isfinite().all():
            self.get_logger().error(
                f"the policy's action in {problem.state.tolist()} is not finite: planning",
                throttle_duration_sec=1.0,
            )
            return None
        if self._acting != "policy":
            # What was said of plans does not hold for it.
            self._acting, self._plan = "policy", None
            self._limits = Limits(self._robot, self._planner.horizon)
            self._left_to_guard = False
        if self._stops is not None:
            action = self._stops.nearest(model, problem, action, stamp, self._delay.whole_periods)
        return action

    def _guide_by(self, policy: Policy | None) -> None:
        """Let a policy for the goal of this tick help to plan, or none."""
        if policy is not self._guide:
            self._guide, info, guide = policy, self._policies.info, None
            if policy is not None and info is not None:
                # Whether it is for the goal has been judged, within the goal's tolerances.
                guide = replace(guide_of(policy, info), goal=None)
            self._planner.guide = guide
        self._guided += policy is not None

    def _cost_now(self, state: Tensor, action: Tensor, goal: Tensor) -> float:
        try:
            return self._planner.objective.now(state, action, goal)
        except CostError:  # the plan has failed of it as well
            return math.nan

    def _watch(self, stamp: int, problem: Problem, model: DynamicsModel) -> None:
        """Note what a plan says of the next state and of its cost, to be compared later."""
        plan = self._plan
        if plan is None or not self._limits.due(stamp):
            return
        action = torch.lerp(plan.actions[0], problem.previous_action, problem.delay_fraction)
        _, variance = model.predict(plan.states[:1], action[None])
        promised = self._planner.objective.running_cost(
            plan.states[:, None], plan.actions[:, None], problem.goal, problem.previous_action
        )
        self._limits.expect(
            stamp + (self._delay.whole_periods + 1) * self._period,
            plan.states[0],
            plan.states[1],
            variance[0],
            float(promised[0]),
        )

    def _on_applied(self, message: JointState) -> None:
        stamp = to_nanoseconds(message.header.stamp)
        self._moved_since += 1
        steered = message.header.frame_id != UNSTEERED
        # A busy planner hears of an action only after the next state.
        self._driven_until = stamp + _DRIVEN * self._period if steered else 0
        self._moved |= steered
        if not self._lockstep:  # there, when this arrives depends on the machine
            with contextlib.suppress(ValueError):
                applied = read_named_values(message, self._robot.action_names)
                self._delay.applied(stamp, applied, steered)

    def _publish_plan(self, stamp: int) -> None:
        if self._plan is not None and self._view is not None:
            self._view.publish(stamp, self._plan.states.tolist(), self._goals.goal)
        if self._plan is None or self._plans.get_subscription_count() == 0:
            return
        message = JointTrajectory(joint_names=self._robot.state_names)
        message.header.stamp = to_time(stamp)
        for step, state in enumerate(self._plan.states.tolist()):
            after = to_time(step * self._period)
            message.points.append(
                JointTrajectoryPoint(
                    positions=array.array("d", state),
                    time_from_start=Duration(sec=after.sec, nanosec=after.nanosec),
                )
            )
        self._plans.publish(message)

    def on_shutdown(self) -> None:
        """Publish the last numbers."""
        self._snapshots.put(None)
        self._preparation.join(timeout=2.0)
        self._diagnostics.publish()

    def _report(self) -> Report:
        times = sorted(self._plan_ms)
        waiting = self._loop.waiting
        if self._models.empty:
            text = "waiting for the learner"
        elif self._loop.ticks == 0:
            overdue = waiting is not None and self._policy_overdue(waiting)
            text = "waiting for the policy learner" if overdue else "waiting for the first state"
        else:
            text = _PHASES[self._acting]
        if self._left_to_guard:
            text = "no plan: the robot is left to the guard"
        phase = text
        if self._loop.ticks and waiting is not None:
            what = "model" if self._models.at(waiting) is None else "policy"
            text = f"waiting for the {what} of {waiting / NANOSECONDS:g} s"
        outdated = False
        if self._controller != "mpc" and self._policies.absence and self._loop.ticks:
            outdated = self._policies.outdated
            if self._controller == "mpc+policy":
                text += f" without a policy: {self._policies.absence}"
            else:
                text += f", as {self._policies.absence}"
        verdict = self._limits.verdict(self._planner.objective.goal_weight.tolist())
        if verdict.text:
            text += f"; {verdict.text}"
        model_age = time.monotonic() - self._model_came
        moved = self._moved_since * self._robot.period
        silent = min(moved, model_age) > _MODEL_SILENCE
        if silent:
            # The learner has died, is paused, or the link to it is broken: nobody waits for it.
            text += f"; no model for {model_age:.0f} s, going on with the one there is"
        # A model that is not good enough yet is no fault: it is being learned.
        late = verdict.limited_by == "planner" or self._left_to_guard
        rejected = self._loop.rejected + self._rejected_goals
        refused = rejected or any(self._rejected_snapshots.values())
        bad = late or silent or outdated or self._failed or self._unrefined or refused
        policy = self._policies.info
        nothing = float("nan")
        return (
            WARN if bad else OK,
            text,
            {
                "phase": phase,
                "limited_by": verdict.limited_by,
                "planner": self._planner.kind,
                "controller": self._controller,
                "ticks": self._loop.ticks,
                "mpc_ticks": self._ticks_by["mpc"],
                "guided_ticks": self._guided,
                "policy_ticks": self._ticks_by["policy"],
                "policy_generation": policy.generation if policy else 0,
                "policy_updates": policy.updates if policy else 0,
                "policy_goal": policy.goal if policy else "",
                "deadline_misses": self._missed,
                "plan_ms_median": times[len(times) // 2] if times else nothing,
                "plan_ms_p99": times[int(0.99 * (len(times) - 1))] if times else nothing,
                "plan_ms_max": times[-1] if times else nothing,
                "goal": ", ".join(f"{value:g}" for value in self._goals.goal),
                "waypoint": self._goals.waypoint,
                "waypoints_left": self._goals.left,
                "stage_cost": self._stage_cost,
                "predicted_cost": self._plan.cost if self._plan else nothing,
                "promised_cost": verdict.promised_cost,
                "realised_cost": verdict.realised_cost,
                "prediction_error": verdict.prediction_error,
                "hurried_share": verdict.hurried_share,
                "effective_samples": self._plan.effective_samples if self._plan else nothing,
                "iterations": self._plan.iterations if self._plan else 0,
                "samples": self._plan.samples if self._plan else 0,
                "delay_ms": 1e3 * self._delay.delay,
                "actuation_delay_ms": 1e3 * self._delay.actuation,
                "model_transitions": self._models.info.transitions if self._models.info else 0,
                "model_age_s": model_age,
                "model_widening": self._models.info.widening if self._models.info else 1.0,
                "model_swap_ms_max": self._swap_ms,
                "failed_plans": self._failed,
                "failed_refinements": self._unrefined,
                "braked_actions": self._stops.braked if self._stops else 0,
                "discarded_trajectories": self._discarded,
                "rejected_messages": rejected,
                "rejected_models": self._rejected_snapshots["model"],
                "rejected_policies": self._rejected_snapshots["policy"],
            },
        )


def _exploring(robot: RobotSpec, weight: float, half_life: float) -> RobotSpec:
    """Return the robot with another exploration term; negative, zero: as it is."""
    exploration = robot.cost.exploration or Exploration(0.0)
    if weight >= 0.0:
        exploration = replace(exploration, weight=weight)
    if half_life > 0.0:
        exploration = replace(exploration, half_life=half_life)
    return replace(robot, cost=replace(robot.cost, exploration=exploration))


def _check_novelty(model: DynamicsModel, robot: RobotSpec) -> None:
    try:
        model.novelty(torch.zeros(1, len(robot.state)), torch.tensor([robot.safe_action]))
    except ValueError as error:
        raise ParameterError(
            f"exploration: {error}; choose another model, or exploration_weight 0.0"
        ) from None


def _shown(value: Any) -> str:
    return str(value if isinstance(value, float) else list(value))


def main() -> None:
    """Run the node."""
    sys.exit(run(MpcPlanner))


if __name__ == "__main__":
    main()
