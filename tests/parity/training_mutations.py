"""Mistakes in a training step, put into the twin on purpose; each is one that ports of training make."""

import math

import torch
from torch.nn import functional as F


def adamw(tensors, state, *, rate, decay, betas, eps, inside=False, coupled=False, corrected=True):
    """AdamW by its formula (Loshchilov and Hutter 2019, arXiv:1711.05101), with its usual mistakes."""
    first, second = betas
    for tensor in tensors:
        if tensor.grad is None:
            continue
        own = state[tensor]
        if not own:
            own["step"] = torch.zeros(())
            own["exp_avg"], own["exp_avg_sq"] = torch.zeros_like(tensor), torch.zeros_like(tensor)
        own["step"] += 1
        t = float(own["step"])
        gradient = tensor.grad + decay * tensor.detach() if coupled else tensor.grad
        own["exp_avg"].mul_(first).add_((1 - first) * gradient)
        own["exp_avg_sq"].mul_(second).add_((1 - second) * gradient.square())
        m, v = own["exp_avg"], own["exp_avg_sq"]
        if corrected:
            m, v = m / (1 - first**t), v / (1 - second**t)
        direction = m / ((v + eps).sqrt() if inside else v.sqrt() + eps)
        with torch.no_grad():
            tensor.sub_(rate * (direction + (0 if coupled else decay * tensor)))


def updated_by(twin, decays=lambda tensor, decay: decay, **mistake):
    """Puts `adamw` with a mistake in the place of torch's."""

    def step():
        for group in twin.optimizer.param_groups:
            for tensor in group["params"]:
                adamw(
                    [tensor],
                    twin.optimizer.state,
                    rate=group["lr"],
                    decay=decays(tensor, group["weight_decay"]),
                    betas=group["betas"],
                    eps=group["eps"],
                    **mistake,
                )

    twin.optimizer.step = step


def epsilon_inside_the_root(twin, patch):
    updated_by(twin, inside=True)


def decay_coupled_to_the_gradient(twin, patch):
    updated_by(twin, coupled=True)


def decay_of_norms(twin, patch):
    norms = {id(head[0].weight) for head in twin.model.heads.values()}
    updated_by(twin, decays=lambda tensor, decay: 0.05 if id(tensor) in norms else decay)


def no_bias_correction(twin, patch):
    updated_by(twin, corrected=False)


def alpha_over_the_root_of_r(twin, patch):
    for module in adapted(twin):
        module.scaling["default"] *= math.sqrt(module.r["default"])


def gradient_through_doras_norm(twin, patch):
    def forward(self, x, *, lora_A, lora_B, scaling, base_layer, base_result=None, adapter_name=""):
        weight = base_layer.weight
        norm = (weight + scaling * lora_B.weight @ lora_A.weight).norm(dim=1)
        gain = (self.weight / norm)[None]
        plain = F.linear(x, weight) if base_result is None else base_result - (base_layer.bias or 0)
        return (gain - 1) * plain + gain * lora_B(lora_A(x)) * scaling

    for module in adapted(twin):
        patch.setattr(type(module.lora_magnitude_vector["default"]), "forward", forward)


def mean_over_devices(twin, patch):
    def loss(logits, labels, known):
        parts = [
            F.cross_entropy(own[here], label[here])
            for own, label, here in zip(logits.chunk(2), labels.chunk(2), known.chunk(2), strict=True)
            if here.any()
        ]
        return torch.stack(parts).mean()

    twin.loss = loss


def log_sigma_without_its_half(twin, patch):
    plain = twin.total
    twin.total = lambda losses: plain(losses) + sum(twin.model.log_var[task] / 2 for task in losses)


def clipping_before_frozen_leaves_are_masked(twin, patch):
    twin.model.requires_grad_(True)
    patch.setattr(twin.optimizer, "zero_grad", lambda **kwargs: twin.model.zero_grad(**kwargs))


def clipping_each_group(twin, patch):
    plain, every = twin.clip, twin._with_gradient

    def clip(largest):
        norm = torch.nn.utils.get_total_norm([tensor.grad for tensor in every()])
        for group in twin.optimizer.param_groups:
            twin._with_gradient = lambda own=group: [t for t in own["params"] if t.grad is not None]
            if twin._with_gradient():
                plain(largest)
        return norm

    twin.clip = clip


def batch_norms_other_momentum(twin, patch):
    for head in twin.model.heads.values():
        head[0].momentum = 0.9


def schedule_one_step_ahead(twin, patch):
    twin.scheduler.step()


def dropout_without_scaling(twin, patch):
    for module in twin.model.modules():
        if hasattr(module, "keep"):
            module.keep = 1.0


def no_rotary_in_training(twin, patch):
    sine, cosine = twin.model.timm.rope.pos_embed.chunk(2, dim=-1)
    twin.model.timm.rope.pos_embed = torch.cat([torch.zeros_like(sine), torch.ones_like(cosine)], dim=-1)


def one_rate_of_a_and_b(twin, patch):
    groups = twin.optimizer.param_groups
    common = next(group["initial_lr"] for group in groups if group["name"] == "adapter_a")
    twin.scheduler.base_lrs = [
        common if group["name"] == "adapter_b" else rate
        for group, rate in zip(groups, twin.scheduler.base_lrs, strict=True)
    ]


def adapted(twin):
    return [module for module in twin.model.modules() if hasattr(module, "lora_A")]


# Mistake -> the kind of the first rung that it moves.
MUTATIONS = {
    epsilon_inside_the_root: "value",
    decay_coupled_to_the_gradient: "first_moment",
    decay_of_norms: "value",
    no_bias_correction: "value",
    alpha_over_the_root_of_r: "loss",
    gradient_through_doras_norm: "gradient",
    mean_over_devices: "loss",
    log_sigma_without_its_half: "total",
    clipping_before_frozen_leaves_are_masked: "norm",
    clipping_each_group: "first_moment",
    batch_norms_other_momentum: "statistics",
    schedule_one_step_ahead: "rate",
    dropout_without_scaling: "loss",
    no_rotary_in_training: "loss",
    one_rate_of_a_and_b: "rate",
}
