"""Tables from results: the paper's, with its figures beside ours, and the stress suite's."""

from advrbd_plugin.report.evaluation.stress_report import write_stress_report
from advrbd_plugin.report.evaluation.write import write_report

__all__ = ["write_report", "write_stress_report"]
