"""Released PyTorch checkpoints of AudioDec to adjax parameters and back, without PyTorch."""

from adjax.torch_port.autoencoder import autoencoder_rows
from adjax.torch_port.config_yml import VocoderModel, config_text, read_config, read_generator
from adjax.torch_port.convert import (
    ZERO_DECODER,
    Generator,
    export_checkpoint,
    export_model,
    import_checkpoint,
    import_generator,
    import_pairing,
)
from adjax.torch_port.discriminators import discriminator_rows
from adjax.torch_port.layout import Row, from_torch, to_torch
from adjax.torch_port.reader import read_checkpoint
from adjax.torch_port.training import NetworkState, TrainingState, export_training, import_training
from adjax.torch_port.vocoder import vocoder_rows
from adjax.torch_port.writer import write_checkpoint

__all__ = [
    "ZERO_DECODER",
    "Generator",
    "NetworkState",
    "Row",
    "TrainingState",
    "VocoderModel",
    "autoencoder_rows",
    "config_text",
    "discriminator_rows",
    "export_checkpoint",
    "export_model",
    "export_training",
    "from_torch",
    "import_checkpoint",
    "import_generator",
    "import_pairing",
    "import_training",
    "read_checkpoint",
    "read_config",
    "read_generator",
    "to_torch",
    "vocoder_rows",
    "write_checkpoint",
]
