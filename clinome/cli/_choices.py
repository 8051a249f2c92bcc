"""Words that options of more than one command take. They repeat what the library knows, because importing it would slow --help."""

from __future__ import annotations

from enum import StrEnum


class Layout(StrEnum):
    """Text layouts of summary statistics."""

    gwas_ssf = "gwas-ssf"
    regenie = "regenie"
    plink2 = "plink2"


class Measured(StrEnum):
    """What `clinome measure` measures."""

    vessels = "vessels"
    disc = "disc"
    volumes = "volumes"


class Eyes(StrEnum):
    """How two eyes become one value."""

    mean = "mean"
    left = "left"
    right = "right"
    largest = "largest"
    smallest = "smallest"


class Visits(StrEnum):
    """How visits become one value."""

    first = "first"
    last = "last"
    mean = "mean"


class Asked(StrEnum):
    """How `clinome explain` asks a network."""

    integrated_gradients = "integrated-gradients"
    occlusion = "occlusion"
    grad_cam = "grad-cam"
    attention = "attention"


class Nothing(StrEnum):
    """What stands for 'nothing there' in an explanation."""

    mean = "mean"
    blurred = "blurred"
    darkest = "darkest"


class Precision(StrEnum):
    """In which numbers a network computes."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    measure = "measure"
