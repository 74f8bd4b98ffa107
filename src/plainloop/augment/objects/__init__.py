"""Augmentations that are made for images with objects: what they keep, cut off and put together."""
