"""Memory for large tensors."""

import pytest
import torch

from danlu.model.rooms import Rooms, copied, room


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("shape", [(0,), (3, 5), (700, 3, 401)])
def test_it_is_what_was_asked_for(dtype, shape):
    found = room(torch.empty(1, dtype=dtype), *shape)
    assert (found.shape, found.dtype, found.is_contiguous()) == (shape, dtype, True)
    assert found.data_ptr() % 64 == 0
    found.fill_(1)
    assert found.float().sum() == found.numel()


def test_a_copy_lies_without_gaps():
    x = torch.randn(400, 300).mT
    found = copied(x)
    assert torch.equal(found, x)
    assert found.is_contiguous()


def test_a_name_is_one_place_as_long_as_it_is_large_enough():
    rooms, like = Rooms(), torch.empty(1)
    first = rooms.room("a", like, 300, 300)
    assert rooms.room("a", like, 20, 30).data_ptr() == first.data_ptr()
    assert rooms.room("b", like, 300, 300).data_ptr() != first.data_ptr()
    assert rooms.room("a", like, 400, 300).shape == (400, 300)
