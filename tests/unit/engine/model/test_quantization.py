"""The rewritten blocks mean what the GGUF's blocks meant; `gguf`'s own dequantization is the judge."""

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry_lab.engine.model import quantization as quant

shapes = st.tuples(st.integers(1, 6), st.integers(1, 70))
seeds = st.integers(0, 2**32 - 1)


def random_matrix(shape, seed):
    """Rows and blocks of very different scales."""
    random = np.random.default_rng(seed)
    rows, blocks = shape
    scales = 10.0 ** random.uniform(-2, 2, (rows, blocks, 1))
    return (random.normal(0, 1, (rows, blocks, quant.BLOCK)) * scales).reshape(rows, -1).astype(np.float32)


def dequantize(matrix):
    values = matrix.weights.astype(np.float64) - matrix.zero_points[..., None]
    return values * matrix.scales[..., None]


@given(shapes, seeds)
def test_q8_0_is_exact(shape, seed):
    raw = gguf.quants.quantize(random_matrix(shape, seed), gguf.GGMLQuantizationType.Q8_0)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)
    got = dequantize(quant.from_q8_0(raw)).reshape(expected.shape)
    np.testing.assert_array_equal(got.astype(np.float32), expected)


@given(shapes, seeds)
def test_q4_1_with_its_rests_is_right_to_half_a_step_of_the_rests(shape, seed):
    raw = gguf.quants.quantize(random_matrix(shape, seed), gguf.GGMLQuantizationType.Q4_1)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q4_1)
    rows, blocks = shape
    matrix = quant.from_q4_1(raw)
    assert matrix.weights.max() <= 15 and matrix.zero_points.max() <= 15
    values = dequantize(matrix)
    rests = values[:, blocks:].reshape(rows, -1)
    got = values[:, :blocks] + rests[:, :blocks, None]
    step = np.repeat(matrix.scales[:, blocks:], quant.BLOCK, axis=1)[:, :blocks, None]
    # One step more than half of one: both ends of the range are rounded to the grid of the zero point.
    error = np.abs(got.reshape(expected.shape) - expected).reshape(rows, blocks, -1)
    assert (error <= 1.001 * step).all()
    assert np.median(error / step) <= 0.51
    assert not rests[:, blocks:].any()


@given(shapes, seeds)
def test_block_sums_sum_the_inputs_of_every_block(shape, seed):
    matrix = random_matrix(shape, seed)
    inputs = np.random.default_rng(seed).normal(size=matrix.shape[1])
    blocks = shape[1]
    sums = inputs @ quant.block_sums(matrix.shape[1])
    assert sums.size % quant.BLOCK == 0
    np.testing.assert_allclose(sums[:blocks], inputs.reshape(blocks, quant.BLOCK).sum(1), atol=1e-5)
    assert not sums[blocks:].any()


def test_q4_1_block_without_zero_in_its_range_is_refused():
    raw = gguf.quants.quantize(np.linspace(1, 2, 32, dtype=np.float32)[None], gguf.GGMLQuantizationType.Q4_1)
    with pytest.raises(ValueError, match="include zero"):
        quant.from_q4_1(raw)


@given(st.lists(st.integers(0, 15), min_size=1, max_size=9))
def test_nibbles_come_out_in_order(values):
    packed = quant.pack_nibbles(np.array([values], np.uint8))[0]
    unpacked = [nibble for byte in packed for nibble in (byte & 15, byte >> 4)]
    assert unpacked[: len(values)] == values
    assert not any(unpacked[len(values) :])


def test_unpermute_undoes_what_llama_cpp_does():
    heads, half, columns = 3, 4, 5
    rows = np.arange(heads * 2 * half * columns).reshape(-1, columns)
    # As convert_hf_to_gguf.py writes q and k.
    permuted = rows.reshape(heads, 2, half, columns).swapaxes(1, 2).reshape(rows.shape)
    assert not np.array_equal(permuted, rows)
    np.testing.assert_array_equal(quant.unpermute(permuted, heads), rows)
