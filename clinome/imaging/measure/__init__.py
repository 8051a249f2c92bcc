"""Numbers read from outlined structures: one file a structure, then the fold from pictures to people."""
