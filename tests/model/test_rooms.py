"""Memory for large tensors."""

import numpy as np
import pytest
import torch

from danlu.model import rooms
from danlu.model.rooms import Rooms, copied, room


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(0,), (3, 5), (700, 3, 401)])
def test_it_is_what_was_asked_for(dtype, shape):
    found = room(torch.empty(1, dtype=dtype), *shape)
    assert (found.shape, found.dtype, found.is_contiguous()) == (shape, dtype, True)
    assert found.data_ptr() % 64 == 0
    found.fill_(1)
    assert found.float().sum() == found.numel()


@pytest.mark.parametrize(("numbers", "numpys"), [((1 << 16) - 1, False), (1 << 16, True)])
def test_memory_for_large_tensors_is_numpys(numbers, numpys, monkeypatch):
    asked, plain = [], np.empty
    monkeypatch.setattr(rooms.np, "empty", lambda *size, **kind: asked.append(size) or plain(*size, **kind))
    room(torch.empty(1), numbers)
    assert bool(asked) is numpys


def test_a_copy_lies_without_gaps():
    x = torch.randn(400, 300).mT
    found = copied(x)
    assert torch.equal(found, x)
    assert found.is_contiguous()


def test_a_name_is_one_place_as_long_as_it_is_large_enough():
    named, like = Rooms(), torch.empty(1)
    first = named.room("a", like, 300, 300)
    assert named.room("a", like, 20, 30).data_ptr() == first.data_ptr()
    assert named.room("b", like, 300, 300).data_ptr() != first.data_ptr()
    assert named.room("a", like, 400, 300).shape == (400, 300)
