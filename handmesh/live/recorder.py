"""What "r" starts and stops while hands are watched: recordings of their own, each in a folder of its own."""

from __future__ import annotations

from pathlib import Path

from handmesh.hand_model.skinning import HandModel
from handmesh.live.convert_command import write_animation
from handmesh.live.sinks import ANIMATION, JSON_LINES, Shot, Sink, open_sinks
from handmesh.live.sources import Source

_KINDS = ("overlay", "json")


class Recorder:
    """Writes what it is shown while it is on: overlay.mkv and hands.jsonl, and hands.glb when it stops.

    Args:
        output: folder in which recording_000, recording_001, ... are made; those that are there already stay.
        source: whose frames they are.
        hand_model: the model of the hands.
    """

    def __init__(self, output: Path, source: Source, hand_model: HandModel) -> None:
        self._output = output
        self._source = source
        self._hand_model = hand_model
        self._folder: Path | None = None
        self._sinks: list[Sink] = []
        self._frames = 0

    @property
    def is_on(self) -> bool:
        """Shots are being recorded."""
        return self._folder is not None

    def toggle(self) -> str:
        """Start a recording, or end the one that runs; says in a sentence which."""
        if self._folder is None:
            self._folder = self._new_folder()
            self._sinks, self._frames = open_sinks(_KINDS, self._folder, self._source, self._hand_model), 0
            return f"recording to {self._folder}"
        folder, frames = self._folder, self._frames
        self.close()
        return f"recorded {frames} frames in {folder}"

    def write(self, shot: Shot) -> None:
        """Record a shot, if it is on."""
        for sink in self._sinks:
            sink.write(shot)
        self._frames += self.is_on

    def close(self) -> None:
        """End the recording that runs, if any, and turn it into an animation."""
        folder, self._folder = self._folder, None
        sinks, self._sinks = self._sinks, []
        for sink in sinks:
            sink.close()
        if folder is not None:
            write_animation(folder / JSON_LINES, self._hand_model, folder / ANIMATION)

    def _new_folder(self) -> Path:
        number = 0
        while (folder := self._output / f"recording_{number:03d}").exists():
            number += 1
        folder.mkdir(parents=True)
        return folder
