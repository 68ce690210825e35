"""Where things are: frames, grids, blending, rasters, regions and polygons."""
