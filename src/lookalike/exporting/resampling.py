"""torch's weights for resizing uint8 pictures, as ONNX functions: to the same pixels.

torch resizes uint8 in two passes, across and then down, with fixed-point weights of 15 bits and
rounding after each (aten/native/cpu/UpSampleKernel.cpp, as Pillow-SIMD does). ONNX's Resize, as
onnxruntime has it, is Pillow's, with weights of 22 bits: one pixel in three hundred differs by a
grey level, and by that the vectors of a trained model drifted up to 9e-5. As products of matrices
of whole numbers, which float32 keeps exactly below 2^24, the passes give torch's pixels.
"""

from __future__ import annotations

from onnx import FunctionProto, parser

DOMAIN = "lookalike"

# |x| -> weight, for x in pixels of the smaller picture, and how far it reaches. The cubic one is
# Keys's with a = -0.5.
_FILTERS = {
    "bilinear": (
        1,
        """
  near = Sub (one, distance)
  filter = Max (near, zero)
""",
    ),
    "bicubic": (
        2,
        """
  square = Mul (distance, distance)
  cube = Mul (square, distance)
  inner_cube = Mul (cube, three_halves)
  squares = Mul (square, five_halves)
  inner_difference = Sub (inner_cube, squares)
  inner = Add (inner_difference, one)
  outer_cube = Mul (cube, half)
  outer_difference = Sub (squares, outer_cube)
  outer_line = Mul (distance, four)
  outer_rest = Sub (two, outer_line)
  outer = Add (outer_difference, outer_rest)
  is_inner = Less (distance, one)
  is_outer = Less (distance, two)
  outer_or_none = Where (is_outer, outer, zero)
  filter = Where (is_inner, inner, outer_or_none)
""",
    ),
}

# Everything in float64, as torch has it. `powers` are 2^1 to 2^22: torch takes the most bits with
# which the largest weight of all outputs stays below 2^15.
_WEIGHTS = """
<domain: "{domain}", opset_import: ["" : {opset}]>
weights (length, resized, first, last) => (window, unit)
{{
  zero = Constant <value = double {{0.0}}> ()
  half = Constant <value = double {{0.5}}> ()
  one = Constant <value = double {{1.0}}> ()
  three_halves = Constant <value = double {{1.5}}> ()
  two = Constant <value = double {{2.0}}> ()
  five_halves = Constant <value = double {{2.5}}> ()
  four = Constant <value = double {{4.0}}> ()
  reach = Constant <value = double {{{reach}.0}}> ()
  limit = Constant <value = double {{32768.0}}> ()
  powers = Constant <value = double[22] {{{powers}}}> ()
  from = Constant <value = int64 {{0}}> ()
  step = Constant <value = int64 {{1}}> ()
  rows = Constant <value = int64[1] {{0}}> ()
  columns = Constant <value = int64[1] {{1}}> ()
  inputs_count = Squeeze (length)
  outputs_count = Squeeze (resized)
  inputs_length = Cast <to = 11> (inputs_count)
  outputs_length = Cast <to = 11> (outputs_count)
  scale = Div (inputs_length, outputs_length)
  stretch = Max (scale, one)
  support = Mul (reach, stretch)
  outputs_int = Range (from, outputs_count, step)
  outputs = Cast <to = 11> (outputs_int)
  outputs_middle = Add (outputs, half)
  centre_flat = Mul (outputs_middle, scale)
  centre = Unsqueeze (centre_flat, columns)
  before = Sub (centre, support)
  before_middle = Add (before, half)
  before_inside = Max (before_middle, zero)
  low = Floor (before_inside)
  after = Add (centre, support)
  after_middle = Add (after, half)
  after_floor = Floor (after_middle)
  high = Min (after_floor, inputs_length)
  inputs_int = Range (from, inputs_count, step)
  inputs_flat = Cast <to = 11> (inputs_int)
  inputs = Unsqueeze (inputs_flat, rows)
  not_before = GreaterOrEqual (inputs, low)
  not_after = Less (inputs, high)
  counts = And (not_before, not_after)
  offset_left = Sub (inputs, centre)
  offset = Add (offset_left, half)
  offset_size = Abs (offset)
  distance = Div (offset_size, stretch)
  {filter}
  seen = Where (counts, filter, zero)
  total = ReduceSum <keepdims = 1> (seen, columns)
  normal = Div (seen, total)
  largest = ReduceMax <keepdims = 0> (normal)
  largest_scaled = Mul (powers, largest)
  largest_rounded = Add (largest_scaled, half)
  largest_whole = Floor (largest_rounded)
  fits = Less (largest_whole, limit)
  fits_number = Cast <to = 11> (fits)
  bits = ReduceSum <keepdims = 0> (fits_number)
  unit_double = Pow (two, bits)
  scaled = Mul (normal, unit_double)
  sign = Sign (scaled)
  size = Abs (scaled)
  size_middle = Add (size, half)
  size_whole = Floor (size_middle)
  fixed = Mul (sign, size_whole)
  window_double = Slice (fixed, first, last, rows)
  window = Cast <to = 1> (window_double)
  unit = Cast <to = 1> (unit_double)
}}
"""

_ROUNDED = """
<domain: "{domain}", opset_import: ["" : {opset}]>
rounded (sums, unit) => (levels)
{{
  half = Constant <value = float {{0.5}}> ()
  black = Constant <value = float {{0.0}}> ()
  white = Constant <value = float {{255.0}}> ()
  exact = Div (sums, unit)
  middle = Add (exact, half)
  whole = Floor (middle)
  levels = Clip (whole, black, white)
}}
"""


def resampling_functions(interpolation: str, opset: int) -> list[FunctionProto]:
    """`weights` and `rounded`, in the domain `lookalike`.

    `weights (length, resized, first, last)`, each (1,) int64, gives the weights (last - first,
    length) float32 of the outputs first to last of a row of `length` pixels that is resized to
    `resized`, and what counts as 1 in them. `rounded (sums, unit)` gives the grey levels of
    weighted sums.
    """
    reach, filter = _FILTERS[interpolation]
    powers = ", ".join(str(float(2**bits)) for bits in range(1, 23))
    texts = (
        _WEIGHTS.format(domain=DOMAIN, opset=opset, reach=reach, filter=filter, powers=powers),
        _ROUNDED.format(domain=DOMAIN, opset=opset),
    )
    return [parser.parse_function(text) for text in texts]
