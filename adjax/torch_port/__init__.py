"""Released PyTorch checkpoints of AudioDec to adjax parameters and back, without PyTorch."""

from adjax.torch_port.config_yml import config_text, read_config
from adjax.torch_port.convert import export_checkpoint, import_checkpoint
from adjax.torch_port.names import Row, autoencoder_rows, from_torch, to_torch
from adjax.torch_port.reader import read_checkpoint
from adjax.torch_port.writer import write_checkpoint

__all__ = [
    "Row",
    "autoencoder_rows",
    "config_text",
    "export_checkpoint",
    "from_torch",
    "import_checkpoint",
    "read_checkpoint",
    "read_config",
    "to_torch",
    "write_checkpoint",
]
