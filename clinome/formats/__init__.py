"""Field formats: one file each, bytes to neutral records and back; nothing is interpreted here."""
