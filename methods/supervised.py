"""No pretraining: fine-tuning starts from the initialisation. What every method must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from voxbench.methods.base import Method, Role, Stage


class Supervised(Method):
    """Trained from scratch on the fraction's labels."""

    name: ClassVar[str] = "supervised"
    about: ClassVar[str] = "no pretraining: trained from scratch on the fraction's labels"
    role: ClassVar[Role] = "baseline"

    def stages(self) -> Sequence[Stage]:
        """None."""
        return ()
