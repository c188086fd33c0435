"""`Preprocess.prepare` as an ONNX graph: images of any size in, the network's input out.

Sizes are integers throughout, and equal to those of `prepare` for every image:

- `max(0, H - 8 W) // 2` rows are trimmed at either end;
- `max(R, R' H // W)`, with the least height R and width R' after the resize, is R where the
  height is met exactly, and else `int(R' * H / W)`: the quotient of integers below 2^53 is rounded
  correctly, and so never up to the next integer;
- ONNX's Round takes halves to the even neighbour, as Python's does.

torch resizes uint8 in two passes, across and then down, with fixed-point weights of 15 bits and
rounding after each (aten/native/cpu/UpSampleKernel.cpp, as Pillow-SIMD does). ONNX's antialiased
Resize, as onnxruntime has it, is Pillow's, with weights of 22 bits: one pixel in some hundreds
differs by a grey level. Images up to 512 x 512 pixels are therefore resized by products of matrices
of whole numbers, which float32 keeps exactly below 2^24: torch's pixels. Larger ones, where this
costs too much, go through Resize. Resize alone would double the largest drift of the quickstart's
model on 240 images of 20 to 1200 px (4.0e-5 against 1.9e-5) and move one query's first neighbour,
which the certificate of such a list does not allow.
"""

from __future__ import annotations

import onnx
from onnx import FunctionProto, ModelProto, inliner, parser

from lookalike.data.image_size import height_width
from lookalike.data.loading.preprocess import LONGEST, Preprocess

OPSET = 18
"""The first with antialiasing."""

_DOMAIN = "lookalike"

EXACT_PIXELS = 512 * 512
"""Pictures up to this many pixels are resized to torch's grey levels."""

# Without `exclude_outside` the border's pixels would count for those beyond it, too; Pillow and
# torch leave those out. -0.5 is their cubic coefficient, ONNX's is -0.75.
_RESIZE = {
    "bilinear": 'mode = "linear"',
    "bicubic": 'mode = "cubic", cubic_coeff_a = -0.5',
}

# What the branches take from outside are outputs of nodes: onnx.compose.add_prefix, which comes
# later, renames initializers without those who use them in a branch.
_GRAPH = """
<ir_version: {ir_version}, opset_import: ["" : {opset}, "{domain}" : 1]>
preprocess (uint8[batch, height, width, 3] images) => (uint8[batch, 3, {height}, {width}] pixels)
<
  int64[1] zero = {{0}}, int64[1] two = {{2}}, int64[1] longest = {{{longest}}},
  int64[2] least = {{{least_height}, {least_width}}},
  int64[2] other_least = {{{least_width}, {least_height}}},
  int64[2] seen = {{{height}, {width}}}, float half = {{0.5}},
  int64[2] exchange = {{1, 0}}, int64[2] image_axes = {{1, 2}},
  int64 most_pixels = {{{most_pixels}}}
>
{{
  size = Shape <start = 1, end = 3> (images)
  other = Gather (size, exchange)
  most = Mul (other, longest)
  more = Sub (size, most)
  excess = Max (more, zero)
  start = Div (excess, two)
  stop = Sub (size, start)
  trimmed = Slice (images, start, stop, image_axes)
  kept = Sub (stop, start)
  other_kept = Gather (kept, exchange)
  enlarged = Mul (kept, other_least)
  following = Div (enlarged, other_kept)
  resized_size = Max (following, least)
  room = Sub (resized_size, seen)
  room_float = Cast <to = 1> (room)
  middle = Mul (room_float, half)
  whole = Round (middle)
  first = Cast <to = 7> (whole)
  last = Add (first, seen)
  planes = Transpose <perm = [0, 3, 1, 2]> (trimmed)
  area = ReduceProd <keepdims = 0> (kept)
  is_small = LessOrEqual (area, most_pixels)
  pixels = If (is_small) <
    then_branch = exact () => (uint8[batch, 3, {height}, {width}] exact_pixels) {{
      kept_rows, kept_columns = Split <num_outputs = 2> (kept)
      resized_rows, resized_columns = Split <num_outputs = 2> (resized_size)
      top, left = Split <num_outputs = 2> (first)
      seen_height = Constant <value = int64[1] {{{height}}}> ()
      seen_width = Constant <value = int64[1] {{{width}}}> ()
      right = Add (left, seen_width)
      bottom = Add (top, seen_height)
      across, across_unit = {domain}.weights (kept_columns, resized_columns, left, right)
      down, down_unit = {domain}.weights (kept_rows, resized_rows, top, bottom)
      levels = Cast <to = 1> (planes)
      across_turned = Transpose <perm = [1, 0]> (across)
      across_sums = MatMul (levels, across_turned)
      narrow = {domain}.rounded (across_sums, across_unit)
      down_sums = MatMul (down, narrow)
      small = {domain}.rounded (down_sums, down_unit)
      exact_pixels = Cast <to = 2> (small)
    }},
    else_branch = pillows () => (uint8[batch, 3, {height}, {width}] pillows_pixels) {{
      outer = Shape <start = 0, end = 2> (planes)
      sizes = Concat <axis = 0> (outer, resized_size)
      resized = Resize <antialias = 1, exclude_outside = 1,
        coordinate_transformation_mode = "half_pixel", {mode}> (planes, , , sizes)
      plane_axes = Constant <value = int64[2] {{2, 3}}> ()
      pillows_pixels = Slice (resized, first, last, plane_axes)
    }}
  >
}}
"""


def preprocessing_graph(preprocess: Preprocess, ir_version: int) -> ModelProto:
    """The model `images` (B, H, W, 3) uint8 -> `pixels` (B, 3, H', W') uint8 of its input's size.

    Args:
        preprocess: what is to be done; normalisation belongs to the network.
        ir_version: of the ONNX file that it will be a part of.
    """
    height, width = height_width(preprocess.image_size)
    least_height, least_width = preprocess.resized
    text = _GRAPH.format(
        ir_version=ir_version,
        opset=OPSET,
        domain=_DOMAIN,
        height=height,
        width=width,
        least_height=least_height,
        least_width=least_width,
        longest=LONGEST,
        most_pixels=EXACT_PIXELS,
        mode=_RESIZE[preprocess.interpolation],
    )
    model = parser.parse_model(text)
    model.functions.extend(_resampling_functions(preprocess.interpolation, OPSET))
    # Runtimes have ONNX's own operators only.
    model = inliner.inline_local_functions(model)
    del model.functions[:]
    ours = [entry for entry in model.opset_import if entry.domain == _DOMAIN]
    for entry in ours:
        model.opset_import.remove(entry)
    onnx.checker.check_model(model, full_check=True)
    return model


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


def _resampling_functions(interpolation: str, opset: int) -> list[FunctionProto]:
    """ONNX functions in the domain `lookalike`.

    `weights (length, resized, first, last)`, each (1,) int64: weights (last - first, length)
    float32 of the outputs first to last of a row of `length` pixels that is resized to `resized`,
    and their unit. `rounded (sums, unit)`: grey levels of weighted sums.
    """
    reach, filter = _FILTERS[interpolation]
    powers = ", ".join(str(float(2**bits)) for bits in range(1, 23))
    texts = (
        _WEIGHTS.format(domain=_DOMAIN, opset=opset, reach=reach, filter=filter, powers=powers),
        _ROUNDED.format(domain=_DOMAIN, opset=opset),
    )
    return [parser.parse_function(text) for text in texts]
