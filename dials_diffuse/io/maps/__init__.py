"""Files that hold maps, in our formats and those of other programs."""
