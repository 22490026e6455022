"""From a failure to its cause and back: capture, localise, reproduce, replay."""
