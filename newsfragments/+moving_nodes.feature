The Bragg mask of a sweep follows each node along its path during the exposure, by the known width of the image: spots are as sharp as the crystal, not as the rotation.
