"""Makes tiny models with weights of chance, all that a diffusers upstream can be given: `python -m ... FOLDER`.

They are of the real architectures and take milliseconds; what they paint means nothing. Run as a program, so that no
test imports torch into its own process.
"""

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
WIDTH = 16
LOUD = 8.0
STRAIGHT = 6.0
"""Where the activation is nearly a straight line."""


def make_all(folder: Path) -> None:
    """Write `sd`, `xl`, `flux`, and for `sd` a ControlNet, two LoRAs and a small decoder."""
    torch.manual_seed(1)
    tokenizer = make_tokenizer(folder / "words")
    unet = make_unet()
    sd = StableDiffusionPipeline(
        vae=make_vae(),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    sd.save_pretrained(folder / "sd")
    make_controlnet(unet).save_pretrained(folder / "canny")
    for number, name in enumerate(("ink", "wool.v2")):
        make_lora(unet, folder / f"{name}.safetensors", number)
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    ).save_pretrained(folder / "taesd")
    make_xl(tokenizer).save_pretrained(folder / "xl")
    make_flux(tokenizer).save_pretrained(folder / "flux")


def make_tokenizer(folder: Path) -> Any:
    """Return a tokenizer of letters."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), *SPECIAL]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\na t\n")
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(["at", *words])}))
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=77)


def text_config(tokenizer: Any, **more: Any) -> Any:
    """Return the settings of a small text encoder."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def make_unet(**more: Any) -> Any:
    """Return a denoiser; its settings can be overridden."""
    settings: dict[str, Any] = {
        "sample_size": 8,
        "layers_per_block": 1,
        "block_out_channels": (16, 32),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**settings | more)


def make_vae(**more: Any) -> Any:
    """Return an autoencoder of the usual scale, 8 pixels to a latent."""
    settings: dict[str, Any] = {
        "block_out_channels": (8, 8, 8, 8),
        "norm_num_groups": 1,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        "sample_size": 64,
        "scaling_factor": 1.0,
    }
    vae = AutoencoderKL(**settings | more)
    with torch.no_grad():
        keep_colours(vae)
    return vae


def keep_colours(vae: Any) -> None:
    """Give an autoencoder weights with which a latent is the mean colour of its 8 x 8 pixels, and is decoded to it.

    Colours run through channels 0 to 2, and negated through 3, 6 and 7, so that their mean is zero; two constants in
    4 and 5 are so large that the norms, which would take away what all pixels share, hardly change the rest.
    """
    for part in vae.modules():
        if isinstance(part, ResnetBlock2D):
            part.conv2.weight.zero_(), part.conv2.bias.zero_()
        elif isinstance(part, Attention):
            part.to_out[0].weight.zero_(), part.to_out[0].bias.zero_()
        elif isinstance(part, Downsample2D):
            set_taps(part.conv, [(channel, channel, slice(0, 2), 0.25) for channel in range(8)])
        elif isinstance(part, Upsample2D):
            set_taps(part.conv, [(channel, channel, slice(1, 2), 1.0) for channel in range(8)])
    for half, colours in ((vae.encoder, 3), (vae.decoder, 3)):
        middle = slice(1, 2)
        both = [(colour, colour, middle, 1.0) for colour in range(colours)]
        both += [(other, colour, middle, -1.0) for colour, other in enumerate((3, 6, 7))]
        set_taps(half.conv_in, both)
        half.conv_in.bias[4], half.conv_in.bias[5] = LOUD, -LOUD
        half.conv_norm_out.bias.fill_(STRAIGHT)
        # What the norm divided by, and what the activation makes of nothing.
        gain = LOUD / 2
        set_taps(half.conv_out, [(colour, colour, middle, gain) for colour in range(colours)])
        half.conv_out.bias[:colours] = -gain * torch.nn.functional.silu(torch.tensor(STRAIGHT))
    vae.encoder.conv_out.bias[4:] = -20.0  # the logarithm of a variance
    for conv, width in ((vae.quant_conv, 8), (vae.post_quant_conv, 4)):
        if conv is not None:
            set_taps(conv, [(channel, channel, slice(0, 1), 1.0) for channel in range(width)])


def set_taps(conv: Any, taps: list[tuple[int, int, slice, float]]) -> None:
    """Set some weights of a convolution, (to, from, where, value), and all others to zero."""
    conv.weight.zero_(), conv.bias.zero_()
    for target, source, where, value in taps:
        conv.weight[target, source, where, where] = value


def make_controlnet(unet: Any) -> Any:
    """Return a ControlNet that already is of effect."""
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 8))
    with torch.no_grad():
        # A new one is of no effect by intent: its last layers are zero.
        for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out):
            layer.weight += torch.randn_like(layer.weight) * 0.5
    return net


def make_lora(unet: Any, path: Path, seed: int) -> None:
    """Write a LoRA of chance for the denoiser."""
    torch.manual_seed(100 + seed)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v", "to_out.0"]), "made")
    for name, weight in unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1.0)
    layers = get_peft_model_state_dict(unet, adapter_name="made")
    StableDiffusionPipeline.save_lora_weights(path.parent, unet_lora_layers=layers, weight_name=path.name)
    unet.delete_adapters("made")


def make_xl(tokenizer: Any) -> Any:
    """Return a pipeline of the SDXL family."""
    unet = make_unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        cross_attention_dim=2 * WIDTH,
        use_linear_projection=True,
    )
    return StableDiffusionXLPipeline(
        vae=make_vae(scaling_factor=0.9),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer, projection_dim=WIDTH)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(steps_offset=1),
        add_watermarker=False,
    )


def make_flux(tokenizer: Any) -> Any:
    """Return a pipeline of the Flux family."""
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=False,
    )
    small = T5Config(vocab_size=len(tokenizer), d_model=WIDTH, d_kv=4, d_ff=WIDTH, num_layers=1, num_heads=2)
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=make_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.8),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(small),
        # The real one's vocabulary is no plain text; that it cuts words otherwise is of no matter here.
        tokenizer_2=tokenizer,
        transformer=transformer,
    )


if __name__ == "__main__":
    diffusers.utils.logging.set_verbosity_error()
    make_all(Path(sys.argv[1]))
