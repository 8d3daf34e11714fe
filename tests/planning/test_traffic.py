"""Bytes of compiled programs: against XLA's own count where it has no loops, and by hand."""

import jax
import jax.numpy as jnp
import pytest

from softbio_jax.planning import hlo
from softbio_jax.planning.hlo import memory_bytes

X, W = jnp.zeros((128, 256)), jnp.zeros((5, 256, 256))


def compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (lambda x: jnp.tanh(x) + 1, (X,)),
        (lambda x, w: x @ w, (X, W[0])),
        (lambda x, w: jax.nn.softmax(jnp.tanh(x @ w[0]) @ w[1], axis=-1), (X, W)),
        (lambda w: w[3] * 2, (W,)),  # of five blocks one is read
        (lambda x: x.sum(), (X,)),
        (lambda x: x.astype(jnp.bfloat16), (X,)),
    ],
)
def test_without_loops_it_is_what_xla_counts(function, arguments):
    program = compiled(function, *arguments)
    counted = program.cost_analysis()["bytes accessed"]
    assert memory_bytes(program.as_text()) == pytest.approx(counted, rel=0.01)


def loop(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), x), x, w)


def test_a_loop_counts_as_often_as_it_runs():
    few, many = (memory_bytes(compiled(loop, X, W[:n]).as_text()) for n in (2, 5))
    # A turn: the block's weights from the stack, the product, tanh and the stacked output.
    kernel, rows = 4 * 256 * 256, 4 * 128 * 256
    a_turn = (many - few) / 3
    assert 2 * kernel + 4 * rows < a_turn < 3 * kernel + 10 * rows


def test_a_loop_unrolled_by_hand_moves_about_as_much():
    def unrolled(x, w):
        outputs = []
        for block in w:
            outputs.append(x)
            x = jnp.tanh(x @ block)
        return x, jnp.stack(outputs)

    scanned, flat = (memory_bytes(compiled(f, X, W).as_text()) for f in (loop, unrolled))
    assert 0.5 * flat < scanned < 2 * flat


TPU = """\
HloModule jit_step, is_scheduled=true

%fused (p.0: bf16[24,8,128], p.1: s32[], p.2: f32[8,8]) -> (bf16[8,128], f32[24,8,8]) {
  %p.0 = bf16[24,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  %p.2 = f32[8,8]{1,0:T(8,128)S(1)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %slice = bf16[1,8,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p.0, %p.1, %zero, %zero)
  %flat = bf16[8,128]{1,0:T(8,128)(2,1)} bitcast(%slice)
  %stack = f32[24,8,8]{2,1,0:T(8,128)} broadcast(%zero), dimensions={}
  %row = f32[1,8,8]{2,1,0:T(8,128)} bitcast(%p.2)
  %put = f32[24,8,8]{2,1,0:T(8,128)} dynamic-update-slice(%stack, %row, %p.1, %zero, %zero)
  ROOT %both = (bf16[8,128]{1,0:T(8,128)(2,1)}, f32[24,8,8]{2,1,0:T(8,128)}) tuple(%flat, %put)
}

%body (turn: (s32[], bf16[24,8,128])) -> (s32[], bf16[24,8,128]) {
  %turn = (s32[]{:T(128)}, bf16[24,8,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%turn), index=0
  %w = bf16[24,8,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%turn), index=1
  %small = f32[8,8]{1,0:T(8,128)S(1)} constant({...})
  %f = (bf16[8,128]{1,0:T(8,128)(2,1)S(1)}, /*index=1*/f32[24,8,8]{2,1,0:T(8,128)}) \
fusion(%w, %i, %small), kind=kLoop, calls=%fused
  ROOT %next = (s32[]{:T(128)}, bf16[24,8,128]{2,1,0:T(8,128)(2,1)}) tuple(%i, %w)
}

%condition (turn.1: (s32[], bf16[24,8,128])) -> pred[] {
  %turn.1 = (s32[]{:T(128)}, bf16[24,8,128]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%turn.1), index=0
  %blocks = s32[]{:T(128)} constant(24)
  ROOT %more = pred[]{:T(512)} compare(%i.1, %blocks), direction=LT
}

ENTRY %main (w.1: bf16[24,8,128]) -> bf16[24,8,128] {
  %w.1 = bf16[24,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %fetch = (bf16[24,8,128]{2,1,0:T(8,128)(2,1)}, bf16[24,8,128]{2,1,0:T(8,128)(2,1)S(1)}, \
u32[]{:S(2)}) copy-start(%w.1)
  %fetched = bf16[24,8,128]{2,1,0:T(8,128)(2,1)S(1)} copy-done(%fetch)
  %none = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, bf16[24,8,128]{2,1,0:T(8,128)(2,1)}) tuple(%none, %w.1)
  %run = (s32[]{:T(128)}, bf16[24,8,128]{2,1,0:T(8,128)(2,1)}) while(%start), \
condition=%condition, body=%body
  ROOT %out = bf16[24,8,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%run), index=1
}
"""


def test_a_tpu_program_by_hand():
    weights = 24 * 8 * 128 * 2
    # A turn reads one block of the weights and the turn's number, and writes one row of the stack;
    # what lies in the chip's own memory, S(1), is free. Once, all weights are fetched into it.
    a_turn = 8 * 128 * 2 + 4 + 8 * 8 * 4
    assert memory_bytes(TPU) == weights + 24 * a_turn


def test_a_program_is_read():
    computations, entry = hlo.parse(TPU)
    assert entry == "main" and set(computations) == {"fused", "body", "condition", "main"}
    fused = computations["fused"]
    assert fused["p.1"].parameter_number == 1 and fused["slice"].parameter_number is None
    assert fused["put"].operands[:2] == ("stack", "row")
    assert [array.nbytes for array in fused["both"].outputs] == [2048, 24 * 256]
    assert not fused["p.2"].first.in_memory


def test_a_stack_in_another_order_of_tiles_is_not_copied():
    # A mask is written into its stack and read from it, through a fusion that only names the tiles anew.
    program = """
%copied (s: pred[50,8,128]) -> pred[50,8,128] {
  %s = pred[50,8,128]{2,1,0:T(32,128)(4,1)} parameter(0)
  ROOT %copy = pred[50,8,128]{2,1,0:T(8,128)(4,1)} copy(%s)
}

%written (s.1: pred[50,8,128], row: pred[1,8,128], i: s32[]) -> pred[50,8,128] {
  %s.1 = pred[50,8,128]{2,1,0:T(32,128)(4,1)} parameter(0)
  %same = pred[50,8,128]{2,1,0:T(8,128)(4,1)} fusion(%s.1), kind=kLoop, \
output_to_operand_aliasing={{}: (0, {})}, calls=%copied
  %row = pred[1,8,128]{2,1,0:T(8,128)(4,1)} parameter(1)
  %i = s32[]{:T(128)} parameter(2)
  ROOT %put = pred[50,8,128]{2,1,0:T(32,128)(4,1)} dynamic-update-slice(%same, %row, %i)
}

%read (s.2: pred[50,8,128], i.1: s32[]) -> pred[1,8,128] {
  %s.2 = pred[50,8,128]{2,1,0:T(32,128)(4,1)} parameter(0)
  %same.1 = pred[50,8,128]{2,1,0:T(8,128)(4,1)} fusion(%s.2), kind=kLoop, \
output_to_operand_aliasing={{}: (0, {})}, calls=%copied
  %i.1 = s32[]{:T(128)} parameter(1)
  ROOT %got = pred[1,8,128]{2,1,0:T(8,128)(4,1)} dynamic-slice(%same.1, %i.1)
}

ENTRY %main (stack: pred[50,8,128], mask: pred[1,8,128], n: s32[]) -> pred[1,8,128] {
  %stack = pred[50,8,128]{2,1,0:T(32,128)(4,1)} parameter(0)
  %mask = pred[1,8,128]{2,1,0:T(8,128)(4,1)} parameter(1)
  %n = s32[]{:T(128)} parameter(2)
  %stacked = pred[50,8,128]{2,1,0:T(32,128)(4,1)} fusion(%stack, %mask, %n), kind=kLoop, calls=%written
  ROOT %out = pred[1,8,128]{2,1,0:T(8,128)(4,1)} fusion(%stacked, %n), kind=kLoop, calls=%read
}
"""
    mask, number = 8 * 128, 4
    assert memory_bytes(program) == 2 * (2 * mask + number)
