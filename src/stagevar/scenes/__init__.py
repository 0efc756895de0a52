"""The small world of the bundled model: captions, the renderer that draws them and the oracle that reads pictures."""
