"""What is compared after a step, by kind and name, in the order in which a step computes it."""

from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class Record(NamedTuple):
    """One step of one side. Leaves are named by this package's paths, in its layout."""

    loss: Arrays  # of every task with a label, unweighted
    total: Arrays  # the sum that is differentiated
    statistics: Arrays  # the heads' running mean and variance
    gradient: Arrays  # of every trained leaf, before clipping
    norm: Arrays  # of the whole gradient
    rate: Arrays  # of every parameter group
    first_moment: Arrays
    second_moment: Arrays
    value: Arrays


KINDS = Record._fields
LEAVES = ("gradient", "first_moment", "second_moment", "value")  # kinds with an entry per trained leaf
