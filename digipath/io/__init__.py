"""Other programs' files: annotations, pyramidal TIFF and HDF5."""
