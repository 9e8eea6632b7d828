"""What a run leaves behind: the model, a verdict on every sample, tables, pictures and one page to read."""

from advrbd_plugin.nn.description import ModelDescription
from advrbd_plugin.report.model_file import load_model, save_model
from advrbd_plugin.report.output import OutputFolder
from advrbd_plugin.report.record import RunRecord

__all__ = ["ModelDescription", "OutputFolder", "RunRecord", "load_model", "save_model"]
