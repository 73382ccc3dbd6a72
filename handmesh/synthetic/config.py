"""Every knob of the rendered pictures."""

from __future__ import annotations

from dataclasses import dataclass, fields

from handmesh.errors import UserError


@dataclass(frozen=True)
class PoseMixture:
    """Relative frequency of each kind of hand pose."""

    relaxed: float = 0.14
    open: float = 0.12
    fist: float = 0.10
    point: float = 0.10
    pinch: float = 0.09
    ok: float = 0.05
    count: float = 0.12
    thumbs_up: float = 0.05
    grasp: float = 0.09
    random: float = 0.14


@dataclass(frozen=True)
class SynthConfig:
    """How pictures are drawn. Shares and probabilities in 0..1; ranges are (low, high), sampled evenly unless said otherwise.

    Attributes:
        size_px: side of the square picture, a multiple of 4.
        padding: the crop's side over the larger side of the 21 joints' box in it (`geometry.crop.CROP_PADDING` at run time).
        offset_sd: standard deviation of the box's middle, over the box's side.
        focal_over_size: focal length over the crop's side, sampled evenly in its logarithm.
        negative_share: pictures without a hand.
        strayed_share: pictures whose hand is pushed out of the crop, wholly or in part.
        frontal_share: hands held upright with palm or back to the camera; the others are turned evenly over all rotations.
        panorama_share: backgrounds taken from panoramas, when a folder of them is given; the others are procedural.
        occluder: an object in front of the hand.
        object_behind: objects behind the hand.
        face_behind: a skin-coloured face-like ellipsoid behind the hand.
        second_hand: another hand beside or over the hand.
        held_object: an object inside the grip.
        sleeve: cloth on the forearm.
        band: a bracelet or watch.
        frame_edge: the hand is cut by the black area outside of the camera's picture.
        cast_shadow: the directional light casts shadows.
        motion_blur, defocus, low_resolution, noise, jpeg, grey: how often each fault of a camera shows.
        noise_sd: strongest sensor noise, over the brightness range.
        poses: mixture of hand poses.
    """

    size_px: int = 128
    padding: tuple[float, float] = (1.2, 1.8)
    offset_sd: float = 0.05
    focal_over_size: tuple[float, float] = (1.3, 8.0)
    negative_share: float = 0.06
    strayed_share: float = 0.03
    frontal_share: float = 0.5
    panorama_share: float = 0.7
    occluder: float = 0.16
    object_behind: float = 0.25
    face_behind: float = 0.15
    second_hand: float = 0.12
    held_object: float = 0.08
    sleeve: float = 0.5
    band: float = 0.08
    frame_edge: float = 0.06
    cast_shadow: float = 0.75
    motion_blur: float = 0.15
    defocus: float = 0.25
    low_resolution: float = 0.2
    noise: float = 0.6
    jpeg: float = 0.6
    grey: float = 0.04
    noise_sd: float = 0.05
    poses: PoseMixture = PoseMixture()

    def __post_init__(self) -> None:
        if self.size_px < 32 or self.size_px % 4:
            raise UserError(f"expected a picture size of at least 32 px that is a multiple of 4, got {self.size_px}; try 128")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not 0 <= value <= 1:
                raise UserError(f"expected {field.name} in 0..1, got {value:g}; it is a share")
            if isinstance(value, tuple) and not 0 < value[0] <= value[1]:
                raise UserError(f"expected {field.name} as (low, high) with 0 < low <= high, got {value}; swap or fix them")
