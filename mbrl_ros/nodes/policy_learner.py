# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Node `policy_learner`: trains a policy on real steps and on what the learned model imagines."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from std_msgs.msg import UInt8MultiArray
from std_srvs.srv import Trigger

from mbrl_ros.dynamics.dataset import TransitionRecorder
from mbrl_ros.dynamics.model import DynamicsModel, Transitions, make_model
from mbrl_ros.dynamics.snapshot import SnapshotError, SnapshotInfo, decode, saved
from mbrl_ros.dynamics.succession import Succession
from mbrl_ros.errors import reason
from mbrl_ros.imagination.online import PolicyLearner
from mbrl_ros.kinds import POLICIES
from mbrl_ros.robots import load_robot
from mbrl_ros.robots.spec import NANOSECONDS
from mbrl_ros.ros.conversions import bytes_message
from mbrl_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics, Report
from mbrl_ros.ros.goals import PlannerGoals
from mbrl_ros.ros.parameters import ROBOT, Parameter, ParameterError, declare, from_setting
from mbrl_ros.ros.qos import LATCHED
from mbrl_ros.ros.recording import Recording
from mbrl_ros.ros.runtime import ManagedNode, run


def _options(kind: str) -> tuple[Parameter, ...]:
    """Return the settings of one kind of policy as parameters."""
    return tuple(from_setting(setting, f"{kind}.") for setting in POLICIES.load(kind).settings)


PARAMETERS = (
    ROBOT,
    Parameter("model", "gp", "Kind of dynamics model that is expected on the topic `model`."),
    Parameter("policy", "sac", "Kind of policy."),
    Parameter("seed", 0, "Seed of all random numbers of the learner.", 0),
    Parameter("policy_file", "", "Saved policy to start from; empty: none."),
    Parameter(
        "save_folder", "", "Where ~/save writes a new file; empty: into the working directory."
    ),
    Parameter("first_update", 20, "Steps before the first update.", 2),
    Parameter("update_every", 5, "Steps between two hand-overs of a policy in lockstep.", 1),
    Parameter("updates", 20, "Updates of the policy for each real step.", 1, 1000),
    Parameter(
        "first_policy",
        2000,
        "Updates for a goal before a policy for it is published: the planner plans until then.",
        0,
    ),
    Parameter(
        "lockstep",
        False,
        "Train after exactly every `update_every` steps, with the model that counts then, however "
        "long that takes; otherwise in the background.",
    ),
    Parameter("threads", 1, "Threads of one update.", 1, 64),
    Parameter(
        "cpu_share",
        0.9,
        "Share of one core that training takes at most; without effect in lockstep.",
        0.05,
        1.0,
    ),
    Parameter("niceness", 19, "Added to the niceness of the thread that trains.", 0, 19),
    Parameter(
        "publish_rate",
        1.0,
        "Policies published per second at most; without effect in lockstep.",
        0.01,
        100.0,
    ),
    *(option for kind in POLICIES.built_in() for option in _options(kind)),
)

# Updates between two looks at what has come, and that may be owed in real time: a machine that is
# too slow trains less.
_SLICE, _MOST_OWED = 10, 2000
# Updates whose times diagnostics summarise.
_WINDOW = 1000
# In lockstep each model counts, and one follows the other within a few quick ticks.
_MODELS = QoSProfile(
    depth=10,
    reliability=LATCHED.reliability,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)


@dataclass(frozen=True)
class _Due:
    """What has come up to a tick since the last one: its stamp, real steps, updates, the goal."""

    stamp: int
    new: Transitions
    updates: int
    goal: list[float]


@dataclass(frozen=True)
class _Job:
    """What is to be learned, and with which model.

    again: whether these are all real steps, paired under another delay than before. The stamps
    say from which tick on the policy that comes of it and its successor count.
    """

    due: _Due
    model: DynamicsModel | None
    again: bool
    effective_from: int
    next_effective_from: int


class PolicyLearnerNode(ManagedNode):
    """Receives in the executor's thread, trains in a thread of its own."""

    def __init__(self) -> None:
        super().__init__("policy_learner")
        values = declare(self, PARAMETERS)
        torch.set_num_threads(values["threads"])
        self._robot = robot = load_robot(values["robot"])
        goal = Parameter("goal", robot.goal_default, f"Goal: [{', '.join(robot.goal_names)}].")
        self._goal = list(declare(self, (goal,))["goal"])
        problem = robot.check_goal(self._goal)
        if problem:
            raise ParameterError(f"parameter 'goal': {problem}")
        self._model_kind = values["model"]
        self._learner = self._make_learner(values)
        self._needs_model = self._learner.needs_model
        if self._needs_model:
            make_model(self._model_kind, robot)  # what cannot be used is refused now
        self._first_policy = values["first_policy"]
        self._updates_a_step = values["updates"]
        self._first_update, self._update_every = values["first_update"], values["update_every"]
        self._lockstep = values["lockstep"]
        self._cpu_share, self._niceness = values["cpu_share"], values["niceness"]
        self._publish_period = 1.0 / values["publish_rate"]
        self._interval = robot.period_nanoseconds * self._update_every
        self._save_folder = Path(values["save_folder"] or ".").absolute()

        self._recorder = TransitionRecorder(robot)
        self._recorder.delay = round(robot.delay * NANOSECONDS)
        self._models: Succession[SnapshotInfo, DynamicsModel] = Succession(self._lockstep)
        self._goals_at: deque[tuple[int, list[float]]] = deque(maxlen=_WINDOW)  # by stamp
        self._pending = self._recorder.take()  # of the next one that is due
        self._due: deque[_Due] = deque()  # wait for their model
        self._last_update = 0  # steps at the last one
        self._rejected_models = 0
        self._announced = False
        self._reset = threading.Event()
        self._stop = threading.Event()
        self._busy = threading.Event()
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._model: DynamicsModel | None = None  # of the last job
        self._effective = (0, 0)  # of the last job, see SnapshotInfo
        self._owed = 0  # updates
        self._unpublished = False  # whether there were any since the last publication
        self._failure = ""
        self._snapshot = b""  # the last one published
        self._next_publication = 0.0  # seconds of the monotonic clock
        self._publications = 0
        self._update_ms: deque[float] = deque(maxlen=_WINDOW)

        self._publisher = self.create_publisher(UInt8MultiArray, "policy", LATCHED)
        self._followed = PlannerGoals(self, robot, self._goal, lambda: None)
        self._recording = Recording(self, robot, self._recorder, self._on_state, self._maybe_train)
        if self._needs_model:
            self.create_subscription(UInt8MultiArray, "model", self._on_model, _MODELS)
        self.create_service(Trigger, "~/save", self._on_save)
        self.create_service(Trigger, "~/reset", self._on_reset)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(0.1, self._followed.ask, clock=steady)
        self._diagnostics = Diagnostics(self, robot.name, self._report)
        self._worker = threading.Thread(target=self._work, name="updates", daemon=True)
        self._worker.start()

    def _make_learner(self, values: dict[str, object]) -> PolicyLearner:
        kind = str(values["policy"])
        if kind not in POLICIES.built_in():
            values = values | declare(self, _options(kind))
        options = {s.name: values[f"{kind}.{s.name}"] for s in POLICIES.load(kind).settings}
        learner: PolicyLearner = POLICIES.load(kind)(self._robot, seed=values["seed"], **options)
        path = values["policy_file"]
        if path:
            try:
                learner.start_from(Path(str(path)).read_bytes())
            except (OSError, SnapshotError) as error:
                raise ParameterError(f"parameter 'policy_file': {path}: {reason(error)}") from None
            self.get_logger().info(f"starting from {path}: {learner.updates} updates")
        return learner

    # -- data -------------------------------------------------------------------------------

    def _on_state(self, stamp: int, state: list[float]) -> None:
        goals = self._followed.goals
        goals.at(stamp, state, 1)
        if not goals.moving:  # a policy for each moment of a trajectory would never be ready
            self._goals_at.append((stamp, list(goals.goal)))
        # Without a model there is no planner, whose goals would have to be known.
        informed = self._followed.answered or not (self._lockstep and self._needs_model)
        ready = self._recording.connected and informed
        if not self._announced and ready:
            # From here on no step can be lost. A policy that knows nothing says so, too.
            self._announced = True
            first = self._first_update - self._update_every
            until_first = self._robot.period_nanoseconds * first + 2 * self._interval
            self._publish(stamp, stamp + until_first)

    def _on_model(self, message: UInt8MultiArray) -> None:
        model = make_model(self._model_kind, self._robot)
        try:
            info = decode(bytes(message.data), model, self._robot)
        except SnapshotError as error:
            self._rejected_models += 1
            self.get_logger().error(f"model refused, the old one stays: {error}")
            return
        self._models.add(info, model)
        self._hand_over()

    def _maybe_train(self) -> None:
        steps = self._recorder.steps
        count = steps - self._last_update
        if steps < self._first_update or count < self._update_every:
            return
        if self._needs_model and self._models.empty:
            return
        if self._busy.is_set() and not self._lockstep:
            return
        self._last_update = steps
        self._busy.set()
        stamp = self._recorder.last_stamp
        goal = next((goal for at, goal in reversed(self._goals_at) if at <= stamp), self._goal)
        new, self._pending = self._pending + self._recorder.take(), self._pending[:0]
        self._due.append(_Due(stamp, new, self._updates_a_step * count, goal))
        self._hand_over()

    def _hand_over(self) -> None:
        """Let what is due be learned, with the model that counts at its tick."""
        while self._due:
            due = self._due[0]
            model, info = self._models.at(due.stamp), self._models.info
            if self._needs_model and (model is None or info is None):
                return
            self._due.popleft()
            delay, again = self._recorder.delay, False
            if info is not None:
                delay = round(info.delay * NANOSECONDS)
            if delay != self._recorder.delay:
                self._recorder.delay = delay
                paired, again = self._recorder.take_again(), True
                known = paired.stamps <= due.stamp
                due, self._pending = replace(due, new=paired[known]), paired[~known]
            effective = due.stamp + self._interval
            self._jobs.put(_Job(due, model, again, effective, effective + self._interval))

    # -- training ---------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
            while not self._stop.is_set():
                begin = time.thread_time()
                try:
                    job = self._jobs.get(timeout=0.0 if self._owed else None)
                except queue.Empty:
                    self._train(min(self._owed, _SLICE))
                else:
                    if job is None:
                        return
                    self._learn(job)
                self._maybe_publish()
                if not self._lockstep:
                    # Used for so long, left to others for the rest.
                    used = time.thread_time() - begin
                    self._stop.wait(used * (1.0 / self._cpu_share - 1.0))
        except Exception:
            # A learner that only seems to learn is worse than none.
            self.fail(f"the update thread has died:\n{traceback.format_exc()}")

    def _learn(self, job: _Job) -> None:
        """Take in new steps, a model and a goal; in lockstep train as much as is due."""
        if self._reset.is_set():
            self._reset.clear()
            self._learner.forget()
            self._unpublished = True
        try:
            if job.again:
                self._learner.observe_again(job.due.new)
            else:
                self._learner.observe(job.due.new)
            self._learner.pursue(job.due.goal)
            self._failure = ""
        except ValueError as error:
            self._failure = str(error)
            self.get_logger().error(f"steps not learned from: {error}")
        self._model = job.model
        self._effective = (job.effective_from, job.next_effective_from)
        self._owed += job.due.updates
        if self._lockstep:
            self._train(self._owed)
        self._owed = min(self._owed, _MOST_OWED)
        self._busy.clear()

    def _train(self, updates: int) -> None:
        begin = time.perf_counter()
        if not self._learner.train(self._model, updates):
            self._owed = 0
            return
        self._owed -= updates
        self._unpublished = True
        self._update_ms.append(1e3 * (time.perf_counter() - begin) / updates)

    def _maybe_publish(self) -> None:
        """Publish the policy if it is ready and the time has come.

        In lockstep the planner waits for one after every job; until one is ready for the goal it
        gets the same again.
        """
        if not self._lockstep and (
            not self._unpublished or time.monotonic() < self._next_publication
        ):
            return
        ready = self._learner.trained >= max(self._first_policy, 1)
        if ready and self._unpublished:
            self._learner.adopt()
        if ready or self._lockstep or not self._learner.adopted_updates:
            self._publish(*self._effective)
        self._unpublished = False

    def _publish(self, effective_from: int, next_effective_from: int) -> None:
        self._next_publication = time.monotonic() + self._publish_period
        data = self._learner.snapshot(effective_from, next_effective_from)
        self._snapshot = data if self._learner.adopted_updates else b""
        self._publisher.publish(bytes_message(data))
        self._publications += 1

    # -- services ---------------------------------------------------------------------------

    def _on_save(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        path = self._save_folder / "policy.safetensors"
        nothing = "no policy has been published yet"
        response.success, response.message = saved(path, self._snapshot, nothing)
        return response

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._reset.set()
        response.success = True
        response.message = "the next update starts from a policy that knows nothing"
        return response

    def on_shutdown(self) -> None:
        """Let the update under way end."""
        self._stop.set()
        self._jobs.put(None)
        self._worker.join(timeout=2.0)
        self._diagnostics.publish()

    def _report(self) -> Report:
        learner, update_ms = self._learner, sorted(self._update_ms)
        text = self._failure or f"training for goal [{', '.join(f'{g:g}' for g in learner.goal)}]"
        if not self._failure and learner.trained < self._first_policy:
            text += f": {learner.trained} of {self._first_policy} updates before it is published"
        if not learner.goal:
            text = self._failure or "training"
        if not update_ms:
            absent = self._needs_model and self._models.empty
            text = "waiting for a model" if absent else "waiting for transitions"
        bad = self._rejected_models or self._recording.rejected
        nothing = float("nan")
        return (
            ERROR if self._failure else WARN if bad else OK,
            text,
            {
                "transitions": self._recorder.kept,
                "goal": ", ".join(f"{value:g}" for value in learner.goal),
                "updates": learner.updates,
                "updates_for_goal": learner.trained,
                "updates_owed": self._owed,
                "generation": learner.generation,
                "policies_published": self._publications,
                "rejected_messages": self._recording.rejected,
                "rejected_models": self._rejected_models,
                "update_ms_median": update_ms[len(update_ms) // 2] if update_ms else nothing,
                "update_ms_max": update_ms[-1] if update_ms else nothing,
            }
            | learner.details(),
        )


def main() -> None:
    """Run the node."""
    sys.exit(run(PolicyLearnerNode))


if __name__ == "__main__":
    main()
