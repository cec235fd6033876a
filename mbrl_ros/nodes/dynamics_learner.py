# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Node `dynamics_learner`: pairs states with applied actions and keeps improving the model."""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass

import torch
from sensor_msgs.msg import JointState
from std_msgs.msg import UInt8MultiArray

from mbrl_ros.dynamics.dataset import TransitionRecorder
from mbrl_ros.dynamics.model import DynamicsModel, Transitions, make_model, one_step_error
from mbrl_ros.dynamics.snapshot import describe, encode
from mbrl_ros.robots import load_robot
from mbrl_ros.ros.conversions import (
    NANOSECONDS,
    bytes_message,
    read_named_values,
    to_nanoseconds,
)
from mbrl_ros.ros.diagnostics import ERROR, OK, Diagnostics, Report
from mbrl_ros.ros.parameters import ROBOT, Parameter, declare
from mbrl_ros.ros.qos import LATCHED, STREAM
from mbrl_ros.ros.runtime import ManagedNode, run

PARAMETERS = (
    ROBOT,
    Parameter("model", "gp", "Kind of dynamics model."),
    Parameter("seed", 0, "Seed of all random numbers of the learner.", 0),
    Parameter("first_update", 20, "Steps before the first update.", 2),
    Parameter("update_every", 5, "Steps between two updates.", 1),
    Parameter(
        "lockstep",
        False,
        "Update after exactly every `update_every` steps, however long that takes; otherwise "
        "as soon as the update before is done.",
    ),
    Parameter("threads", 1, "Threads of one update.", 1, 64),
)


# Updates whose times diagnostics summarise.
_WINDOW = 10_000


@dataclass(frozen=True)
class _Job:
    """One update: from what, and from which ticks on its result and its successor count."""

    new: Transitions
    effective_from: int
    next_effective_from: int


class DynamicsLearner(ManagedNode):
    """Receives in the executor's thread, learns in a thread of its own."""

    def __init__(self) -> None:
        super().__init__("dynamics_learner")
        values = declare(self, PARAMETERS)
        torch.set_num_threads(values["threads"])
        self._robot = load_robot(values["robot"])
        self._model: DynamicsModel = make_model(values["model"], self._robot, values["seed"])
        self._first_update = values["first_update"]
        self._update_every = values["update_every"]
        self._lockstep = values["lockstep"]
        self._interval = round(self._robot.period * NANOSECONDS) * self._update_every
        self._recorder = TransitionRecorder(self._robot)
        self._last_update = 0  # steps at the last update
        self._announced = False
        self._rejected = 0
        self._failure = ""
        self._error = float("nan")
        self._update_ms: deque[float] = deque(maxlen=_WINDOW)
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._busy = threading.Event()
        self._publisher = self.create_publisher(UInt8MultiArray, "model", LATCHED)
        self._action_subscription = self.create_subscription(
            JointState, "applied_action", self._on_action, STREAM
        )
        self.create_subscription(JointState, "state", self._on_state, STREAM)
        self._diagnostics = Diagnostics(self, self._robot.name, self._report)
        self._worker = threading.Thread(target=self._work, name="updates", daemon=True)
        self._worker.start()

    def _on_state(self, message: JointState) -> None:
        stamp, state = to_nanoseconds(message.header.stamp), self._read(message, "state")
        if state is None:
            return
        self._recorder.add_state(stamp, state)
        if not self._announced and self._action_subscription.get_publisher_count() > 0:
            # From here on no step can be lost. This model, which knows nothing, says so.
            self._announced = True
            first = self._first_update - self._update_every
            until_first = round(self._robot.period * NANOSECONDS) * first + 2 * self._interval
            self._publish(stamp, stamp + until_first)
        self._maybe_update()

    def _on_action(self, message: JointState) -> None:
        stamp, action = to_nanoseconds(message.header.stamp), self._read(message, "action")
        if action is not None:
            self._recorder.add_action(stamp, action)
            self._maybe_update()

    def _read(self, message: JointState, what: str) -> list[float] | None:
        names = self._robot.state_names if what == "state" else self._robot.action_names
        try:
            return read_named_values(message, names)
        except ValueError as error:
            self._rejected += 1
            self.get_logger().error(f"{what} dropped: {error}", throttle_duration_sec=1.0)
            return None

    def _maybe_update(self) -> None:
        steps = self._recorder.steps
        due = max(self._first_update, self._last_update + self._update_every)
        if steps < due or (self._busy.is_set() and not self._lockstep):
            return
        self._last_update = steps
        self._busy.set()
        effective = self._recorder.last_stamp + self._interval
        self._jobs.put(_Job(self._recorder.take(), effective, effective + self._interval))

    def _work(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                self._learn(job)
        except Exception:
            # A learner that only seems to learn is worse than none.
            self.fail(f"the update thread has died:\n{traceback.format_exc()}")

    def _learn(self, job: _Job) -> None:
        begin = time.perf_counter()
        try:
            if self._model.transitions and len(job.new):
                self._error = one_step_error(self._model, job.new)
            self._model.update(job.new)
            self._failure = ""
        except ValueError as error:
            # The planner keeps the model it has; the next update tries again.
            self._failure = str(error)
            self.get_logger().error(f"update failed: {error}")
        self._update_ms.append(1e3 * (time.perf_counter() - begin))
        self._publish(job.effective_from, job.next_effective_from)
        self._busy.clear()

    def _publish(self, effective_from: int, next_effective_from: int) -> None:
        info = describe(self._robot, self._model, self._error, effective_from, next_effective_from)
        self._publisher.publish(bytes_message(encode(self._model, info)))

    def on_shutdown(self) -> None:
        """Let the update under way end."""
        self._jobs.put(None)
        self._worker.join(timeout=2.0)
        self._diagnostics.publish()

    def _report(self) -> Report:
        update_ms = sorted(self._update_ms)
        median = update_ms[len(update_ms) // 2] if update_ms else float("nan")
        text = self._failure or ("learning" if update_ms else "waiting for transitions")
        return (
            ERROR if self._failure else OK,
            text,
            {
                "transitions": self._recorder.kept,
                "skipped_steps": self._recorder.skipped,
                "rejected_messages": self._rejected,
                "model_transitions": self._model.transitions,
                "one_step_error": self._error,
                "updates": len(update_ms),
                "update_ms_median": median,
                "update_ms_max": update_ms[-1] if update_ms else float("nan"),
            },
        )


def main() -> None:
    """Run the node."""
    sys.exit(run(DynamicsLearner))


if __name__ == "__main__":
    main()
