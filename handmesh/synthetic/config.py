"""Every knob of the rendered pictures, and the file that names a whole set of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from typing import Literal

from handmesh.errors import UserError

Range = tuple[float, float]


@dataclass(frozen=True)
class PoseMixture:
    """Relative frequency of each kind of hand pose."""

    relaxed: float = 0.13
    open: float = 0.12
    spread: float = 0.05
    fist: float = 0.10
    point: float = 0.10
    pinch: float = 0.09
    ok: float = 0.05
    count: float = 0.12
    thumbs_up: float = 0.05
    grasp: float = 0.09
    random: float = 0.10


@dataclass(frozen=True)
class SynthConfig:
    """How pictures are drawn. Shares and probabilities in 0..1; ranges are (low, high), sampled evenly unless said otherwise.

    Attributes:
        size_px: height of the picture, a multiple of 4.
        aspect: width over height; only square pictures can go into shards.
        padding: the picture's height over the larger side of the 21 joints' box in it, sampled evenly in its logarithm
            (`geometry.crop.CROP_PADDING` at run time).
        offset_sd: standard deviation of the box's middle, over the box's side.
        anywhere_share: hands placed anywhere in the picture, whole, instead of near its middle.
        focal_over_size: focal length over the picture's height, sampled evenly in its logarithm; hands that would come nearer to the
            camera than 12 cm get a longer one.
        negative_share: pictures without a hand.
        left_share: of the pictures with a hand, those of a left one; in the FreiHAND layout alone: shards hold right hands, which
            training mirrors.
        strayed_share: pictures whose hand is pushed out of the picture, in part or wholly.
        frontal_share: hands held upright with palm or back to the camera; of the others about half are seen as on desks, by head-worn
            cameras and pointing at the camera, and the rest turned evenly over all rotations.
        palm_share: of the upright hands, those with the palm to the camera.
        view_spread: how far upright hands are turned and tipped, 1 for about 30 degrees each way.
        poses: mixture of hand poses.
        beta_sd: standard deviation of each shape coefficient; cut at 2.5.
        tone: skin, 0 the lightest and 1 the darkest of the Monk scale.
        relief: depth of wrinkles, veins and tendons, 1 for a grown-up's.
        speckle: freckles, moles and blotches.
        varnish: painted nails.
        panoramas: file names to take from the folder of panoramas; empty for all but `held_out_panoramas`.
        held_out_panoramas: file names that only a set which lists them in `panoramas` may use: those of the frozen evaluation sets.
        panorama_share: backgrounds that are views of panoramas (of procedural rooms, when no folder is given).
        tilt_sd: standard deviation of the camera's pitch against the place's horizon, in radians; its roll has half of it.
        photo_share: backgrounds taken from the folder of pictures, when one is given; what is left is abstract.
        lamp_share: pictures lit by a lamp as well as from all around.
        cast_shadow: the lamp casts shadows.
        occlusion_strength: ambient occlusion, 0 for none and 1 for black crevices.
        occluder: an object in front of the hand.
        object_behind: objects behind the hand.
        person_behind: head and shoulders behind the hand.
        second_hand: another hand apart from, beside or over the hand.
        held_object: an object inside the grip, where the pose is a grasp, a pinch or a fist.
        sleeve: cloth on the forearm.
        band: a bracelet or a watch.
        ring: a ring on a finger.
        frame_edge: the hand is cut by the black area outside of the camera's picture.
        motion_blur, defocus, low_resolution, noise, jpeg, grey: how often each fault of a camera shows.
        motion_blur_px, defocus_px: length and deviation, in pixels of a picture 128 px high.
        resolution: what a low resolution leaves of the picture's side.
        noise_sd: sensor noise over the brightness range, towards the low end.
        exposure_sd, white_balance_sd: deviations of the logarithm of brightness and of the red-blue balance.
        jpeg_quality: of the compression that a picture went through before it is stored.
    """

    size_px: int = 128
    aspect: float = 1.0
    padding: Range = (1.2, 1.8)
    offset_sd: float = 0.05
    anywhere_share: float = 0.0
    focal_over_size: Range = (1.3, 8.0)
    negative_share: float = 0.08
    left_share: float = 0.25
    strayed_share: float = 0.05
    frontal_share: float = 0.5
    palm_share: float = 0.5
    view_spread: float = 1.0
    poses: PoseMixture = PoseMixture()
    beta_sd: float = 1.0
    tone: Range = (0.0, 1.0)
    relief: Range = (0.15, 1.1)
    speckle: Range = (0.0, 1.0)
    varnish: float = 0.05
    panoramas: tuple[str, ...] = ()
    held_out_panoramas: tuple[str, ...] = ("esplanade.hdr", "lobby.hdr", "workshop.hdr", "apartment.hdr")
    panorama_share: float = 0.8
    tilt_sd: float = 0.4
    photo_share: float = 0.5
    lamp_share: float = 0.8
    cast_shadow: float = 0.75
    occlusion_strength: Range = (0.4, 1.0)
    occluder: float = 0.16
    object_behind: float = 0.25
    person_behind: float = 0.2
    second_hand: float = 0.12
    held_object: float = 0.5
    sleeve: float = 0.5
    band: float = 0.15
    ring: float = 0.12
    frame_edge: float = 0.06
    motion_blur: float = 0.15
    motion_blur_px: Range = (2.0, 11.0)
    defocus: float = 0.25
    defocus_px: Range = (0.4, 1.7)
    low_resolution: float = 0.2
    resolution: Range = (0.3, 0.8)
    noise: float = 0.6
    noise_sd: Range = (0.002, 0.05)
    exposure_sd: float = 0.22
    white_balance_sd: float = 0.05
    jpeg: float = 0.6
    jpeg_quality: Range = (30.0, 95.0)
    grey: float = 0.04

    def __post_init__(self) -> None:
        if not 32 <= self.size_px <= 4096 or self.size_px % 4:
            raise UserError(f"expected a picture size in 32..4096 px that is a multiple of 4, got {self.size_px}; try 128")
        if not 0.5 <= self.aspect <= 2.5:
            raise UserError(f"expected aspect (width over height) in 0.5..2.5, got {self.aspect:g}; a webcam's is 1.333 or 1.778")
        for field in fields(self):
            value = getattr(self, field.name)
            if not all(map(math.isfinite, _numbers(value))):
                raise UserError(f"expected finite numbers in {field.name}, got {value}; change it")
            if isinstance(value, float) and field.name not in _FREE and not 0 <= value <= 1:
                raise UserError(f"expected {field.name} in 0..1, got {value:g}; it is a share")
            if field.name in _FREE and not 0 <= value <= _TOPS[field.name]:
                raise UserError(f"expected {field.name} in 0..{_TOPS[field.name]:g}, got {value:g}; change it")
            if isinstance(value, tuple) and field.type == "Range":
                low, high = value
                top = _TOPS[field.name]
                if not (low <= high and high <= top and (low >= 0 if field.name in _FROM_ZERO else low > 0)):
                    bound = "0 <=" if field.name in _FROM_ZERO else "0 <"
                    raise UserError(
                        f"expected {field.name} as [low, high] with {bound} low <= high <= {top:g}, got {[low, high]}; swap or fix them"
                    )
        shares = astuple(self.poses)
        if sum(shares) <= 0 or min(shares) < 0:
            raise UserError("expected poses to hold shares of at least 0, one of them more; change them")

    @property
    def width_px(self) -> int:
        """Width of the picture, a multiple of 4."""
        return 4 * round(self.size_px * self.aspect / 4)


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, PoseMixture):
        yield from astuple(value)
    elif isinstance(value, tuple):
        yield from (item for item in value if isinstance(item, float | int))
    elif isinstance(value, float):
        yield value


_FREE = {"aspect", "offset_sd", "tilt_sd", "view_spread", "beta_sd", "exposure_sd", "white_balance_sd"}
_FROM_ZERO = {"tone", "relief", "speckle", "occlusion_strength", "noise_sd"}
_TOPS = {
    "aspect": 2.5,
    "padding": 50.0,
    "offset_sd": 5.0,
    "focal_over_size": 50.0,
    "tilt_sd": 3.2,
    "view_spread": 5.0,
    "beta_sd": 3.0,
    "tone": 1.0,
    "relief": 5.0,
    "speckle": 1.0,
    "occlusion_strength": 1.0,
    "motion_blur_px": 60.0,
    "defocus_px": 20.0,
    "resolution": 1.0,
    "noise_sd": 1.0,
    "exposure_sd": 3.0,
    "white_balance_sd": 1.0,
    "jpeg_quality": 100.0,
}


@dataclass(frozen=True)
class PictureSet:
    """A set of pictures, as a YAML file of `handmesh-synth --config` names it.

    Attributes:
        count: number of pictures.
        seed: other seeds give other pictures.
        format: "shards" for training, or "freihand" for the layout of FreiHAND.
        versions: pictures of each hand in the FreiHAND layout, 1 or 4: same hand and things, other colours, light and place.
        pictures: how they are drawn.
        sha256: of a frozen set: what its manifest must say (`recipe_sha256`); empty for sets that are not frozen.
    """

    count: int = 100_000
    seed: int = 0
    format: Literal["shards", "freihand"] = "shards"
    versions: Literal[1, 4] = 1
    pictures: SynthConfig = SynthConfig()
    sha256: str = ""
