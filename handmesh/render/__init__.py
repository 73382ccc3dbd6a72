"""Hands over a picture, and a window to show them. Open3D is imported by portraits and the window."""
