"""Digital CT phantoms with known bones."""
