"""NT-Xent: the contrast of two views of a volume against the views of other patients' volumes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def nt_xent(first: Tensor, second: Tensor, temperature: float, patients: Sequence[int] = ()) -> Tensor:
    """The loss of Chen et al., ICML 2020, equation 1, of two views' projections [B, E], over all 2B of them.

    `patients` is a number a volume: other volumes of a volume's own patient are no negatives of it. () = each is one's.
    """
    count = len(first)
    ids = torch.tensor(patients if patients else range(count), device=first.device)
    relatives = (ids[:, None] == ids[None]) & ~torch.eye(count, dtype=torch.bool, device=first.device)  # [B, B]
    z = functional.normalize(torch.cat((first, second)), dim=1)
    out = relatives.repeat(2, 2) | torch.eye(2 * count, dtype=torch.bool, device=first.device)
    scores = (z @ z.T / temperature).masked_fill(out, -torch.inf)  # [2B, 2B]
    partners = torch.arange(2 * count, device=first.device).roll(count)
    return functional.cross_entropy(scores, partners)
