"""From a snapshot into a target: staging, writing, the checkpoint, quarantine, catch-up, the six phases."""
