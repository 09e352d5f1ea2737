"""From a snapshot into a target: staging, writing, the checkpoint, quarantine, the five phases."""
