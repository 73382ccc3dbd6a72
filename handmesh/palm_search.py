"""New hands of a video: the palm detector looks now and then, beside the frames, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from handmesh.detection.palm import Palm, PalmDetector, letterbox
from handmesh.timing import StageTimes
from handmesh.tracking import Track, is_followed

# How often it looks while a hand may be missing, in seconds of video; rounding of time stamps does not skip a frame.
_EVERY_S, _ROUNDING_S = 0.1, 1e-3


class PalmSearch:
    """Looks for the palms of hands that are not followed.

    Args:
        load: gives the palm detector; called in the thread.
        is_live: frames never wait for an answer. Without it each answer is waited for in the next frame, so that the same video gives the
            same hands every time.
        times: where the stage "detect" is counted.
    """

    def __init__(self, load: Callable[[], PalmDetector], is_live: bool, times: StageTimes) -> None:
        self._load = load
        self._is_live = is_live
        self._times = times
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="handmesh palms")
        self._answer: Future[list[Palm]] | None = None
        self._asked_s: float | None = None
        self._followed_then: Sequence[Track] = ()

    def __call__(self, image_rgb: np.ndarray, time_s: float, followed: Sequence[Track], is_wanted: bool) -> list[Palm]:
        """Palms that nobody followed when they were seen, in this frame or one shortly before; the surest first.

        Args:
            image_rgb: (H, W, 3) uint8; it is not looked at any more when this returns.
            time_s: of the frame.
            followed: the hands that are followed.
            is_wanted: a hand may be missing.
        """
        palms = []
        if self._answer is not None and (self._answer.done() or not self._is_live):
            palms = self._take()
        is_due = self._asked_s is None or time_s - self._asked_s >= _EVERY_S - _ROUNDING_S
        if is_wanted and is_due and self._answer is None:
            self._ask(image_rgb, time_s, followed)
            if not self._is_live and not followed:
                palms = self._take()
        return palms if is_wanted else []

    def prepare(self) -> Future[PalmDetector]:
        """Load the detector in the thread."""
        return self._thread.submit(self._load)

    def reset(self) -> None:
        """Forget the video so far."""
        if self._answer is not None:
            wait([self._answer])
        self._answer, self._asked_s = None, None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _ask(self, image_rgb: np.ndarray, time_s: float, followed: Sequence[Track]) -> None:
        self._asked_s, self._followed_then = time_s, followed
        # Made small here: the caller may draw on the picture while the thread still looks.
        small = letterbox(image_rgb)

        def find() -> list[Palm]:
            detector = self._load()
            with self._times.stage("detect"):
                return detector.run(small)

        self._answer = self._thread.submit(find)

    def _take(self) -> list[Palm]:
        # Taken out first: a detector that fails once must not fail for ever.
        answer, self._answer = self._answer, None
        assert answer is not None
        return [palm for palm in answer.result() if not is_followed(palm.keypoints_px, self._followed_then)]
