"""A z-buffer for triangles, compiled by numba: coloured meshes blended over a picture, and labels at pixel centres.

The picture is filled in bands that fit a core's cache. Compiled once per machine and kept; `prepare` loads or compiles it ahead of time.
"""

from __future__ import annotations

import math

import numba
import numpy as np

# Where edges are seen a pixel gets four samples, none above or beside another, so that steep and flat edges have all five shades.
_SUBPIXELS = np.array([[-0.375, -0.125], [0.125, -0.375], [0.375, 0.125], [-0.125, 0.375]], np.float32)
_REACH = np.float32(0.375)
# Pixels in one band.
_BAND_PIXELS = 1 << 15
# A sample on the edge between two triangles belongs to both, whichever way their weights were rounded.
_SLACK = np.float32(1e-5)
# An edge is where 1/z changes by more than this share of it from pixel to pixel.
_DEPTH_STEP = np.float32(0.015)


def _compile(function):
    """numba's njit, kept on the disk where there is a place for it."""
    options = {"nogil": True, "fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no folder to write to
        return numba.njit(**options)(function)


def blend_triangles(
    image_rgb: np.ndarray, screen: np.ndarray, faces: np.ndarray, vertex_rgb: np.ndarray, opacity: float, box: tuple[int, int, int, int]
) -> None:
    """Draw triangles over a part of a picture, in place, with anti-aliased outlines; the nearer one hides the other.

    Args:
        image_rgb: (H, W, 3) uint8, contiguous.
        screen: (V, 3) float32 x and y in pixels, and a nearness that is linear on the screen (1/z); 0 drops a vertex's triangles.
        faces: (F, 3) int32, seen from both sides.
        vertex_rgb: (V, 3) float32 in 0..255.
        opacity: of the triangles, in 0..1.
        box: x0, y0, x1, y1 of the part, ends excluded, within the picture.
    """
    _blend(image_rgb, screen, faces, vertex_rgb, np.float32(opacity), *box)


def label_pixels(mask: np.ndarray, screen: np.ndarray, faces: np.ndarray, face_labels: np.ndarray, box: tuple[int, int, int, int]) -> None:
    """Write the label of the nearest triangle at each pixel's centre, in place; other pixels stay as they are.

    Args:
        mask: (H, W) uint8, contiguous.
        screen, faces, box: as in `blend_triangles`.
        face_labels: (F,) uint8.
    """
    _label(mask, screen, faces, face_labels, *box)


def light_vertices(vertices_m: np.ndarray, faces: np.ndarray, skin_rgb: np.ndarray, key_light: np.ndarray) -> np.ndarray:
    """Colours of a mesh's vertices: ambient, headlight, key light, a slight rim and a soft gloss.

    Args:
        vertices_m: (V, 3) float32, in the camera's frame.
        faces: (F, 3) int32, counter-clockwise from outside.
        skin_rgb: (3,) float32 in 0..1.
        key_light: (3,) float32 unit vector towards it.

    Returns:
        (V, 3) float32 in 0..255.
    """
    normals = np.zeros_like(vertices_m)
    rgb = np.empty_like(vertices_m)
    _light(vertices_m, faces, skin_rgb, key_light, normals, rgb)
    return rgb


def prepare() -> None:
    """Load the compiled code, or compile it: 0.2 s or a few seconds."""
    screen = np.array([[0, 0, 1], [2, 0, 1], [0, 2, 1]], np.float32)
    faces = np.array([[0, 1, 2]], np.int32)
    rgb = light_vertices(screen, faces, screen[0], screen[1])
    blend_triangles(np.zeros((2, 2, 3), np.uint8), screen, faces, rgb, 0.5, (0, 0, 2, 2))
    label_pixels(np.zeros((2, 2), np.uint8), screen, faces, np.ones(1, np.uint8), (0, 0, 2, 2))


@_compile
def _light(vertices_m, faces, skin_rgb, key_light, normals, rgb):
    for f in range(len(faces)):
        a, b, c = vertices_m[faces[f, 0]], vertices_m[faces[f, 1]], vertices_m[faces[f, 2]]
        ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
        vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
        for k in range(3):
            # By the triangles' areas: the cross product is twice as long as its triangle is large.
            normals[faces[f, k], 0] += uy * vz - uz * vy
            normals[faces[f, k], 1] += uz * vx - ux * vz
            normals[faces[f, k], 2] += ux * vy - uy * vx
    one, zero, tiny = np.float32(1.0), np.float32(0.0), np.float32(1e-20)
    for v in range(len(vertices_m)):
        x, y, z = vertices_m[v, 0], vertices_m[v, 1], vertices_m[v, 2]
        nx, ny, nz = normals[v, 0], normals[v, 1], normals[v, 2]
        length = math.sqrt(nx * nx + ny * ny + nz * nz) + tiny
        distance = math.sqrt(x * x + y * y + z * z) + tiny
        facing = min(one, max(zero, -(nx * x + ny * y + nz * z) / (length * distance)))
        key = min(one, max(zero, (nx * key_light[0] + ny * key_light[1] + nz * key_light[2]) / length))
        lit = np.float32(0.22) + np.float32(0.36) * facing + np.float32(0.50) * key
        shine = np.float32(0.20) * (one - facing) ** 3 + np.float32(0.10) * key**16
        for k in range(3):
            rgb[v, k] = np.float32(255.0) * min(one, skin_rgb[k] * lit + shine)


@_compile
def _allowed(first, last, start, step):
    """The part of first..last in which start + step * x >= 0."""
    if step > 0:
        return max(first, -start / step), last
    if step < 0:
        return first, min(last, -start / step)
    return (first, last) if start >= 0 else (np.float32(1.0), np.float32(0.0))


@_compile
def _set_up(screen, faces, f, x0, y0, x1, y1, reach):
    """Of one triangle: the pixels left, right, top, bottom that it may meet (none where left > right), its first corner, and the
    steps in x and in y of the weights of its second and third corner."""
    a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
    ax, ay, bx, by, cx, cy = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
    zero = np.float32(0.0)
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if area == 0 or screen[a, 2] <= 0 or screen[b, 2] <= 0 or screen[c, 2] <= 0:
        return 1, 0, 1, 0, ax, ay, zero, zero, zero, zero
    # Clipped as floats: near the camera they are too large for integers.
    left = math.ceil(min(max(min(ax, bx, cx) - reach, np.float32(x0)), np.float32(x1)))
    right = math.floor(max(min(max(ax, bx, cx) + reach, np.float32(x1 - 1)), np.float32(x0 - 1)))
    top = math.ceil(min(max(min(ay, by, cy) - reach, np.float32(y0)), np.float32(y1)))
    bottom = math.floor(max(min(max(ay, by, cy) + reach, np.float32(y1 - 1)), np.float32(y0 - 1)))
    scale = np.float32(1.0) / area
    return left, right, top, bottom, ax, ay, (cy - ay) * scale, -(cx - ax) * scale, -(by - ay) * scale, (bx - ax) * scale


@_compile
def _span(left, right, ax, start_b, start_c, dbx, dcx):
    """First and last pixel of a row in which no weight is below zero."""
    first, last = left - ax, right - ax
    first, last = _allowed(first, last, np.float32(1.0) - start_b - start_c + _SLACK, -dbx - dcx)
    first, last = _allowed(first, last, start_b + _SLACK, dbx)
    first, last = _allowed(first, last, start_c + _SLACK, dcx)
    if not first <= last:
        return 1, 0
    return max(left, math.ceil(first + ax)), min(right, math.floor(last + ax))


@_compile
def _rasterise(screen, faces, x0, y0, x1, y1, nearness, face_id):
    """Fill the z-buffers (at least y1 - y0 + 2, x1 - x0 + 2) at pixel centres: nearness, 0 for nothing and in a border of one pixel,
    and face_id, -1 for nothing."""
    nearness[: y1 - y0 + 2] = 0
    face_id[: y1 - y0 + 2] = -1
    for f in range(len(faces)):
        left, right, top, bottom, ax, ay, dbx, dby, dcx, dcy = _set_up(screen, faces, f, x0, y0, x1, y1, np.float32(0.0))
        if left > right:
            continue
        na, nb, nc = screen[faces[f, 0], 2], screen[faces[f, 1], 2], screen[faces[f, 2], 2]
        for y in range(top, bottom + 1):
            below = np.float32(y) - ay
            start_b, start_c = dby * below, dcy * below
            first, last = _span(left, right, ax, start_b, start_c, dbx, dcx)
            row, faces_of_row = nearness[y - y0 + 1], face_id[y - y0 + 1]
            for x in range(first, last + 1):
                beside = np.float32(x) - ax
                wb, wc = start_b + dbx * beside, start_c + dcx * beside
                value = na + wb * (nb - na) + wc * (nc - na)
                if value > row[x - x0 + 1]:
                    row[x - x0 + 1] = value
                    faces_of_row[x - x0 + 1] = f


@_compile
def _find_edges(nearness, height, width, slots):
    """Number the pixels beside which something else, or something nearer, is seen, and count them.

    `slots` (height, width) gets the numbers; at other pixels minus the steps to the next numbered one in the row, or to its end."""
    is_edge = np.empty(width, np.bool_)
    count = 0
    for y in range(height):
        above, row, below = nearness[y], nearness[y + 1], nearness[y + 2]
        for x in range(width):
            here = row[x + 1]
            step = _DEPTH_STEP * here
            is_edge[x] = (
                (abs(row[x] - here) > step)
                | (abs(row[x + 2] - here) > step)
                | (abs(above[x + 1] - here) > step)
                | (abs(below[x + 1] - here) > step)
            )
        steps = 0
        for x in range(width - 1, -1, -1):
            if is_edge[x]:
                slots[y, x] = count
                count += 1
                steps = 0
            else:
                steps += 1
                slots[y, x] = -steps
    return count


@_compile
def _sample_edges(screen, faces, x0, y0, x1, y1, slots, nearness, face_id):
    """The z-buffers (K, 4) of the samples in the K numbered pixels."""
    nearness[:] = 0
    face_id[:] = -1
    for f in range(len(faces)):
        left, right, top, bottom, ax, ay, dbx, dby, dcx, dcy = _set_up(screen, faces, f, x0, y0, x1, y1, _REACH)
        if left > right:
            continue
        na, nb, nc = screen[faces[f, 0], 2], screen[faces[f, 1], 2], screen[faces[f, 2], 2]
        spread_b, spread_c = _REACH * (abs(dbx) + abs(dby)) + _SLACK, _REACH * (abs(dcx) + abs(dcy)) + _SLACK
        spread_a = _REACH * (abs(dbx + dcx) + abs(dby + dcy)) + _SLACK
        for y in range(top, bottom + 1):
            row = slots[y - y0]
            x = left
            while x <= right:
                slot = row[x - x0]
                if slot < 0:
                    x -= slot
                    continue
                beside, below = np.float32(x) - ax, np.float32(y) - ay
                x += 1
                wb, wc = dbx * beside + dby * below, dcx * beside + dcy * below
                if wb < -spread_b or wc < -spread_c or wb + wc > np.float32(1.0) + spread_a:
                    continue
                for s in range(4):
                    dx, dy = _SUBPIXELS[s, 0], _SUBPIXELS[s, 1]
                    vb, vc = wb + dbx * dx + dby * dy, wc + dcx * dx + dcy * dy
                    value = na + vb * (nb - na) + vc * (nc - na)
                    if vb >= -_SLACK and vc >= -_SLACK and vb + vc <= np.float32(1.0) + _SLACK and value > nearness[slot, s]:
                        nearness[slot, s] = value
                        face_id[slot, s] = f


@_compile
def _colour(screen, faces, vertex_rgb, f, x, y):
    """Of triangle f at a pixel's centre, or as near to it as the triangle comes: outside of it colours run away."""
    a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
    ax, ay = screen[a, 0], screen[a, 1]
    bx, by, cx, cy = screen[b, 0] - ax, screen[b, 1] - ay, screen[c, 0] - ax, screen[c, 1] - ay
    scale = np.float32(1.0) / (bx * cy - by * cx)
    wb = max(np.float32(0.0), ((x - ax) * cy - (y - ay) * cx) * scale)
    wc = max(np.float32(0.0), ((y - ay) * bx - (x - ax) * by) * scale)
    if wb + wc > 1:
        both = np.float32(1.0) / (wb + wc)
        wb, wc = wb * both, wc * both
    wa = np.float32(1.0) - wb - wc
    return (
        wa * vertex_rgb[a, 0] + wb * vertex_rgb[b, 0] + wc * vertex_rgb[c, 0],
        wa * vertex_rgb[a, 1] + wb * vertex_rgb[b, 1] + wc * vertex_rgb[c, 1],
        wa * vertex_rgb[a, 2] + wb * vertex_rgb[b, 2] + wc * vertex_rgb[c, 2],
    )


@_compile
def _shade(screen, faces, vertex_rgb, shades):
    """`shades` (F, 9) of all triangles: colour at the first corner, and its steps in x and in y."""
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        bx, by = screen[b, 0] - screen[a, 0], screen[b, 1] - screen[a, 1]
        cx, cy = screen[c, 0] - screen[a, 0], screen[c, 1] - screen[a, 1]
        area = bx * cy - by * cx
        scale = np.float32(1.0) / area if area != 0 else np.float32(0.0)
        for k in range(3):
            towards_b, towards_c = vertex_rgb[b, k] - vertex_rgb[a, k], vertex_rgb[c, k] - vertex_rgb[a, k]
            shades[f, k] = vertex_rgb[a, k]
            shades[f, 3 + k] = (towards_b * cy - towards_c * by) * scale
            shades[f, 6 + k] = (towards_c * bx - towards_b * cx) * scale


@_compile
def _mix(image, x, y, red, green, blue, share):
    """Put a share of a colour over a pixel."""
    through = np.float32(1.0) - share
    half, most = np.float32(0.5), np.float32(255.0)
    image[y, x, 0] = np.uint8(min(most, max(half, through * image[y, x, 0] + share * red + half)))
    image[y, x, 1] = np.uint8(min(most, max(half, through * image[y, x, 1] + share * green + half)))
    image[y, x, 2] = np.uint8(min(most, max(half, through * image[y, x, 2] + share * blue + half)))


@_compile
def _blend(image, screen, faces, vertex_rgb, opacity, x0, y0, x1, y1):
    width = x1 - x0
    rows = max(1, _BAND_PIXELS // width)
    shades = np.empty((len(faces), 9), np.float32)
    _shade(screen, faces, vertex_rgb, shades)
    # A row more on both sides: what is an edge shows only beside its neighbours.
    nearness = np.empty((rows + 4, width + 2), np.float32)
    face_id = np.empty((rows + 4, width + 2), np.int32)
    slots = np.empty((rows + 2, width), np.int32)
    for top in range(y0, y1, rows):
        bottom = min(top + rows, y1)
        above, below = max(top - 1, y0), min(bottom + 1, y1)
        _rasterise(screen, faces, x0, above, x1, below, nearness, face_id)
        count = _find_edges(nearness, below - above, width, slots)
        sample_nearness, sample_face = np.empty((count, 4), np.float32), np.empty((count, 4), np.int32)
        if count:
            _sample_edges(screen, faces, x0, above, x1, below, slots, sample_nearness, sample_face)
        for y in range(top, bottom):
            for x in range(x0, x1):
                slot, f = slots[y - above, x - x0], face_id[y - above + 1, x - x0 + 1]
                if slot < 0:
                    if f >= 0:
                        dx, dy = np.float32(x) - screen[faces[f, 0], 0], np.float32(y) - screen[faces[f, 0], 1]
                        shade = shades[f]
                        _mix(
                            image,
                            x,
                            y,
                            shade[0] + dx * shade[3] + dy * shade[6],
                            shade[1] + dx * shade[4] + dy * shade[7],
                            shade[2] + dx * shade[5] + dy * shade[8],
                            opacity,
                        )
                    continue
                red = green = blue = covered = np.float32(0.0)
                for s in range(4):
                    g = sample_face[slot, s]
                    if g >= 0:
                        one_red, one_green, one_blue = _colour(screen, faces, vertex_rgb, g, np.float32(x), np.float32(y))
                        red, green, blue, covered = red + one_red, green + one_green, blue + one_blue, covered + np.float32(1.0)
                if covered > 0:
                    _mix(image, x, y, red / covered, green / covered, blue / covered, np.float32(0.25) * covered * opacity)


@_compile
def _label(mask, screen, faces, face_labels, x0, y0, x1, y1):
    width = x1 - x0
    rows = max(1, _BAND_PIXELS // width)
    nearness = np.empty((rows + 2, width + 2), np.float32)
    face_id = np.empty((rows + 2, width + 2), np.int32)
    for top in range(y0, y1, rows):
        bottom = min(top + rows, y1)
        _rasterise(screen, faces, x0, top, x1, bottom, nearness, face_id)
        for y in range(top, bottom):
            for x in range(x0, x1):
                f = face_id[y - top + 1, x - x0 + 1]
                if f >= 0:
                    mask[y, x] = face_labels[f]
