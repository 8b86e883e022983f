"""Mini-Gemini (MGM): a Gemma language model that reads pictures through two frozen towers.

Li et al., "Mini-Gemini: Mining the Potential of Multi-modality Vision Language Models" (2024).
Names and shapes of the parameters are those of MGM's released checkpoints; the code is new,
against transformers 5.

Shapes: B samples, L tokens of the padded sequence, P pictures, H side of a picture in pixels, h the
side that CLIP sees, N tokens of one picture, C CLIP width, A ConvNeXt channels, S side of its
map, D width of the language model, V vocabulary.
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GemmaConfig, GemmaForCausalLM
from transformers.initialization import no_init_weights

from hpcjobs.run.errors import InputError
from hpcjobs.run.model_config import Model, TextDims
from hpcjobs.train.mgm.clip_tower import ClipTower
from hpcjobs.train.mgm.convnext import ConvNextTower
from hpcjobs.train.mgm.loss import summed_cross_entropy
from hpcjobs.train.mgm.mining import mine, mining_projector
from hpcjobs.train.mgm.placeholders import (
    IMAGE_TOKEN_INDEX,
    check_placeholders,
    join_unused,
    place_pictures,
)

_PAD_ID, _EOS_ID, _BOS_ID = 0, 1, 2


class MgmForCausalLM(GemmaForCausalLM):
    """Gemma with both towers and the projectors under ``model.``, as MGM's key names want it.

    Deriving from transformers' class keeps its weight tying, gradient checkpointing and the
    module names that PEFT adapters refer to.
    """

    def __init__(self, dims: Model) -> None:
        super().__init__(gemma_config(dims.text))
        self.dims = dims
        width, channels = dims.vision.hidden, dims.aux.channels
        inner = self.model
        inner.vision_tower = ClipTower(dims.vision).requires_grad_(False)
        inner.vision_tower_aux = ConvNextTower(dims.aux).requires_grad_(False)
        inner.mm_projector = nn.Sequential(
            nn.Linear(width, dims.text.hidden),
            nn.GELU(),
            nn.Linear(dims.text.hidden, dims.text.hidden),
        )
        inner.vlm_uni_query_projector = mining_projector(width, width)
        inner.vlm_uni_aux_projector = mining_projector(channels, width)
        inner.vlm_uni_val_projector = mining_projector(channels, width)

    def forward(
        self,
        input_ids_BL: Tensor,
        attention_mask_BL: Tensor,
        labels_BL: Tensor,
        pictures_P3HH: Tensor,
    ) -> Tensor:
        """Returns the summed cross-entropy of the labelled tokens.

        Args:
            input_ids_BL: token ids, padded on the right; ``IMAGE_TOKEN_INDEX`` at every position
                of a picture token, N times a picture, in the pictures' order.
            attention_mask_BL: 1 at tokens, 0 at padding.
            labels_BL: token ids, unshifted, ``IGNORE_INDEX`` where nothing is learnt.
            pictures_P3HH: normalised pictures at the ConvNeXt resolution; P may be 0.

        Returns:
            A scalar in fp32.

        Raises:
            InputError: placeholders and pictures do not match, or a picture has another size.
        """
        hidden_BLD = self._read(input_ids_BL, attention_mask_BL, pictures_P3HH)
        return summed_cross_entropy(hidden_BLD, labels_BL, self.lm_head)

    def logits(
        self, input_ids_BL: Tensor, attention_mask_BL: Tensor, pictures_P3HH: Tensor
    ) -> Tensor:
        """Returns the next-token logits [B, L, V] in fp32, for evaluation.

        Takes and raises what ``forward`` does. At the 2B size one sample of 2048 tokens takes
        2.1 GB here.
        """
        hidden_BLD = self._read(input_ids_BL, attention_mask_BL, pictures_P3HH)
        logits_BLV: Tensor = self.lm_head(hidden_BLD).float()
        return logits_BLV

    def encode_pictures(self, pictures_P3HH: Tensor) -> Tensor:
        """Turns pictures into tokens of the language model.

        ``mm_projector(clip + mined)``; the sum takes CLIP's raw features, not the query that was
        projected from them.

        Args:
            pictures_P3HH: normalised pictures at the ConvNeXt resolution.

        Returns:
            [P, N, D], scaled like embedded text: Gemma multiplies its embeddings by sqrt(D). The
            transformers that MGM was trained with did so to text and pictures alike, at the
            entry of the decoder; transformers 5 does so inside ``embed_tokens``, past which the
            pictures go.
        """
        inner = self.model
        with torch.no_grad():  # the towers are frozen: no activation of theirs is kept
            lowres_PNC = inner.vision_tower(self._shrink(pictures_P3HH))
            highres_PASS = inner.vision_tower_aux(pictures_P3HH)
        found_PNC = mine(
            lowres_PNC,
            highres_PASS,
            inner.vlm_uni_query_projector,
            inner.vlm_uni_aux_projector,
            inner.vlm_uni_val_projector,
        )
        tokens_PND: Tensor = inner.mm_projector(lowres_PNC + found_PNC)
        scale: Tensor = inner.embed_tokens.embed_scale
        return tokens_PND * scale.to(tokens_PND.dtype)

    def train(self, mode: bool = True) -> Self:
        """Switches training mode for all but the towers.

        They have nothing that behaves differently while training, and in evaluation mode
        gradient checkpointing passes their layers by.
        """
        super().train(mode)
        self.model.vision_tower.eval()
        self.model.vision_tower_aux.eval()
        return self

    def _shrink(self, pictures_P3HH: Tensor) -> Tensor:
        """The picture that CLIP sees is made from the normalised large one, as MGM does."""
        side = self.dims.vision.picture_px
        return F.interpolate(
            pictures_P3HH.float(), size=(side, side), mode="bilinear", align_corners=False
        )

    def _read(
        self, input_ids_BL: Tensor, attention_mask_BL: Tensor, pictures_P3HH: Tensor
    ) -> Tensor:
        """Returns the last hidden states [B, L, D]."""
        self._check_pictures(pictures_P3HH)
        check_placeholders(input_ids_BL, len(pictures_P3HH), self.dims.picture_tokens)
        hidden_BLD: Tensor = self.model(
            inputs_embeds=self._embed(input_ids_BL, pictures_P3HH),
            attention_mask=attention_mask_BL,
            use_cache=False,
        ).last_hidden_state
        return hidden_BLD

    def _check_pictures(self, pictures_P3HH: Tensor) -> None:
        side = self.dims.aux.picture_px
        if pictures_P3HH.shape[1:] != (3, side, side):
            raise InputError(
                f"pictures must come as [pictures, 3, {side}, {side}], "
                f"not {list(pictures_P3HH.shape)}: model.aux.picture_px sets their side"
            )

    def _embed(self, input_ids_BL: Tensor, pictures_P3HH: Tensor) -> Tensor:
        """Returns text and pictures as one sequence of embeddings [B, L, D]."""
        is_picture_BL = input_ids_BL == IMAGE_TOKEN_INDEX
        text_BLD: Tensor = self.model.embed_tokens(input_ids_BL.masked_fill(is_picture_BL, _PAD_ID))
        if len(pictures_P3HH) == 0:
            blank_13HH = pictures_P3HH.new_zeros(1, *pictures_P3HH.shape[1:])
            return join_unused(text_BLD, self.encode_pictures(blank_13HH))
        return place_pictures(text_BLD, is_picture_BL, self.encode_pictures(pictures_P3HH))


def build_model(dims: Model) -> MgmForCausalLM:
    """Builds the model on torch's default device and in its default dtype.

    Args:
        dims: dimensions. With ``weights: random`` the values are drawn from torch's current
            generator; with ``weights: pretrained`` memory is left as it is, because
            ``load_weights`` overwrites every value and drawing 3 billion first takes a minute.

    Returns:
        The model, towers frozen and everything else trainable. Under
        ``torch.device("meta")`` it takes no memory and counts its parameters all the same. Build
        it under a bf16 default dtype rather than calling ``bfloat16()`` on it, which would round
        the rotary frequencies too.
    """
    if dims.weights == "random":
        return MgmForCausalLM(dims)
    with no_init_weights():
        model = MgmForCausalLM(dims)
    model.tie_weights()  # which the line above left out with the drawing
    return model


def gemma_config(dims: TextDims) -> GemmaConfig:
    """Returns the language model's dimensions in transformers' terms."""
    return GemmaConfig(
        vocab_size=dims.vocab,
        hidden_size=dims.hidden,
        intermediate_size=dims.intermediate,
        num_hidden_layers=dims.layers,
        num_attention_heads=dims.heads,
        num_key_value_heads=dims.kv_heads,
        head_dim=dims.head_dim,
        max_position_embeddings=dims.max_positions,
        initializer_range=dims.init_std,
        rms_norm_eps=dims.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": dims.rope_theta},
        pad_token_id=_PAD_ID,
        eos_token_id=_EOS_ID,
        bos_token_id=_BOS_ID,
        tie_word_embeddings=True,
        use_cache=False,
    )
