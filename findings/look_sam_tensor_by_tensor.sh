#!/usr/bin/env bash
# pytorch_optimizer 4.1.0, torch 2.13.0, numpy 2.4.6, Python 3.11; seen on 2026-11-28.
#
# One would guess: between two SAM steps LookSAM adds to the gradient a part v of SAM's
# gradient that is orthogonal to it, as long as alpha |g|, and where nothing is orthogonal
# it adds nothing. So it does in float64.
#
# What happens: v is taken tensor by tensor, and scaled up to alpha |g| tensor by tensor. The
# last bias of a classifier with two outputs has gradients (a, -a) only: nothing of one is
# orthogonal to another, and its v is what rounding leaves. In float32 that is some 1e-8,
# about as much as the 1e-8 that is added to |v| against a division by zero; so the rounding
# is scaled up until it is a good part of the gradient, and changes its length and direction
# in steps 1 to 4, 6 to 9 and so on. (A tensor of one number leaves exactly zero.)
#
# Seen (the last bias' gradient as a multiple of the one that went in; 8 seeds):
#   float64: 1.0000 to 1.0000
#   float32: 0.2588 to 1.7412
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pytorch_optimizer==4.1.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import torch
from pytorch_optimizer import LookSAM

print("pytorch_optimizer", version("pytorch_optimizer"), "torch", torch.__version__)


def multiples(seed, dtype):
    torch.manual_seed(seed)
    layers = torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)
    model = torch.nn.Sequential(*layers).to(dtype)
    weights, found = model.parameters(), []
    optimizer = LookSAM(weights, torch.optim.SGD, lr=0.05, rho=0.05, k=5, alpha=0.7)
    for step in range(10):
        x, y = torch.randn(16, 4, dtype=dtype), torch.randint(0, 2, (16,))

        def closure():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()

        closure()
        gradient = model[2].bias.grad.clone()
        optimizer.step(closure)
        if step % 5:
            found += (model[2].bias.grad / gradient).tolist()
    return found


for dtype, least, most in [(torch.float64, 0, 1e-4), (torch.float32, 0.3, 1.0)]:
    found = [m for seed in range(8) for m in multiples(seed, dtype)]
    print(f"{str(dtype)[6:]}: {min(found):.4f} to {max(found):.4f}")
    assert least <= max(abs(m - 1) for m in found) <= most, "the rounding isn't scaled up"
PY
