"""Write references.json: what torchvision, timm, MONAI and transformers say of seeded inputs with seeded weights.

Run once, by hand, where those are installed; the tests read the file. The CPU wheel of torch lacks what torchvision's compiled
operators are linked to, so two of them are declared by name before it is imported (no network calls them):

    pip install --no-deps --target /tmp/reference torchvision==0.28.0 timm==1.0.31
    PYTHONPATH=tests:/tmp/reference .venv/bin/python tests/imaging/models/make_references.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
import torch.library
from toolkit.references import digest, filled, seeded
from torch import Tensor, nn

OUT = Path(__file__).with_name("references.json")


def main() -> None:
    """Run every reference network once."""
    operators = torch.library.Library("torchvision", "DEF")
    operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import monai.networks.nets as monai
    import timm
    import torchvision.models as torchvision
    import transformers

    like_torchvision = {"spatial_dims": 3, "n_input_channels": 1, "num_classes": 5, "conv1_t_stride": 2, "bias_downsample": False}
    vit = transformers.ViTConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256, image_size=64)
    vit.layer_norm_eps = 1e-6
    networks: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
        "torchvision resnet18": (torchvision.resnet18, (2, 3, 96, 96)),
        "torchvision resnet34": (torchvision.resnet34, (2, 3, 96, 96)),
        "torchvision resnet50": (torchvision.resnet50, (2, 3, 96, 96)),
        "torchvision resnet101": (torchvision.resnet101, (1, 3, 64, 64)),
        "torchvision densenet121": (torchvision.densenet121, (2, 3, 96, 96)),
        "torchvision inception_v3": (lambda: torchvision.inception_v3(init_weights=True), (2, 3, 299, 299)),
        "timm vit_small_patch16_224": (lambda: timm.create_model("vit_small_patch16_224"), (1, 3, 224, 224)),
        "timm vit_small_patch16_224 average": (
            lambda: timm.create_model("vit_small_patch16_224", global_pool="avg"),
            (1, 3, 224, 224),
        ),
        "monai resnet18 3-D": (lambda: monai.resnet18(**like_torchvision, shortcut_type="B"), (1, 1, 32, 40, 48)),
        "monai resnet50 3-D": (lambda: monai.resnet50(**like_torchvision), (1, 1, 32, 40, 48)),
        "transformers ViTModel": (lambda: transformers.ViTModel(vit, add_pooling_layer=False), (2, 3, 64, 64)),
    }
    made = {name: reference(make, shape) for name, (make, shape) in networks.items()}
    versions = {name: version(name) for name in ("torch", "torchvision", "timm", "monai", "transformers")}
    OUT.write_text(json.dumps({"made by": Path(__file__).name, "versions": versions, "networks": made}, indent=1) + "\n")


def reference(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> dict[str, object]:
    """Return keys, hashes and outputs of one network: at a fixed start, then with filled weights, in evaluation and in training."""
    torch.manual_seed(0)
    network = make()
    start = digest(network.state_dict())
    weights = filled(network.state_dict())
    network.load_state_dict(weights)
    inputs = seeded("inputs", shape, low=-2, high=2)
    with torch.no_grad():
        network.eval()
        said = first(network(inputs))
        auxiliary = network.train()(inputs)[1] if hasattr(network, "AuxLogits") else None
    return {
        "shape": shape,
        "parameters": sum(value.numel() for value in network.parameters()),
        "sha256 of the weights made with seed 0": start,
        "sha256 of the filled weights": digest(weights),
        "outputs": numbers(said),
        **({} if auxiliary is None else {"auxiliary outputs in training": numbers(auxiliary)}),
    }


def first(output: object) -> Tensor:
    """Return the one tensor, or the tokens of transformers' output."""
    return output if isinstance(output, Tensor) else output.last_hidden_state  # type: ignore[attr-defined, no-any-return]


def numbers(values: Tensor) -> dict[str, object]:
    """Return the first eight of each row, and the root mean square of all."""
    rows = values.flatten(1)
    return {"first": rows[:, :8].tolist(), "root mean square": float(rows.square().mean().sqrt())}


if __name__ == "__main__":
    main()
