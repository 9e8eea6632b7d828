"""Several defenses of a BackdoorBench checkout on several records, run by the engine and judged alike.

Every defended model is judged here, on the same images with the same code, from the ``defense_result.pt`` that the
defense left: the defenses' own CSV files have their metrics in different places. A cell of the table is one
(record, defense) pair; its figures are stored in ``record/NAME/defense/DEFENSE/compare.json``, and a cell that is
finished is not run again with the same options.
"""

from advrbd_plugin.evaluation.compare.cell import UNDEFENDED, CompareCell, read_cell
from advrbd_plugin.evaluation.compare.comparison import compare
from advrbd_plugin.evaluation.compare.plan import Plan

__all__ = ["UNDEFENDED", "CompareCell", "Plan", "compare", "read_cell"]
