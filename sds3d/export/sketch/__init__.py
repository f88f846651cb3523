"""Files of Bezier sketches: JSON, SVG, glTF, OBJ and a page that orbits and plays."""
