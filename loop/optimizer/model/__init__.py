"""The queueing model of one replica, by which the optimizer estimates latencies. Row i of every
array belongs to one replica: many are estimated at once.

Weights of states and shares of requests span hundreds of orders of magnitude. What vanishes below
the smallest number counts as none, and each door says so: np.errstate(under="ignore").
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Rows = NDArray[np.intp]
