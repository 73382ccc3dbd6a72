"""A small renderer: a z-buffer, shadow maps, ambient occlusion and shading, compiled by numba.

Pixel centres are integers in the picture; the z-buffer is SUPERSAMPLE times finer, with its own integer centres.
Every kernel runs on one thread: pictures are spread over processes, not pixels over threads.
"""

from __future__ import annotations

import math

import numba
import numpy as np

SUPERSAMPLE = 2
DETAIL_GRID = 8
# Channels of the skin's detail: masks 0..1 that tint it, and the height of its relief in metres.
DETAIL_CHANNELS = ("palm", "nail", "crease", "knuckle", "vein", "nail_edge", "height")
NAIL = DETAIL_CHANNELS.index("nail")
HEIGHT = DETAIL_CHANNELS.index("height")
TINTS = HEIGHT
# Columns of a material row: two scales of noise, stripes, gloss, speckles, relief, then the tints of the detail channels.
M_NOISE_LOW, M_FREQ_LOW, M_NOISE_HIGH, M_FREQ_HIGH = 0, 1, 2, 3
M_STRIPE, M_STRIPE_VECTOR, M_STRIPE_RGB = 4, 5, 8
M_SPECULAR, M_SHININESS, M_WRAP = 11, 12, 13
M_SPECKLE, M_SPECKLE_FREQ, M_SPECKLE_FROM, M_RELIEF = 14, 15, 16, 17
M_TINTS = 18
MATERIAL_COLUMNS = M_TINTS + 3 * TINTS
# Samples of one pixel share a shade when they show one thing at about one depth.
_SAME_DEPTH = 0.006

_jit = numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")


@_jit
def project_vertices(vertices_m, focal_px, width_px, height_px, near_m):
    """Vertices (N, 3) to the z-buffer: (N, 3) x, y in its pixels and 1/z; 1/z = 0 marks what is nearer than `near_m`."""
    screen = np.empty((len(vertices_m), 3), np.float32)
    middle_x, middle_y = (SUPERSAMPLE * width_px - 1) / 2, (SUPERSAMPLE * height_px - 1) / 2
    for i in range(len(vertices_m)):
        z = vertices_m[i, 2]
        if z < near_m:
            screen[i, 0] = screen[i, 1] = screen[i, 2] = 0.0
        else:
            scale = SUPERSAMPLE * focal_px / z
            screen[i, 0] = vertices_m[i, 0] * scale + middle_x
            screen[i, 1] = vertices_m[i, 1] * scale + middle_y
            screen[i, 2] = 1.0 / z
    return screen


@_jit
def rasterise(screen, faces, height, width, nearness, face_id):
    """Fill a z-buffer.

    Args:
        screen: (N, 3) f32 x, y in pixels and a nearness that is linear on the screen (1/z in perspective), 0 for "drop my triangles".
        faces: (F, 3) i32; those that turn clockwise on the screen (y down) face away and are dropped.
        nearness: (height, width) f32 out, 0 where there is nothing.
        face_id: (height, width) i32 out, -1 where there is nothing.
    """
    nearness[:] = 0.0
    face_id[:] = -1
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        na, nb, nc = screen[a, 2], screen[b, 2], screen[c, 2]
        if na <= 0 or nb <= 0 or nc <= 0:
            continue
        ax, ay, bx, by, cx, cy = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        # Outward faces are counter-clockwise seen from outside, which is a negative area with y down.
        if area >= 0:
            continue
        x0 = max(0, math.ceil(min(ax, bx, cx)))
        x1 = min(width - 1, math.floor(max(ax, bx, cx)))
        y0 = max(0, math.ceil(min(ay, by, cy)))
        y1 = min(height - 1, math.floor(max(ay, by, cy)))
        if x0 > x1 or y0 > y1:
            continue
        scale = np.float32(1.0) / area
        # Barycentric weights of b and c, linear in x and y.
        dbx, dby = (cy - ay) * scale, -(cx - ax) * scale
        dcx, dcy = -(by - ay) * scale, (bx - ax) * scale
        for y in range(y0, y1 + 1):
            wb = dbx * (x0 - ax) + dby * (y - ay)
            wc = dcx * (x0 - ax) + dcy * (y - ay)
            for x in range(x0, x1 + 1):
                wa = np.float32(1.0) - wb - wc
                if wa >= 0 and wb >= 0 and wc >= 0:
                    value = wa * na + wb * nb + wc * nc
                    if value > nearness[y, x]:
                        nearness[y, x] = value
                        face_id[y, x] = f
                wb += dbx
                wc += dcx


@_jit
def vertex_normals(vertices_m, faces):
    """Unit normals (N, 3) f32, averaged over the faces around each vertex by area."""
    normals = np.zeros((len(vertices_m), 3), np.float32)
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices_m[b, 0] - vertices_m[a, 0], vertices_m[b, 1] - vertices_m[a, 1], vertices_m[b, 2] - vertices_m[a, 2]
        vx, vy, vz = vertices_m[c, 0] - vertices_m[a, 0], vertices_m[c, 1] - vertices_m[a, 1], vertices_m[c, 2] - vertices_m[a, 2]
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for k in (a, b, c):
            normals[k, 0] += x
            normals[k, 1] += y
            normals[k, 2] += z
    for i in range(len(normals)):
        length = math.sqrt(normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2) + 1e-20
        normals[i] /= length
    return normals


@_jit
def ambient_occlusion(nearness, focal_px, radius_m, strength, turns):
    """Darkening (H, W) f32 in 0..1 where nearer surfaces stand around a pixel.

    Args:
        nearness: (2H, 2W) 1/z.
        radius_m: how far occluders reach.
        strength: 0 for none, 1 for a full crevice black.
        turns: (taps, 2) offsets in the unit disc.
    """
    fine_height, fine_width = nearness.shape
    height, width = fine_height // SUPERSAMPLE, fine_width // SUPERSAMPLE
    out = np.ones((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            here = nearness[SUPERSAMPLE * y, SUPERSAMPLE * x]
            if here <= 0:
                here = nearness[SUPERSAMPLE * y + 1, SUPERSAMPLE * x + 1]
                if here <= 0:
                    continue
            z = 1 / here
            reach = SUPERSAMPLE * focal_px * radius_m * here
            hidden = np.float32(0.0)
            for t in range(len(turns)):
                px = int(SUPERSAMPLE * x + turns[t, 0] * reach)
                py = int(SUPERSAMPLE * y + turns[t, 1] * reach)
                if 0 <= px < fine_width and 0 <= py < fine_height:
                    there = nearness[py, px]
                    if there > here:
                        gap = z - 1 / there
                        # Rises from 1 mm, and fades for what is so far in front that it is another thing.
                        if gap > 0.001:
                            hidden += min(gap / radius_m, 1.0) * max(0.0, 1.0 - gap / (4 * radius_m))
            out[y, x] = max(0.0, 1.0 - strength * 2 * hidden / len(turns))
    return out


@_jit
def _noise_at(noise, x, y, z):
    """Trilinear look-up in a periodic (64, 64, 64) volume."""
    ix, iy, iz = math.floor(x), math.floor(y), math.floor(z)
    fx, fy, fz = np.float32(x - ix), np.float32(y - iy), np.float32(z - iz)
    x0, y0, z0 = int(ix) & 63, int(iy) & 63, int(iz) & 63
    x1, y1, z1 = (x0 + 1) & 63, (y0 + 1) & 63, (z0 + 1) & 63
    one = np.float32(1.0)
    low = (noise[x0, y0, z0] * (one - fx) + noise[x1, y0, z0] * fx) * (one - fy) + (
        noise[x0, y1, z0] * (one - fx) + noise[x1, y1, z0] * fx
    ) * fy
    high = (noise[x0, y0, z1] * (one - fx) + noise[x1, y0, z1] * fx) * (one - fy) + (
        noise[x0, y1, z1] * (one - fx) + noise[x1, y1, z1] * fx
    ) * fy
    return low * (one - fz) + high * fz


@_jit
def shade(
    *,
    vertices_m,
    screen,
    normals,
    texture_m,
    albedo,
    faces,
    face_material,
    face_detail,
    materials,
    detail,
    noise,
    noise_offset,
    ambient,
    light_direction,
    light_rgb,
    T_shadow_camera,
    shadow_map,
    shadow_soft,
    shadow_bias_m,
    occlusion,
    face_id,
    nearness,
    focal_px,
    rgb,
    alpha,
):
    """Shade what the z-buffer shows, once per thing and pixel, and average the samples of each pixel.

    Args:
        vertices_m, screen, normals, texture_m, albedo: (N, 3) f32 in the camera, on the screen, unit, in the thing's own frame, linear RGB.
        faces: (F, 3) i32.
        face_material: (F,) rows of `materials`.
        face_detail: (F,) rows of `detail`, -1 for none; those from D on are of mirrored triangles, whose last two corners are swapped.
        materials: (M, MATERIAL_COLUMNS) f32.
        detail: (D, G, G, C) f32 of DETAIL_CHANNELS over barycentric coordinates of the second and third corner.
        noise: (64, 64, 64) f32 with mean 0 and deviation 1.
        ambient: (3, 4, 4) f32 quadratic forms: light from all around by normal (x, y, z, 1).
        light_direction, light_rgb: (3,) towards the light; its strength.
        T_shadow_camera: (3, 4) f32 from the camera to the shadow map's x, y and nearness.
        shadow_map: (H, W) f32 nearness to the light.
        shadow_soft: radius of the shadow's edge in its pixels.
        shadow_bias_m: how far a surface must be behind another to lie in its shadow.
        occlusion: (H, W) f32.
        face_id: (2H, 2W) i32.
        nearness: (2H, 2W) f32 1/z.
        rgb: (H, W, 3) f32 out, linear, premultiplied.
        alpha: (H, W) f32 out, the covered share.
    """
    ss = SUPERSAMPLE
    height_px, width_px = alpha.shape
    share = np.float32(1.0 / (ss * ss))
    middle_x, middle_y = np.float32((ss * width_px - 1) / 2), np.float32((ss * height_px - 1) / 2)
    rows, columns = shadow_map.shape
    one = np.float32(1.0)
    zero = np.float32(0.0)
    halfway_x, halfway_y, halfway_z = light_direction[0], light_direction[1], light_direction[2]
    colour = np.empty(3, np.float32)
    base = np.empty(3, np.float32)
    for py in range(height_px):
        for px in range(width_px):
            r = g = b = a = zero
            previous_material, previous_near = -1, zero
            for sub in range(ss * ss):
                sx, sy = ss * px + sub % ss, ss * py + sub // ss
                f = face_id[sy, sx]
                if f < 0:
                    continue
                a += share
                m = face_material[f]
                near = nearness[sy, sx]
                if m == previous_material and abs(near - previous_near) < _SAME_DEPTH * near:
                    r += colour[0]
                    g += colour[1]
                    b += colour[2]
                    continue
                previous_material, previous_near = m, near
                i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
                ax, ay = screen[i0, 0], screen[i0, 1]
                ux, uy = screen[i1, 0] - ax, screen[i1, 1] - ay
                vx, vy = screen[i2, 0] - ax, screen[i2, 1] - ay
                scale = one / (ux * vy - uy * vx)
                dx, dy = sx - ax, sy - ay
                w1 = (dx * vy - dy * vx) * scale * screen[i1, 2]
                w2 = (ux * dy - uy * dx) * scale * screen[i2, 2]
                w0 = (one - (dx * vy - dy * vx) * scale - (ux * dy - uy * dx) * scale) * screen[i0, 2]
                total = one / (w0 + w1 + w2)
                w0 *= total
                w1 *= total
                w2 *= total
                nx = w0 * normals[i0, 0] + w1 * normals[i1, 0] + w2 * normals[i2, 0]
                ny = w0 * normals[i0, 1] + w1 * normals[i1, 1] + w2 * normals[i2, 1]
                nz = w0 * normals[i0, 2] + w1 * normals[i1, 2] + w2 * normals[i2, 2]
                length = one / math.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-20))
                nx *= length
                ny *= length
                nz *= length
                tx = w0 * texture_m[i0, 0] + w1 * texture_m[i1, 0] + w2 * texture_m[i2, 0]
                ty = w0 * texture_m[i0, 1] + w1 * texture_m[i1, 1] + w2 * texture_m[i2, 1]
                tz = w0 * texture_m[i0, 2] + w1 * texture_m[i1, 2] + w2 * texture_m[i2, 2]

                for k in range(3):
                    base[k] = w0 * albedo[i0, k] + w1 * albedo[i1, k] + w2 * albedo[i2, k]
                grain = one
                low = materials[m, M_FREQ_LOW]
                grain += materials[m, M_NOISE_LOW] * _noise_at(
                    noise, tx * low + noise_offset[0], ty * low + noise_offset[1], tz * low + noise_offset[2]
                )
                if materials[m, M_NOISE_HIGH] > 0:
                    high = materials[m, M_FREQ_HIGH]
                    # Grain finer than a pixel averages out; the noise's features are about four of its cells.
                    cells = high / (focal_px * near)
                    grain += (
                        materials[m, M_NOISE_HIGH]
                        * min(one, np.float32(2.0) / max(cells, np.float32(1e-6)))
                        * _noise_at(noise, tx * high, ty * high, tz * high)
                    )
                grain = max(grain, np.float32(0.2))
                gloss = one
                if materials[m, M_SPECKLE] > 0:
                    spot = materials[m, M_SPECKLE_FREQ]
                    level = _noise_at(noise, tx * spot + noise_offset[2], ty * spot + noise_offset[0], tz * spot + noise_offset[1])
                    spotted = materials[m, M_SPECKLE] * min(max((level - materials[m, M_SPECKLE_FROM]) * np.float32(2.5), zero), one)
                    base[0] *= one - np.float32(0.6) * spotted
                    base[1] *= one - spotted
                    base[2] *= one - spotted
                d = face_detail[f]
                if d >= 0:
                    is_swapped = d >= len(detail)
                    if is_swapped:
                        d -= len(detail)
                    last = DETAIL_GRID - 1
                    u = min(max((w2 if is_swapped else w1) * DETAIL_GRID - np.float32(0.5), zero), np.float32(last))
                    v = min(max((w1 if is_swapped else w2) * DETAIL_GRID - np.float32(0.5), zero), np.float32(last))
                    i, j = int(u), int(v)
                    u -= i
                    v -= j
                    ii, jj = min(i + 1, last), min(j + 1, last)
                    for channel in range(TINTS):
                        mask = (detail[d, i, j, channel] * (one - v) + detail[d, i, jj, channel] * v) * (one - u)
                        mask += (detail[d, ii, j, channel] * (one - v) + detail[d, ii, jj, channel] * v) * u
                        for k in range(3):
                            base[k] *= one + mask * (materials[m, M_TINTS + 3 * channel + k] - one)
                    gloss += 4 * detail[d, i, j, NAIL]
                    if materials[m, M_RELIEF] > 0:
                        # The height's slope over the surface tips the normal (Blinn 1978), by its slopes along two edges.
                        h00, h01 = detail[d, i, j, HEIGHT], detail[d, i, jj, HEIGHT]
                        h10, h11 = detail[d, ii, j, HEIGHT], detail[d, ii, jj, HEIGHT]
                        along_u = ((h10 - h00) * (one - v) + (h11 - h01) * v) * DETAIL_GRID
                        along_v = ((h01 - h00) * (one - u) + (h11 - h10) * u) * DETAIL_GRID
                        along_1, along_2 = (along_v, along_u) if is_swapped else (along_u, along_v)
                        e1x = vertices_m[i1, 0] - vertices_m[i0, 0]
                        e1y = vertices_m[i1, 1] - vertices_m[i0, 1]
                        e1z = vertices_m[i1, 2] - vertices_m[i0, 2]
                        e2x = vertices_m[i2, 0] - vertices_m[i0, 0]
                        e2y = vertices_m[i2, 1] - vertices_m[i0, 1]
                        e2z = vertices_m[i2, 2] - vertices_m[i0, 2]
                        g11 = e1x * e1x + e1y * e1y + e1z * e1z
                        g12 = e1x * e2x + e1y * e2y + e1z * e2z
                        g22 = e2x * e2x + e2y * e2y + e2z * e2z
                        depth = materials[m, M_RELIEF] / max(g11 * g22 - g12 * g12, np.float32(1e-16))
                        q1 = depth * (g22 * along_1 - g12 * along_2)
                        q2 = depth * (g11 * along_2 - g12 * along_1)
                        nx -= q1 * e1x + q2 * e2x
                        ny -= q1 * e1y + q2 * e2y
                        nz -= q1 * e1z + q2 * e2z
                        length = one / math.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-20))
                        nx *= length
                        ny *= length
                        nz *= length
                stripe = materials[m, M_STRIPE]
                if stripe > 0:
                    phase = (
                        tx * materials[m, M_STRIPE_VECTOR] + ty * materials[m, M_STRIPE_VECTOR + 1] + tz * materials[m, M_STRIPE_VECTOR + 2]
                    )
                    if math.sin(phase) > 0:
                        for k in range(3):
                            base[k] += stripe * (materials[m, M_STRIPE_RGB + k] - base[k])

                lambert = nx * light_direction[0] + ny * light_direction[1] + nz * light_direction[2]
                lit = one
                if shadow_map.size > 1:
                    cx = w0 * vertices_m[i0, 0] + w1 * vertices_m[i1, 0] + w2 * vertices_m[i2, 0]
                    cy = w0 * vertices_m[i0, 1] + w1 * vertices_m[i1, 1] + w2 * vertices_m[i2, 1]
                    cz = w0 * vertices_m[i0, 2] + w1 * vertices_m[i1, 2] + w2 * vertices_m[i2, 2]
                    mx = T_shadow_camera[0, 0] * cx + T_shadow_camera[0, 1] * cy + T_shadow_camera[0, 2] * cz + T_shadow_camera[0, 3]
                    my = T_shadow_camera[1, 0] * cx + T_shadow_camera[1, 1] * cy + T_shadow_camera[1, 2] * cz + T_shadow_camera[1, 3]
                    mn = T_shadow_camera[2, 0] * cx + T_shadow_camera[2, 1] * cy + T_shadow_camera[2, 2] * cz + T_shadow_camera[2, 3]
                    mn += shadow_bias_m
                    lit = zero
                    for tap in range(9):
                        qx = int(mx + np.float32(0.5) + shadow_soft * (tap % 3 - 1))
                        qy = int(my + np.float32(0.5) + shadow_soft * (tap // 3 - 1))
                        if qx < 0 or qy < 0 or qx >= columns or qy >= rows or shadow_map[qy, qx] <= mn:
                            lit += np.float32(1 / 9)

                # The ray towards the eye, for gloss.
                ex, ey, ez = -(sx - middle_x), -(sy - middle_y), np.float32(-ss * focal_px)
                norm = one / math.sqrt(ex * ex + ey * ey + ez * ez)
                ex *= norm
                ey *= norm
                ez *= norm
                hx, hy, hz = halfway_x + ex, halfway_y + ey, halfway_z + ez
                norm = one / math.sqrt(hx * hx + hy * hy + hz * hz + np.float32(1e-12))
                facing = max(zero, (nx * hx + ny * hy + nz * hz) * norm)
                shine = materials[m, M_SPECULAR] * gloss
                highlight = shine * facing ** materials[m, M_SHININESS] if lambert > 0 else zero
                rim = one - max(zero, nx * ex + ny * ey + nz * ez)
                fresnel = shine * (np.float32(0.15) + rim * rim * rim) * np.float32(0.5)
                open_sky = occlusion[py, px]
                for k in range(3):
                    q = ambient[k]
                    light = (
                        q[0, 0] * nx * nx
                        + q[1, 1] * ny * ny
                        + q[2, 2] * nz * nz
                        + q[3, 3]
                        + 2 * (q[0, 1] * nx * ny + q[0, 2] * nx * nz + q[1, 2] * ny * nz + q[0, 3] * nx + q[1, 3] * ny + q[2, 3] * nz)
                    )
                    light = max(light, np.float32(0.02)) * open_sky
                    # Light that enters skin leaves it a little further on, red the farthest: it wraps around the edge of the shade.
                    wrap = materials[m, M_WRAP] * (one if k == 0 else np.float32(0.35))
                    wrapped = max(zero, (lambert + wrap) / (one + wrap))
                    direct = light_rgb[k] * lit
                    colour[k] = share * (base[k] * grain * (light + direct * wrapped) + fresnel * light + direct * highlight)
                r += colour[0]
                g += colour[1]
                b += colour[2]
            rgb[py, px, 0] = r
            rgb[py, px, 1] = g
            rgb[py, px, 2] = b
            alpha[py, px] = a


@_jit
def vote_parts(face_id, screen, faces, vertex_part, root_z_m, parts, depth_m):
    """The most frequent part in each cell of a coarse map, and how far behind the root it is.

    Args:
        face_id: (2H, 2W) i32.
        vertex_part: (N,) u8; a sample takes the part of its nearest corner.
        parts: (H/4, W/4) u8 out.
        depth_m: (H/4, W/4) f32 out: mean z of the cell's samples of a hand minus `root_z_m`, 0 where the part is 0.
    """
    cell = face_id.shape[0] // parts.shape[0]
    counts = np.zeros(32, np.int32)
    for y in range(parts.shape[0]):
        for x in range(parts.shape[1]):
            counts[:] = 0
            total = 0.0
            for sy in range(cell * y, cell * (y + 1), 2):
                for sx in range(cell * x, cell * (x + 1), 2):
                    f = face_id[sy, sx]
                    part = 0
                    if f >= 0:
                        part, z = part_and_depth(sx, sy, f, screen, faces, vertex_part)
                        if part > 0:
                            total += z
                    counts[part] += 1
            most = np.argmax(counts)
            parts[y, x] = most
            depth_m[y, x] = total / (counts.sum() - counts[0]) - root_z_m if most > 0 else 0.0


@_jit
def part_and_depth(sx, sy, f, screen, faces, vertex_part):
    """At a sample of the z-buffer: the part of the corner of face `f` that weighs most there, and the face's z."""
    i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
    ax, ay = screen[i0, 0], screen[i0, 1]
    ux, uy = screen[i1, 0] - ax, screen[i1, 1] - ay
    vx, vy = screen[i2, 0] - ax, screen[i2, 1] - ay
    scale = 1 / (ux * vy - uy * vx)
    dx, dy = sx - ax, sy - ay
    w1, w2 = (dx * vy - dy * vx) * scale, (ux * dy - uy * dx) * scale
    w0 = 1 - w1 - w2
    z = 1 / (w0 * screen[i0, 2] + w1 * screen[i1, 2] + w2 * screen[i2, 2])
    if w0 >= w1 and w0 >= w2:
        return vertex_part[i0], z
    return (vertex_part[i1] if w1 >= w2 else vertex_part[i2]), z


@_jit
def silhouette(screen, faces, mask, nearness):
    """Mark the pixels whose centre a mesh covers.

    Args:
        screen: (N, 3) f32 x, y in pixels and a nearness, 0 for "drop my triangles".
        faces: (F, 3) i32, seen from either side: the wrist is open.
        mask: (H, W) u8; covered pixels become 255, others are left.
        nearness: (H, W) f32 of the mesh's nearest point; where it is nearer than what is there, it is written.
    """
    height, width = mask.shape
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if screen[a, 2] <= 0 or screen[b, 2] <= 0 or screen[c, 2] <= 0:
            continue
        ax, ay, bx, by, cx, cy = screen[a, 0], screen[a, 1], screen[b, 0], screen[b, 1], screen[c, 0], screen[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0:
            continue
        scale = np.float32(1.0) / area
        dbx, dby = (cy - ay) * scale, -(cx - ax) * scale
        dcx, dcy = -(by - ay) * scale, (bx - ax) * scale
        for y in range(max(0, math.ceil(min(ay, by, cy))), min(height - 1, math.floor(max(ay, by, cy))) + 1):
            for x in range(max(0, math.ceil(min(ax, bx, cx))), min(width - 1, math.floor(max(ax, bx, cx))) + 1):
                wb = dbx * (x - ax) + dby * (y - ay)
                wc = dcx * (x - ax) + dcy * (y - ay)
                if wb >= 0 and wc >= 0 and wb + wc <= 1:
                    mask[y, x] = 255
                    near = (1 - wb - wc) * screen[a, 2] + wb * screen[b, 2] + wc * screen[c, 2]
                    if near > nearness[y, x]:
                        nearness[y, x] = near


@_jit
def to_display(linear, gain, gamma_table):
    """Linear RGB times gain (3,) through a table over 0..1: (H, W, 3) f32 in 0..1."""
    out = np.empty_like(linear)
    last = len(gamma_table) - 1
    for y in range(linear.shape[0]):
        for x in range(linear.shape[1]):
            for k in range(3):
                value = linear[y, x, k] * gain[k]
                out[y, x, k] = gamma_table[int(min(max(value, np.float32(0.0)), np.float32(1.0)) * last)]
    return out
