"""The atlas that bodies are drawn from: shapes in millimetres, and their Hounsfield units."""

from dataclasses import dataclass

# The atlas frame: RAS millimetres around the middle of the field of view, which spans
# ATLAS_MM along (x, y, z). A patient with another field of view scales or crops it.
ATLAS_MM = (144.0, 120.0, 108.0)


@dataclass(frozen=True)
class Ellipsoid:
    """Centre and semi-axes (x, y, z) in atlas mm."""

    centre: tuple[float, float, float]
    semi: tuple[float, float, float]


@dataclass(frozen=True)
class Tube:
    """A round tube of ``radius`` along straight pieces between ``points``, in atlas mm."""

    points: tuple[tuple[float, float, float], ...]
    radius: float


Shape = Ellipsoid | Tube

# Where shapes meet, the one named first keeps the voxel. `spine` is no structure of the release.
SHAPES: dict[str, Shape] = {
    "spine": Tube(((0, -41, -90), (0, -41, 90)), 12),
    "aorta": Tube(((-7, -23, -34), (-7, -23, 90)), 5),
    "postcava": Tube(((9, -22, -34), (9, -22, 90)), 5),
    "esophagus": Tube(((-5, -7, 10), (-5, -7, 90)), 11),
    "kidney_right": Ellipsoid((35, -22, -24), (15.5, 15.5, 20)),
    "kidney_left": Ellipsoid((-38, -20, -14), (15.5, 15.5, 20)),
    "pancreas": Ellipsoid((-11, 4, -6), (28, 13, 12)),
    "colon": Tube(((44, 8, -70), (44, 24, -26), (0, 31, -22), (-44, 24, -26), (-44, 4, -70)), 10.5),
    "uterus": Ellipsoid((0, -1, -39), (21, 15, 15)),
    "prostate": Ellipsoid((0, -2, -44), (13, 10, 8)),
    "rectum": Tube(((0, -22, -70), (0, -22, -40)), 6),
    "gall_bladder": Ellipsoid((24, 28, -7), (7, 7, 7)),
    "adrenal_gland_right": Ellipsoid((20, -25, 0), (5, 5, 6)),
    "adrenal_gland_left": Ellipsoid((-20, -25, 8), (5, 5, 6)),
    "portal_vein_and_splenic_vein": Tube(((-32, -8, 9), (-4, -4, 9), (16, 0, 10)), 3.5),
    "celiac_trunk": Tube(((-7, -20, 2), (-7, -10, 2)), 3.5),
    "liver": Ellipsoid((31, 5, 19), (30, 36, 34)),
    "stomach": Ellipsoid((-27, 20, 24), (20, 18, 20)),
    "spleen": Ellipsoid((-48, -12, 22), (11, 17, 18)),
    "duodenum": Ellipsoid((22, 4, -18), (8, 9, 10)),
    "intestine": Ellipsoid((0, 32, -45), (26, 9, 9)),
    "bladder": Ellipsoid((0, 16, -50), (15, 8, 7)),
    "lung_right": Ellipsoid((34, 0, 60), (27, 36, 15)),
    "lung_left": Ellipsoid((-34, 0, 60), (25, 36, 15)),
    "femur_right": Ellipsoid((46, -14, -54), (9, 9, 11)),
    "femur_left": Ellipsoid((-46, -14, -54), (9, 9, 11)),
}
# Drawn inside the liver and belonging to both masks, as in the parent release.
HEPATIC_VESSEL = Tube(((8, -4, 26), (22, 2, 24), (32, 14, 16)), 3.5)

HU = {
    "air": -1000, "fat": -105, "muscle": 55, "inside": -85, "spine": 320, "aorta": 190,
    "postcava": 160, "esophagus": 45, "kidney_right": 180, "kidney_left": 180, "pancreas": 100,
    "colon": 40, "uterus": 85, "prostate": 60, "rectum": 30, "gall_bladder": 10,
    "adrenal_gland_right": 75, "adrenal_gland_left": 75, "portal_vein_and_splenic_vein": 165,
    "celiac_trunk": 190, "liver": 110, "stomach": 25, "spleen": 125, "duodenum": 35,
    "intestine": 30, "bladder": 5, "lung_right": -850, "lung_left": -850, "femur_right": 420,
    "femur_left": 420, "hepatic_vessel": 150,
}  # fmt: skip
# What a lesion adds to its organ; solid tumors differ by 65 to 75 HU.
CONTRAST_HU = {
    ("liver", "tumor"): -70, ("pancreas", "tumor"): -65, ("kidney", "tumor"): -75,
    ("colon", "tumor"): 70, ("esophagus", "tumor"): 70, ("uterus", "tumor"): 70,
    ("kidney", "cyst"): -172,
}  # fmt: skip
# What a phase of a further scan adds to the base's HU: here arterial instead of venous.
PHASE_HU = {
    "aorta": 130, "celiac_trunk": 110, "kidney_left": -35, "kidney_right": -35, "liver": -35,
    "hepatic_vessel": -60, "pancreas": 20, "portal_vein_and_splenic_vein": -70, "postcava": -80,
    "spleen": 25,
}  # fmt: skip
