"""Where the hands of a picture are and what MediaPipe's networks see of them, run by the project's own runtime."""

from handmesh.detection.detector import HandDetector, merge_duplicates

__all__ = ["HandDetector", "merge_duplicates"]
