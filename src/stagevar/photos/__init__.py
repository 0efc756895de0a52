"""The world of photographs: captions of objects at places, and the reader of pictures that its model brings along."""
