"""The device that networks run on is chosen by name; a wrong name is told in one line."""

import pytest
import torch

from rbsf.train.device import choose_device


def test_auto_is_a_device_that_is_there() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="device 'gpu' is not known; give auto, cpu or cuda"):
        choose_device("gpu")


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"device 'fpga' is not available here: .*; try cpu"):
        choose_device("fpga")
