"""An exported recogniser in onnxruntime, with the face of a transformers model."""

from os import PathLike
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from .configuration_resnet_bigru import ResNetBiGruConfig

ONNX_FILE = "model.onnx"


class OnnxResNetBiGruForCTC(PreTrainedModel):
    """
    Whole utterances to logits on the CPU, as `ResNetBiGruForCTC` gives them. Runs on as many threads as torch does.

    Args:
        config: the exported model's.
        folder: with its `model.onnx`.

    Raises:
        ImportError: without the extra `onnx`.
        ValueError: for a file that onnxruntime cannot read.
    """

    config: ResNetBiGruConfig
    config_class = ResNetBiGruConfig
    main_input_name = "input_features"

    def __init__(self, config: ResNetBiGruConfig, folder: str | PathLike):
        super().__init__(config)
        import onnxruntime

        path = Path(folder, ONNX_FILE)
        try:
            self._session = onnxruntime.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own share no other base
            raise ValueError(f"{path}: expected an exported model ({error})") from None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutput | tuple:
        """Features (batch, frames, mels) and their mask (batch, frames) → `logits` (batch, frames', vocab)."""
        if attention_mask is None:
            attention_mask = torch.ones(input_features.shape[:2], dtype=torch.long)
        inputs = {"input_features": input_features.numpy(), "attention_mask": attention_mask.numpy()}
        logits = torch.from_numpy(self._session.run(None, inputs)[0])
        return (logits,) if return_dict is False else CausalLMOutput(logits=logits)


def session_options():
    """onnxruntime's `SessionOptions` for an exported recogniser."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Weights of 8 bits become float32 once, on loading, and not again in every run.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


__all__ = ["OnnxResNetBiGruForCTC"]
