"""From scans to label maps: a volume, a case, a folder."""
