"""Pictures embedded by who is on them, each eye scanned alone: Xie et al. 2024 (iGWAS)."""
