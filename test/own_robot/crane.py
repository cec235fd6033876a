# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A crane that the package has never heard of: millimetres, degrees, topics of its own.

It stands in for a robot that somebody brings along, so it shares no code with the package: a
trolley on a rail, driven by a speed controller, and a load that swings on a rope below it.
"""

import array
import math
import signal
import sys
import threading
import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

ROPE, GRAVITY = 0.8, 9.81  # m, m/s^2
SWING_LOSS = 0.08  # 1/s
LAG, GRIP = 0.15, 1.5  # s, m/s^2: of the speed controller and its drive
RAIL = 1.5  # m to either side
STEP = 0.002  # s
RATE = 50.0  # messages a second


def main() -> None:
    """Run until SIGINT or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("crane")
    speed_wished, heard = 0.0, 0.0

    def on_setpoint(message: JointState) -> None:
        nonlocal speed_wished, heard
        speed_wished = message.velocity[message.name.index("trolley")] / 1000.0
        heard = time.monotonic()

    node.create_subscription(JointState, "crane/setpoint", on_setpoint, 1)
    encoders = node.create_publisher(Float64MultiArray, "crane/encoders", 5)
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    trolley, speed, swing, swing_speed = -0.8, 0.0, 0.0, 0.0
    now = sent = time.monotonic()
    while not stop.is_set():
        executor.spin_once(timeout_sec=STEP)
        if time.monotonic() - heard > 0.5:
            speed_wished = 0.0  # the drive's own watchdog
        while now < time.monotonic():
            acceleration = min(max((speed_wished - speed) / LAG, -GRIP), GRIP)
            speed += STEP * acceleration
            trolley += STEP * speed
            if abs(trolley) > RAIL:
                trolley, speed = math.copysign(RAIL, trolley), 0.0
            swing_speed -= STEP * (
                (GRAVITY * math.sin(swing) + acceleration * math.cos(swing)) / ROPE
                + SWING_LOSS * swing_speed
            )
            swing += STEP * swing_speed
            now += STEP
        if now - sent >= 1.0 / RATE:
            sent = now
            # Encoders count tenths of a millimetre and hundredths of a degree.
            values = [round(1e4 * trolley) / 10.0, round(100.0 * math.degrees(swing)) / 100.0]
            encoders.publish(Float64MultiArray(data=array.array("d", values)))
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
