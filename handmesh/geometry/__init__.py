"""Rotations, cameras and crops, in numpy. The conventions are in docs/conventions.md."""
