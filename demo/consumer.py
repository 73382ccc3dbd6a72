"""Receives the hands that handmesh sends and prints each one's wrist and pinch; needs nothing but Python.

python demo/consumer.py 9000, and beside it: handmesh-demo --camera 0 --stream udp://127.0.0.1:9000
"""

import json
import math
import socket
import sys
import time

THUMB_TIP, INDEX_TIP = 4, 8

port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", port))
print(f"waiting for hands on udp port {port}; Ctrl-C ends", flush=True)
try:
    while True:
        message = json.loads(receiver.recv(65535))
        if message["schema"] != "handmesh.stream/1":
            sys.exit(f"expected handmesh.stream/1, got {message['schema']}; take the consumer of that version")
        age_ms = 1e3 * (time.time() - message["captured_unix_s"])
        for hand in message["hands"]:
            x, y, z = hand["wrist"]["position_m"]
            pinch_mm = 1e3 * math.dist(hand["joints_m"][THUMB_TIP], hand["joints_m"][INDEX_TIP])
            name = f"{hand['side']} hand {hand['track_id']}"
            print(f"{name}: wrist at {x:+.3f} {y:+.3f} {z:+.3f} m, pinch {pinch_mm:.0f} mm, {age_ms:.0f} ms old", flush=True)
except KeyboardInterrupt:
    pass
