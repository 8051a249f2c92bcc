from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clinome.core.errors import StudyError
from clinome.imaging.models.unet3d import Config, Model, example, loss
from clinome.nn.segmentation_losses import UNKNOWN


def made(config: Config, seed: int = 0) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Model(config)
        for parameter in model.parameters():  # norms too away from where they start
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


def test_the_paper_network_has_its_parameters_and_scores_the_inner_tile() -> None:
    with torch.device("meta"):  # shapes alone, no memory
        model = Model(Config())
        scores = model(torch.empty(1, 3, 132, 132, 116))
    assert scores.shape == (1, 3, 44, 44, 28)  # figure 2
    assert (model.config.margin, Config.tiny().margin) == (44, 0)
    assert sum(p.numel() for p in model.parameters()) - model.scales == 19_069_955  # section 2


def test_equals_the_paper_written_out_by_hand() -> None:
    model = made(Config(channels_in=2, outputs=3, widths=(8, 16, 32))).eval()
    volume = torch.randn(1, 2, 44, 44, 44, generator=torch.Generator().manual_seed(3))

    def twice(x: Tensor, part: torch.nn.Module) -> Tensor:
        for conv, norm, _ in [p for p in part if len(list(p.children())) == 3]:  # type: ignore[attr-defined]
            x = F.conv3d(x, conv.weight)
            x = F.relu((x - norm.running_mean.view(-1, 1, 1, 1)) / (norm.running_var.view(-1, 1, 1, 1) + 1e-5) ** 0.5
                       * norm.weight.view(-1, 1, 1, 1) + norm.bias.view(-1, 1, 1, 1))  # fmt: skip
        return x

    one = twice(volume, model.down[0])
    two = twice(F.max_pool3d(one, 2), model.down[1])
    x = twice(F.max_pool3d(two, 2), model.down[2])
    for up, merge, across in zip(model.up, model.merge, (two, one), strict=True):
        x = F.conv_transpose3d(x, up.weight, stride=2)
        rim = (across.shape[2] - x.shape[2]) // 2
        x = twice(torch.cat([x, across[:, :, rim:-rim, rim:-rim, rim:-rim]], dim=1), merge)
    expected = F.conv3d(x, model.heads[0].weight, model.heads[0].bias)  # type: ignore[arg-type]
    assert expected.shape[2:] == (4, 4, 4)
    torch.testing.assert_close(model(volume), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # importing MONAI alone takes seconds
def test_equals_monai_on_the_nnunet_shape() -> None:
    nets = pytest.importorskip("monai.networks.nets")
    steps, sides = ((1, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 3
    ours = made(Config.nnunet(2, 3, (8, 16, 32), halvings=steps, kernels=sides))
    peer = nets.DynUNet(
        3, 2, 3, [list(side) for side in sides], [1, *(list(step) for step in steps)], [list(step) for step in steps],
        filters=[8, 16, 32], norm_name=("INSTANCE", {"affine": True}), deep_supervision=True, deep_supr_num=1,
    )  # fmt: skip
    parts = {"input_block": ours.down[0], "downsamples.0": ours.down[1], "bottleneck": ours.down[2]}
    parts |= {"upsamples.0.conv_block": ours.merge[0], "upsamples.1.conv_block": ours.merge[1]}
    state = {}
    for name, part in parts.items():
        for k in (0, 1):
            state[f"{name}.conv{k + 1}.conv.weight"] = part[k][0].weight
            state |= {f"{name}.norm{k + 1}.{which}": getattr(part[k][1], which) for which in ("weight", "bias")}
    state |= {f"upsamples.{k}.transp_conv.conv.weight": ours.up[k].weight for k in (0, 1)}
    for name, head in (("output_block", ours.heads[0]), ("deep_supervision_heads.0", ours.heads[1])):
        state |= {f"{name}.conv.conv.{which}": getattr(head, which) for which in ("weight", "bias")}
    missing = peer.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("skip_layers") for key in missing.missing_keys)  # the same modules under a second name
    volume = torch.randn(2, 2, 6, 16, 12, generator=torch.Generator().manual_seed(1))
    fine, coarse = ours(volume)
    stacked = peer(volume)  # (n, levels, classes, …), the coarser level enlarged to the finest
    torch.testing.assert_close(fine, stacked[:, 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(F.interpolate(coarse, (6, 16, 12)), stacked[:, 1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.eval()(volume), peer.eval()(volume), rtol=1e-4, atol=1e-4)


def test_dense_loss_is_the_cross_entropy_and_hidden_voxels_neither_count_nor_teach() -> None:
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(2, 3, 4, 6, 8, generator=generator, requires_grad=True)
    target = torch.randint(0, 3, (2, 4, 6, 8), generator=generator)
    weight = torch.tensor([0.2, 1.0, 1.5])
    torch.testing.assert_close(loss(scores, target, weight=weight), F.cross_entropy(scores, target, weight=weight))
    sparse = target.clone()
    sparse[:, 1::2] = UNKNOWN
    value = loss(scores, sparse)
    torch.testing.assert_close(value, F.cross_entropy(scores[:, :, ::2], target[:, ::2]))
    (slope,) = torch.autograd.grad(value, scores)
    assert (slope[:, :, 1::2] == 0).all()
    assert (slope[:, :, ::2] != 0).all()


def test_a_patch_without_a_label_gives_zero_not_nan() -> None:
    scores = torch.ones(1, 2, 2, 2, 2, requires_grad=True)
    value = loss(scores, torch.full((1, 2, 2, 2), UNKNOWN))
    value.backward()
    assert value.item() == 0
    assert scores.grad is not None
    assert (scores.grad == 0).all()


def test_a_coarser_level_counts_half() -> None:
    config = Config.tiny()
    (volume,), target = example(config, 2)
    fine, coarse = made(config).train()(volume)
    assert coarse.shape[2:] == tuple(side // 2 for side in fine.shape[2:])
    expected = (F.cross_entropy(fine, target) + 0.5 * F.cross_entropy(coarse, target[:, ::2, ::2, ::2])) / 1.5
    torch.testing.assert_close(loss((fine, coarse), target), expected)
    assert isinstance(made(config).eval()(volume), Tensor)


def test_the_rim_that_valid_convolutions_use_up_is_left_out_of_the_target() -> None:
    generator = torch.Generator().manual_seed(4)
    scores, target = torch.randn(1, 2, 4, 4, 4, generator=generator), torch.randint(0, 2, (1, 92, 92, 92), generator=generator)
    torch.testing.assert_close(loss(scores, target), F.cross_entropy(scores, target[:, 44:48, 44:48, 44:48]))


def test_sizes_that_cannot_be_halved_are_refused_with_what_to_do() -> None:
    with pytest.raises(
        StudyError, match=r"(?s)cannot halve maps of \(9, 8, 8\).*got: +a volume of \(18, 16, 16\).*multiples of \(4, 4, 4\).*pad"
    ):
        Model(Config.tiny())(torch.zeros(1, 1, 18, 16, 16))
    with pytest.raises(StudyError, match="two levels or more"):
        Config(widths=(8, 16), halvings=((2, 2, 2), (2, 2, 2)))
    with pytest.raises(StudyError, match="alike"):
        Config(halvings=((1, 2, 2),) * 3)
    with pytest.raises(StudyError, match="padded"):
        Config(supervised=1)
