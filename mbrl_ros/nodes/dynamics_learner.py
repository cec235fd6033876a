# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Node `dynamics_learner`: pairs states with applied actions and keeps improving the model."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch
from std_msgs.msg import UInt8MultiArray
from std_srvs.srv import SetBool, Trigger

from mbrl_ros.dynamics.adaptation import usual_change
from mbrl_ros.dynamics.dataset import TransitionRecorder
from mbrl_ros.dynamics.delay import DelayEstimator
from mbrl_ros.dynamics.experience import Experience, ExperienceError
from mbrl_ros.dynamics.model import DynamicsModel, Transitions, make_model
from mbrl_ros.dynamics.online import OnlineLearner
from mbrl_ros.dynamics.snapshot import (
    MAX_BYTES,
    SnapshotError,
    decode,
    describe,
    encode,
    saved,
)
from mbrl_ros.errors import reason
from mbrl_ros.robots import load_robot
from mbrl_ros.robots.spec import NANOSECONDS, RobotSpec
from mbrl_ros.ros.conversions import bytes_message
from mbrl_ros.ros.diagnostics import ERROR, OK, Diagnostics, Report
from mbrl_ros.ros.parameters import ROBOT, Parameter, ParameterError, declare
from mbrl_ros.ros.qos import LATCHED
from mbrl_ros.ros.recording import Recording
from mbrl_ros.ros.runtime import ManagedNode, run


def _network_options(kind: str) -> tuple[Parameter, ...]:
    return (
        Parameter(f"{kind}.hidden", [200, 200, 200], "Units of each hidden layer."),
        Parameter(
            f"{kind}.loss_steps", 1, "How many steps ahead the training loss looks.", 1, 100
        ),
        Parameter(
            f"{kind}.recent_share", 0.1, "Share of a minibatch from the newest steps.", 0.0, 1.0
        ),
        Parameter(f"{kind}.capacity", 200_000, "Transitions remembered.", 100, 10_000_000),
        Parameter(
            f"{kind}.device",
            "auto",
            "Where it trains: cpu, cuda, or auto: on a GPU if there is one.",
        ),
    )


# Options of the kinds of this package; those of others run with their defaults.
OPTIONS = {
    "gp": (Parameter("gp.max_points", 200, "Points that predictions rest on.", 2, 2000),),
    "svgp": (
        Parameter("svgp.max_points", 300, "Points that predictions rest on.", 2, 2000),
        Parameter("svgp.memory", 5000, "Transitions that count.", 100, 100_000),
    ),
    "ensemble": (
        Parameter("ensemble.members", 5, "Networks.", 1, 64),
        *_network_options("ensemble"),
    ),
    "mlp": _network_options("mlp"),
}

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
    Parameter(
        "slices",
        1,
        "Slices of training that follow every update; the background adds more, not in lockstep.",
        0,
        1000,
    ),
    Parameter("threads", 1, "Threads of one update.", 1, 64),
    Parameter(
        "cpu_share",
        0.9,
        "Share of one core that learning takes at most; without effect in lockstep.",
        0.05,
        1.0,
    ),
    Parameter(
        "niceness",
        19,
        "Added to the niceness of the thread that learns; at 19 it takes what the others leave.",
        0,
        19,
    ),
    Parameter(
        "publish_rate",
        5.0,
        "Models published per second at most; without effect in lockstep.",
        0.01,
        100.0,
    ),
    Parameter(
        "experience",
        "",
        "Directory in which every transition is stored, and from which the learner goes on; "
        "empty: none.",
    ),
    Parameter("model_file", "", "Saved model to start from; empty: none."),
    Parameter(
        "delay_compensation",
        True,
        "Measure how late commands take effect, and pair states with the actions in force then.",
    ),
    Parameter(
        "adapt",
        "auto",
        "What to do when the world seems to have changed: auto: correct what was known by what "
        "is new, and widen the uncertainty meanwhile; none: learn on as if nothing had happened.",
    ),
    *(option for options in OPTIONS.values() for option in options),
)


_ADAPT = ("auto", "none")
# Stored transitions that a start learns from.
_LOADED = 20_000
# Slices of training that they get before the robot may move, at most.
_START_SLICES = 100
# Steps between two looks at how late commands take effect, and how many are looked at.
_DELAY_EVERY = 5
_DELAY_STEPS = 300
# Updates whose times diagnostics summarise.
_WINDOW = 10_000
# Seconds after which an update that is under way is told of.
_LONG_UPDATE = 10.0
# How far back diagnostics look at how well the model does.
_QUALITY_WINDOW = 60 * NANOSECONDS


@dataclass(frozen=True)
class _Job:
    """One update: from what, and from which ticks on its result and its successor count.

    delay: of commands, in nanoseconds, under which `new` was paired. again: whether `new` is
    all there is to learn, because it was paired under another delay before.
    """

    new: Transitions
    effective_from: int
    next_effective_from: int
    delay: int
    again: bool = False


class DynamicsLearner(ManagedNode):
    """Receives in the executor's thread, learns in a thread of its own."""

    def __init__(self) -> None:
        super().__init__("dynamics_learner")
        values = declare(self, PARAMETERS)
        torch.set_num_threads(values["threads"])
        self._robot = load_robot(values["robot"])
        self._adapt = values["adapt"] == "auto"
        if values["adapt"] not in _ADAPT:
            raise ParameterError(
                f"parameter 'adapt': is '{values['adapt']}', expected {' or '.join(_ADAPT)}"
            )
        kind = values["model"]
        options = {o.name.partition(".")[2]: values[o.name] for o in OPTIONS.get(kind, ())}
        _check_size(make_model(kind, self._robot, values["seed"], **options), self._robot)
        self._learner = OnlineLearner(
            lambda: make_model(kind, self._robot, values["seed"], **options),
            _QUALITY_WINDOW,
            adapt=self._adapt,
        )
        self._changes = 0  # of the world
        self._changed_at = 0.0  # the last of them, seconds of robot time
        self._quality = self._learner.quality()
        self._slices = values["slices"]
        self._cpu_share = values["cpu_share"]
        self._niceness = values["niceness"]
        self._publish_period = 1.0 / values["publish_rate"]
        self._first_update = values["first_update"]
        self._update_every = values["update_every"]
        self._lockstep = values["lockstep"]
        self._interval = self._robot.period_nanoseconds * self._update_every
        self._recorder = TransitionRecorder(self._robot)
        self._delay_compensation = values["delay_compensation"]
        self._next_look = 0  # steps at which the delay is looked at next
        self._again = False  # whether all is to be learned again, under another delay
        self._pending = self._recorder.take()  # stored, not yet learned from
        self._uncertain = False  # whether the last change may yet be taken back
        self._unmarked: int | None = None  # stamp of a change that is yet to be stored
        self._stored = 0
        self._unstored = 0
        self._snapshot = b""  # the last one published
        self._paused = threading.Event()
        self._reset = threading.Event()
        self._last_update = 0  # steps at the last update
        self._announced = False
        self._failure = ""
        self._stop = threading.Event()
        self._unpublished = False  # whether there is something new since the last one
        self._effective = (0, 0)  # of the last update, see SnapshotInfo
        self._next_publication = 0.0  # seconds of the monotonic clock
        self._publications = 0
        self._held_back = 0
        self._update_ms: deque[float] = deque(maxlen=_WINDOW)
        self._began: float | None = None  # the update under way, seconds of the monotonic clock
        self._experience = self._open_experience(values["experience"])
        known_delay = self._learn_from_past(values["model_file"])
        model = self._learner.model
        known = model.remembered()
        self._delay = DelayEstimator(
            model.features,
            self._robot.period_nanoseconds,
            known_delay,
            usual_change(model, known).numpy() if len(known) else None,
        )
        self._recorder.delay = self._delay.delay if self._delay_compensation else 0
        self._adopted_delay = self._recorder.delay  # under which the model in use was learned
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._busy = threading.Event()
        self._publisher = self.create_publisher(UInt8MultiArray, "model", LATCHED)
        self._recording = Recording(
            self, self._robot, self._recorder, self._announce, self._maybe_update
        )
        self.create_service(Trigger, "~/save", self._on_save)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/pause", self._on_pause)
        self._diagnostics = Diagnostics(self, self._robot.name, self._report)
        self._worker = threading.Thread(target=self._work, name="updates", daemon=True)
        self._worker.start()

    # -- what is known already --------------------------------------------------------------

    def _open_experience(self, directory: str) -> Experience | None:
        self._save_folder = Path(directory or ".").absolute()
        return Experience(self._save_folder, self._robot) if directory else None

    def _learn_from_past(self, model_file: str) -> float:
        """Learn from what is stored; return the delay of commands known so far, in seconds."""
        model, delay = self._learner.model, self._robot.delay
        if model_file:
            try:
                info = decode(Path(model_file).read_bytes(), model, self._robot)
            except (OSError, SnapshotError) as error:
                raise ValueError(
                    f"parameter 'model_file': {model_file}: {reason(error)}"
                ) from None
            self.get_logger().info(f"starting from {model_file}: {info.transitions} transitions")
            delay = info.delay or delay
        worlds: list[Transitions] = []
        if self._experience is not None:
            found = self._experience.worlds(newest=_LOADED)
            worlds = [world for world in found if len(world) >= self._first_update]
            self._stored = len(self._experience)
        if worlds:
            # Of what came before a change only the last is of use: the new corrects it.
            model.update(worlds[-2] if len(worlds) > 1 and self._adapt else worlds[-1])
            self._improve(model)
        self._learner.start_from(model)
        if len(worlds) > 1 and self._adapt:
            self._learner.change(worlds[-1])
            self._improve(self._learner.model)
            self._learner.start_from(self._learner.model)
            self._changes = self._learner.changes
        if worlds:
            self.get_logger().info(f"learned from {len(worlds[-1])} stored transitions")
        return delay

    def _improve(self, model: DynamicsModel) -> None:
        for _ in range(_START_SLICES):
            if not model.improve():
                break

    # -- data -------------------------------------------------------------------------------

    def _announce(self, stamp: int, _state: list[float]) -> None:
        """Say, before the robot moves, that there is a learner, and when its model counts."""
        if not self._announced and self._recording.connected:
            # From here on no step can be lost. A model that knows nothing says so, too.
            self._announced = True
            first = self._first_update - self._update_every
            until_first = self._robot.period_nanoseconds * first + 2 * self._interval
            self._publish(stamp, stamp + until_first)

    def _store_new(self) -> None:
        if self._unmarked is not None and self._experience is not None:
            stamp, self._unmarked = self._unmarked, None
            try:
                self._experience.mark_change(stamp)
            except ExperienceError as error:
                self.get_logger().error(str(error))
        new = self._recorder.take()
        if len(new) == 0:
            return
        self._pending += new
        if self._experience is None:
            return
        try:
            self._experience.append(new)
            self._stored += len(new)
        except ExperienceError as error:
            self._unstored += len(new)
            self.get_logger().error(
                f"{error}; {self._unstored} transitions not stored", throttle_duration_sec=5.0
            )

    def _look_at_delay(self) -> None:
        """Measure how late commands take effect; if that has changed, pair all steps anew."""
        if not self._delay_compensation or self._recorder.steps < self._next_look:
            return
        self._next_look = self._recorder.steps + _DELAY_EVERY
        steps, actions = self._recorder.observed(_DELAY_STEPS)
        if steps is None or not self._delay.update(steps, actions):
            return
        self._recorder.delay = self._delay.delay
        self._pending, self._again = self._recorder.take_again(), True
        self.get_logger().info(
            f"commands take effect {1e-6 * self._delay.delay:.0f} ms after they are sent: "
            f"learning {len(self._pending)} transitions again with the actions in force then"
        )

    def _maybe_update(self) -> None:
        self._store_new()
        self._look_at_delay()
        steps = self._recorder.steps
        due = max(self._first_update, self._last_update + self._update_every)
        if steps < due or (self._busy.is_set() and not self._lockstep):
            return
        self._last_update = steps
        self._busy.set()
        effective = self._recorder.last_stamp + self._interval
        new, again, nothing = self._pending, self._again, self._pending[:0]
        if self._paused.is_set():
            new, again = nothing, False
        else:
            self._pending, self._again = nothing, False
        job = _Job(new, effective, effective + self._interval, self._recorder.delay, again)
        self._jobs.put(job)

    # -- learning ---------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
            more = False
            while not self._stop.is_set():
                begin = time.thread_time()
                try:
                    job = self._jobs.get(timeout=0.0 if more else self._until_publication())
                except queue.Empty:
                    if more:
                        more = not self._paused.is_set() and self._learner.improve()
                        self._unpublished = True
                else:
                    if job is None:
                        return
                    more = self._learn(job) and not self._lockstep
                    self._effective = (job.effective_from, job.next_effective_from)
                self._maybe_publish()
                self._busy.clear()
                if not self._lockstep:
                    # Used for so long, left to others for the rest.
                    used = time.thread_time() - begin
                    self._stop.wait(used * (1.0 / self._cpu_share - 1.0))
        except Exception:
            # A learner that only seems to learn is worse than none.
            self.fail(f"the update thread has died:\n{traceback.format_exc()}")

    def _learn(self, job: _Job) -> bool:
        """Take in new transitions and train a little; return whether to train on."""
        begin = self._began = time.monotonic()
        more = False
        if self._reset.is_set():
            self._reset.clear()
            self._learner.forget()
            self._unpublished = True
        try:
            if job.again:
                self._learner.restart()
            if len(job.new):
                self._learner.learn(job.new)
                self._note_change(int(job.new.stamps[-1]))
                self._unpublished = True
                more = all(self._learner.improve() for _ in range(self._slices))
            if job.again:
                # Not to be compared with a model that was learned under another delay.
                self._learner.adopt()
                self._adopted_delay = job.delay
            self._failure = ""
        except ValueError as error:
            # The planner keeps the model it has; the next update tries again.
            self._failure = str(error)
            self.get_logger().error(f"update failed: {error}")
        self._quality = self._learner.quality()
        self._update_ms.append(1e3 * (time.monotonic() - begin))
        self._began = None
        return more

    def _note_change(self, stamp: int) -> None:
        """Say so if the last update found a changed world, and note it once that is certain."""
        before, self._changes = self._changes, self._learner.changes
        if self._changes > before:
            self._changed_at = stamp / NANOSECONDS
            self._uncertain = True
            self.get_logger().warning(
                f"world changed at {self._changed_at:.2f} s: correcting what was known"
            )
        elif self._changes < before:
            self._uncertain = False
            self.get_logger().warning(
                "the world has not changed after all: the model was only wrong about it"
            )
        if self._uncertain and self._learner.proven:
            self._uncertain = False
            self._unmarked = self._learner.changed_since

    def _until_publication(self) -> float | None:
        """Return for how many seconds to wait for new transitions; None: for ever."""
        if not self._unpublished:
            return None
        return max(self._next_publication - time.monotonic(), 0.0)

    def _maybe_publish(self) -> None:
        """Publish what has been learned, if the time has come and it is good enough.

        In lockstep the planner waits for a model from every update; it gets the same again
        where the new one is not.
        """
        if not self._lockstep and self._until_publication() != 0.0:
            return
        if self._unpublished:
            self._unpublished = False
            if self._learner.better:
                self._learner.adopt()
            else:
                self._held_back += 1
                if not self._lockstep:
                    return
        self._publish(*self._effective)

    def _publish(self, effective_from: int, next_effective_from: int) -> None:
        self._next_publication = time.monotonic() + self._publish_period
        model = self._learner.adopted
        info = describe(
            self._robot,
            model,
            self._quality.one_step_error,
            effective_from,
            next_effective_from,
            delay=self._adopted_delay / NANOSECONDS,
            widening=self._learner.widening,
        )
        self._snapshot = encode(model, info)
        self._publisher.publish(bytes_message(self._snapshot))
        self._publications += 1

    # -- services ---------------------------------------------------------------------------

    def _on_save(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        path = self._save_folder / "model.safetensors"
        nothing = "nothing has been learned yet"
        response.success, response.message = saved(path, self._snapshot, nothing)
        return response

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._reset.set()
        response.success = True
        response.message = "the next update starts from nothing; stored experience stays"
        return response

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data:
            self._paused.set()
            response.message = "paused: the model stays as it is, experience is kept"
        else:
            self._paused.clear()
            response.message = "learning goes on"
        response.success = True
        return response

    def on_shutdown(self) -> None:
        """Let the update under way end."""
        self._stop.set()
        self._jobs.put(None)
        self._worker.join(timeout=2.0)
        self._diagnostics.publish()
        if self._experience is not None:
            self._experience.close()

    def _report(self) -> Report:
        update_ms = sorted(self._update_ms)
        median = update_ms[len(update_ms) // 2] if update_ms else float("nan")
        text = self._failure or ("learning" if update_ms else "waiting for transitions")
        if self._learner.adapting and not self._failure:
            text = f"world changed at {self._changed_at:.2f} s: forgetting what contradicts it"
        if self._paused.is_set():
            text = "paused"
        began = self._began
        if began is not None and time.monotonic() - began > _LONG_UPDATE:
            text = f"an update has been under way for {time.monotonic() - began:.0f} s"
        if self._unstored:
            text = f"{self._unstored} transitions could not be stored"
        return (
            ERROR if self._failure or self._unstored else OK,
            text,
            {
                "transitions": self._recorder.kept,
                "stored": self._stored,
                "unstored": self._unstored,
                "skipped_steps": self._recorder.skipped,
                "unrewarded_steps": self._recorder.unrewarded,
                "unsteered_steps": self._recorder.unsteered,
                "rejected_messages": self._recording.rejected,
                "model_transitions": self._learner.adopted.transitions,
                "one_step_error": self._quality.one_step_error,
                "coverage90": self._quality.coverage90,
                "changes": self._changes,
                "widening": self._learner.widening,
                "judged_by": self._quality.transitions,
                "delay_ms": 1e-6 * self._recorder.delay,
                "models_published": self._publications,
                "models_held_back": self._held_back,
                "updates": len(update_ms),
                "update_ms_median": median,
                "update_ms_max": update_ms[-1] if update_ms else float("nan"),
            },
        )


def _check_size(model: DynamicsModel, robot: RobotSpec) -> None:
    """Refuse networks that the planner would not accept, before they are trained."""
    size = len(encode(model, describe(robot, model, float("nan"))))
    if size > MAX_BYTES:
        raise ValueError(
            f"parameters '{model.kind}.*': a model of {size} bytes is too large to be sent, at "
            f"most {MAX_BYTES} are; use fewer or narrower layers, or fewer members"
        )


def main() -> None:
    """Run the node."""
    sys.exit(run(DynamicsLearner))


if __name__ == "__main__":
    main()
