"""Windows, rasters, vectors and footprints: the only room that imports rasterio, geopandas, pyogrio and shapely."""
