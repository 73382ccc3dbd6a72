"""One picture in, its hands out: prints them and writes one mesh file.

python demo/one_image.py picture.jpg hands.glb
"""

import sys

from handmesh import HandMeshEstimator
from handmesh.errors import UserError
from handmesh.hand_model.meshfile import save_meshes
from handmesh.live.sources import read_picture

if len(sys.argv) != 3:
    sys.exit("expected a picture and a mesh file, like: python demo/one_image.py picture.jpg hands.glb")
picture, mesh_file = sys.argv[1:]
try:
    estimator = HandMeshEstimator()
    hands = estimator(read_picture(picture))
    for hand in hands:
        side = "right" if hand.is_right else "left"
        x, y, z = hand.T_camera_wrist[:3, 3]
        print(f"{side} hand, score {hand.score:.2f}, wrist at {x:+.2f} {y:+.2f} {z:+.2f} m, {len(hand.vertices_m)} vertices")
    if hands:
        save_meshes(hands, estimator.hand_model, mesh_file)
except UserError as error:
    sys.exit(str(error))
