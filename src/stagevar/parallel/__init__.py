"""Several processes of one machine, each with a device of its own: they share pictures, or one network."""
