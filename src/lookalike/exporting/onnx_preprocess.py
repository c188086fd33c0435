"""`Preprocess.prepare` as an ONNX graph: pictures of any size in, the network's input out.

The sizes are integers from beginning to end, and equal to those of `prepare` for every picture:

- `max(0, H - 8 W) // 2` rows at either end are what is trimmed of a tall picture, and 0 of others;
- `max(R, R' H // W)`, with the least height R and width R' after the resize, is R where the
  height is met exactly, and else what `int(R' * H / W)` is: the quotient of integers below 2^53
  is rounded correctly, and so never up to the next integer;
- ONNX's Round takes halves to the even neighbour, as Python's does.

The resize of pictures up to 512 x 512 or as many pixels gives torch's grey levels
(`lookalike.exporting.resampling`). Its cost grows with the picture's, so larger ones go through
ONNX's antialiased Resize on uint8, which is Pillow's, in two passes with rounding between them:
one pixel in some hundreds differs by a grey level.
"""

from __future__ import annotations

import onnx
from onnx import ModelProto, inliner, parser

from lookalike.data.image_size import height_width
from lookalike.data.loading.preprocess import LONGEST, Preprocess
from lookalike.exporting.resampling import DOMAIN, resampling_functions

OPSET = 18
"""The first with antialiasing."""

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
        domain=DOMAIN,
        height=height,
        width=width,
        least_height=least_height,
        least_width=least_width,
        longest=LONGEST,
        most_pixels=EXACT_PIXELS,
        mode=_RESIZE[preprocess.interpolation],
    )
    model = parser.parse_model(text)
    model.functions.extend(resampling_functions(preprocess.interpolation, OPSET))
    # Runtimes know ONNX's own operators.
    model = inliner.inline_local_functions(model)
    del model.functions[:]
    ours = [entry for entry in model.opset_import if entry.domain == DOMAIN]
    for entry in ours:
        model.opset_import.remove(entry)
    onnx.checker.check_model(model, full_check=True)
    return model
