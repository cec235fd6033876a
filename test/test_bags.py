# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings become the transitions that the live stack would have made of them."""

import pytest
import torch
from recordings import (
    COMMAND,
    HARDWARE_START,
    JOINT_STATE,
    MILLISECOND,
    SECOND,
    Drive,
    drive,
    write_bag,
)
from rosbags.rosbag2 import StoragePlugin

from mbrl_ros.offline.bags import BagError, read_bag
from mbrl_ros.robots import load_robot

STORAGES = (StoragePlugin.MCAP, StoragePlugin.SQLITE3)


@pytest.fixture(scope="module")
def driven(cartpole):
    return drive(cartpole, 6.0)


def assert_alike(found, expected, action_tolerance):
    """States and stamps to the bit; actions as well as the time of commands is known."""
    assert abs(len(found) - len(expected)) <= 1
    found = found[torch.isin(found.stamps, expected.stamps)]
    expected = expected[torch.isin(expected.stamps, found.stamps)]
    assert len(found) > 100
    assert torch.equal(found.stamps, expected.stamps)
    assert torch.equal(found.states, expected.states)
    assert torch.equal(found.next_states, expected.next_states)
    assert (found.actions - expected.actions).abs().max() < action_tolerance


# A command that is recorded a millisecond late is a fiftieth of a step late, of at most 20 N.
ONE_MILLISECOND = 20.0 / 50.0


@pytest.mark.parametrize("storage", STORAGES)
def test_a_recording_gives_the_transitions_of_the_live_stack(tmp_path, cartpole, driven, storage):
    recording = read_bag(write_bag(tmp_path / "bag", driven, storage), cartpole)
    assert_alike(recording.transitions, driven.live(cartpole), ONE_MILLISECOND)
    assert recording.transitions.stamps[0] > HARDWARE_START
    assert (recording.skipped, recording.rejected) == (0, 0)
    assert recording.commands == len(driven.commands)


@pytest.mark.parametrize("ahead", [-5 * SECOND, 300 * MILLISECOND])
def test_a_recorder_whose_clock_is_set_otherwise_does_not_matter(
    tmp_path, cartpole, driven, ahead
):
    recording = read_bag(write_bag(tmp_path / "bag", driven, ahead=ahead), cartpole)
    assert_alike(recording.transitions, driven.live(cartpole), ONE_MILLISECOND)


def test_simulated_time_is_taken_from_the_clock(tmp_path, cartpole):
    """A simulation from time zero on, at a third of real time, recorded by the wall clock."""
    driven = drive(cartpole, 6.0, start=0)
    path = write_bag(tmp_path / "clock", driven, ahead=HARDWARE_START, pace=3.0, clock=True)
    # The clock was published at 100 Hz: commands count from up to 12 ms before.
    assert_alike(read_bag(path, cartpole).transitions, driven.live(cartpole), 12 * ONE_MILLISECOND)
    path = write_bag(tmp_path / "none", driven, ahead=HARDWARE_START, pace=3.0)
    with pytest.raises(BagError, match=r"ahead of the sensors' stamps.*record /clock too"):
        read_bag(path, cartpole)


def test_topics_are_found_under_a_namespace(tmp_path, cartpole, driven):
    path = write_bag(tmp_path / "bag", driven, namespace="/left/arm", more=["/joint_states"])
    for namespace in (None, "left/arm", "/left/arm/"):
        assert len(read_bag(path, cartpole, namespace).transitions) > 100
    with pytest.raises(BagError, match="no topic /right/joint_states, /right/effort_controller"):
        read_bag(path, cartpole, "right")
    both = ["/joint_states", "/effort_controller/commands"]
    path = write_bag(tmp_path / "both", driven, namespace="/left", more=both)
    with pytest.raises(BagError, match=r"several namespaces: /, /left; choose one"):
        read_bag(path, cartpole)


def test_missing_topics_and_wrong_types_are_named(tmp_path, cartpole, driven):
    path = write_bag(tmp_path / "a", driven, leave_out=["/effort_controller/commands"])
    message = (
        r"no topic /effort_controller/commands, which robot cartpole needs; "
        r"the bag holds /joint_states \(sensor_msgs/msg/JointState\)$"
    )
    with pytest.raises(BagError, match=message):
        read_bag(path, cartpole)
    path = write_bag(tmp_path / "b", driven, types=(JOINT_STATE, JOINT_STATE))
    message = f"commands is of type {JOINT_STATE}, robot cartpole expects {COMMAND}"
    with pytest.raises(BagError, match=message):
        read_bag(path, cartpole)


def test_bags_without_a_transition_are_refused(tmp_path, cartpole, driven):
    with pytest.raises(BagError, match=r"no usable transition .*: 0 states, 0 commands"):
        read_bag(write_bag(tmp_path / "empty", Drive()), cartpole)
    path = write_bag(tmp_path / "still", Drive(driven.sensors, []))
    with pytest.raises(BagError, match=r"no usable transition .*: 1\d\d states, 0 commands"):
        read_bag(path, cartpole)
    everything = ["/joint_states", "/effort_controller/commands"]
    with pytest.raises(BagError, match="the bag holds none at all"):
        read_bag(write_bag(tmp_path / "none", driven, leave_out=everything), cartpole)


def test_what_is_no_bag_is_refused(tmp_path, cartpole, driven):
    with pytest.raises(BagError, match="not a rosbag2 recording"):
        read_bag(tmp_path / "missing", cartpole)
    with pytest.raises(BagError, match="not a rosbag2 recording"):
        read_bag(tmp_path, cartpole)


@pytest.mark.parametrize("storage", STORAGES)
def test_damaged_bags_are_refused(tmp_path, cartpole, driven, storage):
    path = write_bag(tmp_path / "bag", driven, storage)
    file = next(file for file in path.iterdir() if file.suffix in (".mcap", ".db3"))
    content = file.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"x" * 1000 + content[1000:]):
        file.write_bytes(damaged)
        with pytest.raises(BagError, match=r"not a rosbag2 recording|cannot be read to its end"):
            read_bag(path, cartpole)


def test_messages_that_cannot_be_used_are_told(tmp_path, cartpole, driven):
    sensors = [
        (stamp, names if i % 10 else ["other", "pole_hinge"], position, velocity)
        for i, (stamp, names, position, velocity) in enumerate(driven.sensors)
    ]
    recording = read_bag(write_bag(tmp_path / "bag", Drive(sensors, driven.commands)), cartpole)
    assert recording.rejected == len(sensors[::10])
    assert "no position of joint 'cart_slider'" in str(recording)


def test_sensors_without_stamps_are_refused(tmp_path, cartpole, driven):
    sensors = [(0, *rest) for _, *rest in driven.sensors]
    with pytest.raises(BagError, match="has a time stamp; the driver has to set"):
        read_bag(write_bag(tmp_path / "bag", Drive(sensors, driven.commands)), cartpole)


def test_a_robot_with_a_reward_needs_its_topic(tmp_path, cartpole_file, driven):
    robot = load_robot(str(cartpole_file(reward="reward")))
    with pytest.raises(BagError, match="no topic /reward"):
        read_bag(write_bag(tmp_path / "bag", driven), robot)
