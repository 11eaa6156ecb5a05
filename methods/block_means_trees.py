"""Block means with extremely randomised trees: Geurts, Ernst and Wehenkel, Machine Learning 2006."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from sklearn.ensemble import ExtraTreesClassifier

from voxbench.methods.base import Labelled, Options
from voxbench.methods.block_means import BlockMeans, BlockMeansOptions


class BlockMeansTreesOptions(BlockMeansOptions):
    """Of the trees; all else is scikit-learn's default, as the paper recommends it for classification."""

    trees: int = Field(500, ge=1)


class BlockMeansTrees(BlockMeans):
    """The mean of each block of a volume, with extra trees: what is to be had without a straight line."""

    Options: ClassVar[type[Options]] = BlockMeansTreesOptions
    name: ClassVar[str] = "block-means-trees"
    about: ClassVar[str] = "yardstick: means of 8 x 8 x 8 blocks, extra trees (Geurts et al., 2006)"

    def learnt(self, features: npt.NDArray[np.float64], data: Labelled) -> Any:
        """Trees on `features` [N, F]."""
        trees = ExtraTreesClassifier(self.options.trees, class_weight="balanced", random_state=data.seed, n_jobs=1)
        return trees.fit(features, data.labels)
