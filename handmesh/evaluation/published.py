"""What papers report on FreiHAND's evaluation set, as data. Values are the papers'; nothing here was measured again."""

from __future__ import annotations

from dataclasses import dataclass

NOT_STATED = "not stated here"


@dataclass(frozen=True)
class Published:
    """One published row; None where a paper gives no number.

    Attributes:
        name: of the method.
        pa_mpjpe_mm, pa_mpvpe_mm: aligned errors of joints and vertices.
        f_5mm, f_15mm: aligned F-scores in 0..1.
        crop: how pictures were cropped for this number; `NOT_STATED` where that is not known.
        tta: whether predictions over several turned and scaled crops were averaged (test-time augmentation).
        trained_on: the training data.
        note: what else a reader should know.
    """

    name: str
    pa_mpjpe_mm: float | None
    pa_mpvpe_mm: float | None
    f_5mm: float | None
    f_15mm: float | None
    crop: str = NOT_STATED
    tta: str = NOT_STATED
    trained_on: str = "FreiHAND"
    note: str = ""


_METRO_CROP = "fixed centre (180 px of 224)"
_MANY = "several data sets"

PUBLISHED = (
    Published("MobileHand", None, 13.1, 0.439, 0.902, note="not checked against the paper"),
    Published("MobRecon (DenseStack)", 6.9, 7.2, 0.694, 0.979),
    Published("METRO", 6.6, 6.7, 0.721, 0.981, _METRO_CROP, "none", note="single pass"),
    Published("METRO, with augmentation", 6.2, 6.3, 0.743, 0.984, _METRO_CROP, "yes", note="the number usually quoted"),
    Published("FastViT-MA36, MANO head", 6.6, 6.7, 0.722, 0.981, note="the paper that this project implements; METRO’s training set-up"),
    Published("FastMETRO-L", 6.5, 7.1, 0.687, 0.983),
    Published("ReJSHand", 6.3, 6.4, 0.756, 0.984),
    Published("MeshGraphormer, with augmentation", 5.9, 6.0, 0.764, 0.986, tta="yes"),
    Published(
        "simpleHand, FastViT-MA36", 5.7, 6.0, 0.772, 0.986, "true keypoints", note="vertex head; crop as in its released evaluation code"
    ),
    Published("TokenHand, FastViT-MA36", 5.7, 5.9, 0.768, None, trained_on="FreiHAND and MANO poses"),
    Published(
        "HaMeR (ViT-H)", 6.0, 5.7, 0.785, 0.990, trained_on=f"{_MANY}, 2.7 M", note="run again with FreiHAND’s joints: 5.58 / 5.78 mm"
    ),
    Published("HandOS", 5.0, 5.3, 0.812, None, trained_on=f"{_MANY}, 204 K"),
    Published(
        "WiLoR (ViT-H)", 5.5, 5.1, 0.825, 0.993, trained_on=f"{_MANY}, 4.2 M", note="run again with FreiHAND’s joints: 4.99 / 5.18 mm"
    ),
)
