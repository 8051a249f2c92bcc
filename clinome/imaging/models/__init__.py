"""One network per file, each with ``Config``, ``Model`` and ``example``."""
