# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the operating system refuses, in words."""

import errno

import pytest

from mbrl_ros.cli import _horizon_steps
from mbrl_ros.errors import reason, told


def test_no_number_of_an_error_is_shown(tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        (tmp_path / "none").read_text("utf-8")
    assert told(missing.value) == f"{tmp_path / 'none'}: there is no such file; check the path"
    with pytest.raises(IsADirectoryError) as folder:
        tmp_path.read_text("utf-8")
    assert reason(folder.value) == "is a folder; expected the path of a file"
    assert "make room" in told(OSError(errno.ENOSPC, "No space left on device"))
    assert reason(OSError(errno.EIO, "Input/output error")) == "input/output error"
    assert told(ValueError("as it is")) == "as it is"


def test_a_horizon_that_the_data_cut_is_said(capsys):
    pieces = [range(10), range(30)]  # only their lengths count
    assert _horizon_steps(pieces, 1.0, 0.05) == 20
    assert capsys.readouterr().err == ""
    assert _horizon_steps(pieces, 2.0, 0.05) == 30
    assert "30 steps; evaluating over 1.5 s" in capsys.readouterr().err
