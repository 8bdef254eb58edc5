"""A page to look at scans and label maps in the browser: slices and 3-D by NiiVue, from this machine alone."""
