"""What the scripts beside this one share: random parameters and random images."""

import torch


@torch.no_grad()
def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Noise on every parameter and statistic: nothing zero or one, activations of order one."""
    for name, parameter in model.named_parameters():
        table = any(
            word in name
            for word in ("embedding.weight", "embeddings", "pos_embed", "token", "probe", "latent", "table")
        )
        fan_in = parameter[0].numel() if parameter.ndim > 1 and len(parameter) else 1
        scale = 0.5 if table and "patch" not in name else 0.2 if parameter.ndim < 2 else fan_in**-0.5
        parameter.add_(scale * torch.randn_like(parameter))
    for name, buffer in model.named_buffers():
        if "running_mean" in name:
            buffer.add_(0.1 * torch.randn_like(buffer))
        if "running_var" in name:
            buffer.mul_(torch.rand_like(buffer) + 0.5)
    return model


def random_pixels(count: int, height: int, width: int) -> torch.Tensor:
    return (torch.randn(count, 3, height, width) * 4).round() / 4  # few digits: the file is smaller
