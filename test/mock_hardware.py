# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a real cart-pole: a process of its own, on the wall clock.

python test/mock_hardware.py --seed 3 --record mock.json

It shares no code with the package. Its physics are not those of the package's simulation: each
seed is another machine, every parameter 20 to 50 % off, with static and Coulomb friction,
quantised sensors, velocities that are differences of positions, jitter, messages lost in both
directions, and commands that take effect late. The rail ends in hard stops. Without commands
for a while the motor goes limp, as under a driver's watchdog. On SIGINT or SIGTERM it prints,
and writes to --record, what happened.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import signal
import sys
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

GRAVITY = 9.81
RAIL = 1.8  # m from the middle to either stop
RESTITUTION = 0.2
STEP = 0.001  # s of one integration step
SAMPLE = 0.01  # s between two readings of the sensors
CONTROL_PERIOD = 0.05  # s; delays are told in these
FORCE_LIMIT = 10.0  # N that may be asked for
UP = 0.2  # rad from upright
HOLD = 2.0  # s that it has to stay there
PRIORITY = 50  # of this process among those in real time, where that is allowed


@dataclass
class Physics:
    """One machine. SI units; gain: force per force asked for."""

    cart_mass: float = 1.0
    pole_mass: float = 0.1
    pole_length: float = 1.0
    cart_damping: float = 0.2
    hinge_damping: float = 0.002
    gain: float = 1.0
    coulomb: float = 0.3  # N on the cart while it moves
    breakaway: float = 0.5  # N to be overcome from rest
    stribeck_speed: float = 0.05  # m/s over which the one falls to the other

    @staticmethod
    def drawn(seed: int) -> Physics:
        """Put every parameter that has a counterpart elsewhere 20 to 50 % off."""
        generator = random.Random(seed)
        physics = Physics()
        for name in ("cart_mass", "pole_mass", "pole_length", "cart_damping", "hinge_damping"):
            _put_off(physics, name, generator)
        return physics


def _put_off(physics: Physics, name: str, generator: random.Random) -> None:
    share = generator.choice((-1.0, 1.0)) * generator.uniform(0.2, 0.5)
    setattr(physics, name, getattr(physics, name) * (1.0 + share))


class CartPole:
    """A uniform pole hinged to a cart on a rail; angle zero is upright."""

    def __init__(self, physics: Physics) -> None:
        self._physics = physics
        self.position, self.velocity = 0.0, 0.0
        self.angle, self.rate = math.pi, 0.0
        self.hits = 0
        self.hardest_hit = 0.0  # m/s
        self.farthest = 0.0  # m

    def step(self, asked: float) -> None:
        """Integrate one step (semi-implicit Euler) with a force asked of the motor."""
        p = self._physics
        motor = p.gain * max(-FORCE_LIMIT, min(FORCE_LIMIT, asked))
        sine, cosine = math.sin(self.angle), math.cos(self.angle)
        half = 0.5 * p.pole_length
        inertia = p.pole_mass * p.pole_length**2 / 3.0
        mass = p.cart_mass + p.pole_mass
        lever = p.pole_mass * half
        pole_torque = lever * GRAVITY * sine - p.hinge_damping * self.rate
        push = motor - p.cart_damping * self.velocity + lever * self.rate**2 * sine
        determinant = mass * inertia - (lever * cosine) ** 2

        def accelerations(force: float) -> tuple[float, float]:
            cart = (inertia * force - lever * cosine * pole_torque) / determinant
            pole = (mass * pole_torque - lever * cosine * force) / determinant
            return cart, pole

        free, _ = accelerations(push)
        # Friction stops the cart within the step, or opposes the motion with what it has.
        stopping = -(self.velocity / STEP + free) * determinant / inertia
        slip = math.exp(-((self.velocity / p.stribeck_speed) ** 2))
        available = p.coulomb + (p.breakaway - p.coulomb) * slip
        friction = max(-available, min(available, stopping))
        cart, pole = accelerations(push + friction)
        self.velocity += STEP * cart
        self.rate += STEP * pole
        self.position += STEP * self.velocity
        self.angle += STEP * self.rate
        if abs(self.position) >= RAIL:
            outward = self.velocity * self.position > 0.0
            if outward:
                self.hits += abs(self.velocity) > 0.01  # leaning on the stop is not another hit
                self.hardest_hit = max(self.hardest_hit, abs(self.velocity))
                self.velocity *= -RESTITUTION
            self.position = math.copysign(RAIL, self.position)
        self.farthest = max(self.farthest, abs(self.position))

    @property
    def from_upright(self) -> float:
        """Radians >= 0."""
        return abs(math.remainder(self.angle, 2.0 * math.pi))


class MockHardware(Node):
    """Sensors out, commands in, both imperfect; physics run in the caller's thread."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__("mock_hardware", namespace=options.namespace)
        self._physics = Physics.drawn(options.seed)
        self.plant = CartPole(self._physics)
        self._random = random.Random(options.seed + 1)
        self._options = options
        self._origin = time.time_ns() - time.monotonic_ns()
        self._time = time.monotonic()  # that the plant has been integrated up to
        self._next_sample = self._time + SAMPLE
        self._coming: deque[tuple[float, float]] = deque()  # when in force, newtons
        self._asked = 0.0
        self._asked_at = -math.inf  # when the command in force came into force
        self._limp_since: float | None = None
        self._readings: deque[tuple[int, int]] = deque(maxlen=2)
        self._outbox: deque[tuple[float, JointState]] = deque()
        self.first_command: float | None = None
        self._last_command: list[float] = []
        self._up_since: float | None = None
        self._up_at: float | None = None
        self._counts = {"published": 0, "lost": 0, "commands": 0, "commands_lost": 0, "bad": 0}
        self._limps = 0
        self._latest = 0.0
        self._publisher = self.create_publisher(JointState, "joint_states", 10)
        self.create_subscription(
            Float64MultiArray, "effort_controller/commands", self._on_command, 10
        )

    def _on_command(self, message: Float64MultiArray) -> None:
        values, now = list(message.data), time.monotonic()
        self._counts["commands"] += 1
        self._last_command = values
        if len(values) != 1 or not math.isfinite(values[0]):
            self._counts["bad"] += 1
            return
        if self._random.random() < self._options.loss:
            self._counts["commands_lost"] += 1
            return
        if self.first_command is None:
            self.first_command = now
        self._coming.append((now + self._options.delay * CONTROL_PERIOD, values[0]))

    def advance(self) -> float:
        """Catch up with the wall clock; return seconds until there is something to do."""
        now = time.monotonic()
        self._latest = max(self._latest, now - self._time)
        while self._time + STEP <= now:
            while self._coming and self._coming[0][0] <= self._time:
                self._asked_at, self._asked = self._coming.popleft()
                self._limp_since = None
            if self._limp_since is None and self._time - self._asked_at > self._options.watchdog:
                self._limp_since = self._time
                self._limps += self.first_command is not None
            self.plant.step(self._asked if self._limp_since is None else 0.0)
            self._time += STEP
            self._judge()
            if self._time >= self._next_sample:
                self._sample()
                self._next_sample += SAMPLE
        while self._outbox and self._outbox[0][0] <= now:
            self._publisher.publish(self._outbox.popleft()[1])
            self._counts["published"] += 1
        due = min([self._next_sample, *(at for at, _ in self._outbox)])
        return max(due - time.monotonic(), 0.0)

    def _judge(self) -> None:
        if self.first_command is None or self.plant.from_upright > UP:
            self._up_since = None
            return
        if self._up_since is None:
            self._up_since = self._time
        if self._up_at is None and self._time - self._up_since >= HOLD:
            self._up_at = self._up_since - self.first_command

    def _sample(self) -> None:
        """Read the encoders; hand the message over to be sent a little later, or lose it."""
        quanta = (self._options.cart_quantum, self._options.pole_quantum)
        # Rest is the middle of a count; at its edge, rounding errors would look like motion.
        counts = tuple(
            round(value / quantum)
            for value, quantum in zip((self.plant.position, self.plant.angle), quanta, strict=True)
        )
        self._readings.append((counts[0], counts[1]))
        before, after = self._readings[0], self._readings[-1]
        if self._random.random() < self._options.loss:
            self._counts["lost"] += 1
            return
        message = JointState(
            name=["pole_hinge", "cart_slider"],
            position=[after[1] * quanta[1], after[0] * quanta[0]],
            velocity=[
                (after[1] - before[1]) * quanta[1] / SAMPLE,
                (after[0] - before[0]) * quanta[0] / SAMPLE,
            ],
        )
        stamp = self._origin + round(self._time * 1e9)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
        late = self._random.uniform(0.0, self._options.jitter)
        send_at = max(self._time + late, self._outbox[-1][0] if self._outbox else 0.0)
        self._outbox.append((send_at, message))

    def record(self) -> dict[str, object]:
        """Return what happened; seconds count from the first command."""
        moved = self._time - self.first_command if self.first_command is not None else 0.0
        return {
            "seed": self._options.seed,
            "physics": asdict(self._physics),
            "moved_s": round(moved, 3),
            "up_at_s": None if self._up_at is None else round(self._up_at, 3),
            "max_abs_position": round(self.plant.farthest, 4),
            "hits": self.plant.hits,
            "hardest_hit": round(self.plant.hardest_hit, 3),
            "last_command": self._last_command,
            "limps": self._limps,
            "late_ms_max": round(1e3 * self._latest, 1),
            **self._counts,
        }


def main() -> int:
    """Run until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="which machine, and its noise")
    parser.add_argument("--record", type=Path, help="JSON file for what happened")
    parser.add_argument("--namespace", default="")
    parser.add_argument("--delay", type=float, default=1.5, help="of commands, control periods")
    parser.add_argument("--loss", type=float, default=0.01, help="share of messages lost")
    parser.add_argument("--jitter", type=float, default=0.004, help="s that a message may wait")
    parser.add_argument("--watchdog", type=float, default=0.3, help="s until the motor is limp")
    parser.add_argument("--cart-quantum", type=float, default=0.0002, help="m of one count")
    parser.add_argument(
        "--pole-quantum", type=float, default=2.0 * math.pi / 8192, help="rad of one count"
    )
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with contextlib.suppress(OSError):  # a robot does not wait for other programs
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = MockHardware(options)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stop.is_set():
        executor.spin_once(timeout_sec=min(node.advance(), SAMPLE))
    record = json.dumps(node.record())
    if options.record is not None:
        options.record.write_text(record + "\n", encoding="utf-8")
    print(record, flush=True)
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
