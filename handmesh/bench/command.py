"""Everything that `handmesh-bench` can be told. Imports nothing slow, so that --help is quick."""

from __future__ import annotations

from collections.abc import Sequence

from handmesh.bench.loop_command import FolderCommand, LoopCommand, StartupCommand, run_folder, run_loop_bench, run_startup
from handmesh.bench.motion_command import SmoothingCommand, TrackingCommand, run_smoothing, run_tracking
from handmesh.bench.network_command import LayersCommand, NetworkCommand, ResolutionCommand, run_layers, run_network, run_resolution
from handmesh.bench.soak_command import SoakCommand, run_soak
from handmesh.config import parse_subcommand

PROGRAM = "handmesh-bench"
COMMANDS = {
    "network": NetworkCommand,
    "resolution": ResolutionCommand,
    "layers": LayersCommand,
    "loop": LoopCommand,
    "folder": FolderCommand,
    "startup": StartupCommand,
    "smoothing": SmoothingCommand,
    "tracking": TrackingCommand,
    "soak": SoakCommand,
}


def run_bench(arguments: Sequence[str]) -> None:
    """`handmesh-bench WHAT [flags]`.

    Raises:
        UserError: bad input, or a package that is not installed.
    """
    match parse_subcommand(COMMANDS, arguments, PROGRAM):
        case NetworkCommand() as command:
            run_network(command)
        case ResolutionCommand() as command:
            run_resolution(command)
        case LayersCommand() as command:
            run_layers(command)
        case LoopCommand() as command:
            run_loop_bench(command)
        case FolderCommand() as command:
            run_folder(command)
        case StartupCommand() as command:
            run_startup(command)
        case SmoothingCommand() as command:
            run_smoothing(command)
        case TrackingCommand() as command:
            run_tracking(command)
        case SoakCommand() as command:
            run_soak(command)
