"""From a checkpoint to the one file that the runtime runs."""
