"""Functions of a point in space: encodings, small networks, radiance fields and signed distance fields."""
