"""Hands over a picture, and a window to show them. Open3D is imported when something is drawn."""
