# Copyright 2026 The mbrl_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Computing on a GPU what is called with, and returns, tensors of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_WARM_UPS = 2  # in which libraries make what must not be made while recording


class RecordedFunction:
    """A function of tensors, recorded once as a CUDA graph and replayed with other values.

    A rollout is some thousand small kernels; to launch them one by one takes longer than they
    do. function: called with tensors on the GPU, of the shapes and types of `examples`; it must
    neither wait for the GPU nor look at values. What else it uses must stay where it is.
    Raises RuntimeError if there is no GPU, or the function cannot be recorded.
    """

    def __init__(self, function: Callable[..., Tensor], examples: Sequence[Tensor]) -> None:
        # Page-locked, or copies would wait for one another.
        self._staged = [torch.empty_like(e, device="cpu").pin_memory() for e in examples]
        self._inputs = [example.to("cuda") for example in examples]
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream()
        with torch.no_grad(), torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                function(*self._inputs)
            # Another thread may be replaying the model before this one.
            self._graph.capture_begin(capture_error_mode="thread_local")
            self._output = function(*self._inputs)
            self._graph.capture_end()
        self._result = torch.empty_like(self._output, device="cpu").pin_memory()

    def __call__(self, *values: Tensor) -> Tensor:
        """Return what the function makes of values that are shaped like the examples."""
        with torch.cuda.stream(self._stream):
            for staged, there, value in zip(self._staged, self._inputs, values, strict=True):
                staged.copy_(value)
                there.copy_(staged, non_blocking=True)
            self._graph.replay()
            self._result.copy_(self._output, non_blocking=True)
            self._stream.synchronize()
        return self._result.clone()
