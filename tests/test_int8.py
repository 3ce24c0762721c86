"""The 8-bit convolution where it says that it is exact, against float64."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from maqd_snn.int8 import exact, int8_conv2d
from maqd_snn.integer import ops
from maqd_snn.integer.int8 import Int8Conv


@pytest.mark.parametrize(("largest_level", "largest_code"), [(1, 1), (1, 127), (3, 7), (15, 3), (255, 1), (129, 127)])
@pytest.mark.parametrize("groups", [1, 2])
def test_where_it_is_exact_it_equals_float64(largest_level: int, largest_code: int, groups: int) -> None:
    shape = (6, 16 // groups, 3, 3)
    if not exact(shape, groups, largest_level, largest_code):
        pytest.skip("this CPU or torch has no exact 8-bit convolution for these operands")
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, largest_level + 1, (4, 16, 9, 7), generator=generator)
    q = torch.randint(-largest_code, largest_code + 1, shape, generator=generator)
    x[0], q[0] = largest_level, largest_code
    truth = F.conv2d(x.double(), q.double(), None, 2, 1, 1, groups)
    z = int8_conv2d(
        x.to(torch.uint8).contiguous(memory_format=torch.channels_last),
        q.to(torch.int8),
        [2, 2],
        [1, 1],
        [1, 1],
        groups,
    )
    assert torch.equal(z.double(), truth)


@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
def test_strided_points_are_exact_where_threads_wait_for_each_other(padding: tuple[int, int]) -> None:
    """oneDNN's own stride is wrong in a tenth to a half of such calls on a busy machine with two threads."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 16, (100, 8, 8, 8), generator=generator).to(torch.uint8)
    op = ops.Conv2d("c", ("x",), torch.randint(-5, 6, (12, 8, 1, 1), generator=generator), (2, 2), padding)
    truth = F.conv2d(x.double(), op.weight.double(), None, op.stride, op.padding)
    levels, codes = x.contiguous(memory_format=torch.channels_last), op.weight.to(torch.int8)
    packed, threads = Int8Conv(op, 0, 15), torch.get_num_threads()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    torch.set_num_threads(max(2, threads))
    try:
        for _ in range(150):
            assert torch.equal(packed(x).double(), truth)
            assert torch.equal(int8_conv2d(levels, codes, [2, 2], list(padding), [1, 1], 1).double(), truth)
    finally:
        torch.set_num_threads(threads)
        for process in busy:
            process.kill()
            process.wait()


def test_operands_beyond_8_bits_are_refused() -> None:
    assert not exact((4, 4, 3, 3), 1, 256, 1)
    assert not exact((4, 4, 3, 3), 1, 1, 128)


def test_a_product_that_saturates_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without VNNI: the sum of a pair of products stops at 32767."""

    def saturating(x, q, stride, padding, dilation, groups):
        x, q = x.double(), q.double()
        pairs = [F.conv2d(x[:, i : i + 2], q[:, i : i + 2], None, 1, padding) for i in range(0, x.shape[1], 2)]
        return sum(pair.clamp(-32768, 32767) for pair in pairs).float()

    exact.cache_clear()
    monkeypatch.setattr("maqd_snn.int8.int8_conv2d", saturating)
    assert exact((4, 8, 1, 1), 1, 129, 127)  # 2 * 129 * 127 = 32766
    assert not exact((4, 8, 1, 1), 1, 130, 127)
    exact.cache_clear()
