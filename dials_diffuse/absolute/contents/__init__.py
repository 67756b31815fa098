"""The atoms of the unit cell and how they scatter."""
