"""A module that imports libraries with thread pools of their own, as stages do."""

import numpy as np
import scipy.linalg

__all__ = ["np", "scipy"]
