"""Pixels that are bad in every image: by the detector, by faults, in shadow."""
