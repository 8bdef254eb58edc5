"""From a scan to a label map: one volume, one case, a folder."""
