"""The paper's tables and its ablation from the grid's results, with the paper's figures beside ours."""

from advrbd_plugin.report.evaluation.write import write_report

__all__ = ["write_report"]
