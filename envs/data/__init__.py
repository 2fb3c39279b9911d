"""Data sets for supervised streams: scikit-learn's digits, and files in the formats that they come in.

Nothing that is read can execute code, and every size is checked before memory is taken for it.
"""

from .data_set import DataSet, Split
from .registry import DATA_SETS, load_data

__all__ = ["DATA_SETS", "DataSet", "Split", "load_data"]
