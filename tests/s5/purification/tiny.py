"""Real classes of transformers and open_clip from tiny configurations, with random weights, saved as from a hub."""

import json
from pathlib import Path

import torch
import transformers as t
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
SPECIAL += ["<|video_pad|>"]


def byte_tokenizer(special=SPECIAL, **kwargs):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    return t.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=special[-1], pad_token="<|endoftext|>", **kwargs
    )


def qwen(folder: Path, version: str) -> Path:
    tokenizer = byte_tokenizer(SPECIAL)
    tokenizer.eos_token = "<|im_end|>"
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in (
        ("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"), ("vision_end", "vision_end")
    )}  # fmt: skip
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    if version == "2.5":
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
        vision |= {"fullatt_block_indexes": [0], "patch_size": 14}
        config = t.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
        model, processor, patch = t.Qwen2_5_VLForConditionalGeneration(config), t.Qwen2_5_VLProcessor, 14
        video = t.Qwen2VLVideoProcessor()
    else:
        text |= {
            "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        }
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16, "patch_size": 16}
        config = t.Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
        model, processor, patch = t.Qwen3VLForConditionalGeneration(config), t.Qwen3VLProcessor, 16
        video = t.Qwen3VLVideoProcessor()
    images = t.Qwen2VLImageProcessor(patch_size=patch, min_pixels=56 * 56, max_pixels=112 * 112)
    model.save_pretrained(folder)
    processor(image_processor=images, tokenizer=tokenizer, video_processor=video, chat_template=CHAT).save_pretrained(
        folder
    )
    return folder


def audible(model):
    """SAM's own initial weights are so small that no answer depends on its input."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def sam(folder: Path) -> Path:
    config = t.SamConfig(
        vision_config={
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 16, "window_size": 2, "global_attn_indexes": [0], "mlp_dim": 16,
            "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )  # fmt: skip
    audible(t.SamModel(config)).save_pretrained(folder)
    images = t.SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16}, mask_pad_size={"height": 16, "width": 16},
    )  # fmt: skip
    t.SamProcessor(images).save_pretrained(folder)
    return folder


def sam2(folder: Path) -> Path:
    backbone = t.Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[64, 64], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[8, 8, 8, 8], global_attention_blocks=[3],
        window_positional_embedding_background_size=[2, 2],
    )  # fmt: skip
    vision = t.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=16,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    config = t.Sam2Config(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )
    audible(t.Sam2Model(config)).save_pretrained(folder)
    images = t.Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16})
    t.Sam2Processor(images).save_pretrained(folder)
    return folder


def clip_tokenizer(length: int):
    return byte_tokenizer(("<|startoftext|>", "<|endoftext|>"), model_max_length=length)


def sam3(folder: Path) -> Path:
    tokenizer = clip_tokenizer(32)
    part = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    config = t.Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
                "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "window_size": 2,
                "global_attn_indexes": [0], "pretrain_image_size": 56,
            },
            "fpn_hidden_size": 32, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config={
            "model_type": "clip_text_model", "vocab_size": len(tokenizer), "num_hidden_layers": 1, "projection_dim": 16,
            "max_position_embeddings": 32, "eos_token_id": tokenizer.eos_token_id, **part,
        },
        geometry_encoder_config={"num_layers": 1, **part},
        detr_encoder_config={"num_layers": 1, **part},
        detr_decoder_config={"num_layers": 1, "num_queries": 4, **part},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )  # fmt: skip
    t.Sam3Model(config).save_pretrained(folder)
    images = t.Sam3ImageProcessor(size={"height": 56, "width": 56}, mask_size={"height": 16, "width": 16})
    t.Sam3Processor(images, tokenizer).save_pretrained(folder)
    return folder


def clipseg(folder: Path) -> Path:
    tokenizer = clip_tokenizer(77)
    part = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = t.CLIPSegConfig(
        text_config={"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, **part},
        vision_config={"image_size": 32, "patch_size": 8, **part},
        projection_dim=16, extract_layers=[0, 1], reduce_dim=8, decoder_num_attention_heads=2,
        decoder_intermediate_size=16, conditional_layer=0,
    )  # fmt: skip
    t.CLIPSegForImageSegmentation(config).save_pretrained(folder)
    images = t.ViTImageProcessor(size={"height": 32, "width": 32})
    t.CLIPSegProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    """Of open_clip: windows of 32 pixels in patches of 8."""
    import open_clip

    architecture = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**json.loads(json.dumps(architecture)))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": architecture, "preprocess_cfg": {}}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder
