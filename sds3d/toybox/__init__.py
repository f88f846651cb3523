"""The toybox: procedural objects, their renders and captions; training of the bundled prior and of its judge."""
