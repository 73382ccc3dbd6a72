"""Labelled pictures of hands, rendered with numpy, numba and OpenCV: wherever training runs, this runs."""
