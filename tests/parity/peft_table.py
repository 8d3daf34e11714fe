"""The adapters of the table in docs/parity.md: name -> kind, with the result that is expected."""

import functools

import peft
import torch

from tests.parity import peft_kinds as k
from tests.parity.peft_kinds import BLOCKS, MODEL, OFFICIAL, POOL, Kind
from tests.parity.torch_towers import official_both, official_vision

_rank = functools.partial(Kind, group="rank and alpha")
_block = functools.partial(Kind, group="per block")
_target = functools.partial(Kind, group="targets")
_tower = functools.partial(Kind, group="encoders")
_name = functools.partial(Kind, group="names and files")
_start = functools.partial(Kind, group="initialisation")
_other = functools.partial(Kind, group="other methods", wanted=None)
_broken = functools.partial(Kind, group="damaged", wanted=None)
ATTENTION = {"target_modules": ["attn_pool.attn"]}
LIST = {"target_modules": ["qkv", "fc1"]}

KINDS = {
    "r 4, alpha 6": _rank(),
    "rank 1, alpha 0.5": _rank(config={"r": 1, "lora_alpha": 0.5}),
    "rsLoRA": _rank(config={"use_rslora": True}),
    "DoRA": _rank(config={"use_dora": True, "target_modules": f"{BLOCKS}|{POOL}"}),
    "DoRA with rsLoRA": _rank(config={"use_dora": True, "use_rslora": True}),
    "negative alpha": _rank(config={"lora_alpha": -3}),
    "negative alpha, DoRA": _rank(config={"lora_alpha": -3, "use_dora": True, "use_rslora": True}),
    "negative alpha, lora_bias": _rank(config={"lora_alpha": -3, "lora_bias": True}),
    "negative alpha of q, k, v": _rank(
        config={"lora_alpha": 6, "alpha_pattern": {"qkv": -3, "blocks.0.mlp.fc1": -2}}
    ),
    "dropout 0.5": _rank(config={"lora_dropout": 0.5}),
    "LoRA+": _rank(change=k.optimised),
    "lora_bias": _rank(config={"lora_bias": True}),
    "bias all": _rank(
        config={"bias": "all", "target_modules": ["qkv", "fc1"], "exclude_modules": ["head"]},
        change=k.keep_head,
    ),
    "bias lora_only": _rank(config={"bias": "lora_only"}),
    "fan_in_fan_out": _rank(edit=k.settings(fan_in_fan_out=True)),
    "alpha_pattern of a block": _block(config={"alpha_pattern": {r"blocks\.0\.attn\.qkv": 64}}),
    "rank_pattern of a block": _block(config={"rank_pattern": {r"blocks\.1\..*": 2}}),
    "patterns of rank and alpha": _block(
        config={"rank_pattern": {"fc1": 2, "2.mlp.fc2": 3}, "alpha_pattern": {"mlp.*": 9, "0.attn.proj": 1}}
    ),
    "two alphas of one module": _block(config={"alpha_pattern": {"mlp.*": 9, "0.mlp.fc1": 1}}, wanted=None),
    "two ranks of one module": _block(config={"rank_pattern": {"mlp.*": 2, "0.mlp.fc1": 3}}, wanted=None),
    "patterns with rsLoRA": _block(
        config={"rank_pattern": {"qkv": 8}, "alpha_pattern": {"^blocks.1.*": 2}, "use_rslora": True}
    ),
    "DoRA on one block": _block(config={"use_dora": True, "target_modules": ["blocks.1.attn.qkv"]}),
    "DoRA with patterns": _block(config={"use_dora": True, "rank_pattern": {"0.attn.qkv": 2}}),
    "layers_to_transform, the middle": _block(
        config={"target_modules": ["qkv", "fc1"], "layers_to_transform": [1], "layers_pattern": "blocks"}
    ),
    "layers_to_transform, a number": _block(
        config={"target_modules": ["qkv"], "layers_to_transform": 2, "layers_pattern": ["layers", "blocks"]}
    ),
    "layers_to_transform without a pattern": _block(
        base=k.inside("backbone"), config={"target_modules": ["qkv"], "layers_to_transform": [0, 2]}
    ),
    "other targets on each block": _block(
        config={"target_modules": ["blocks.0.attn.qkv", "blocks.1.mlp.fc1", "blocks.2.attn.proj"]}
    ),
    "a list of names": _target(config={"target_modules": ["qkv", "fc1", "fc2"]}),
    "a regex": _target(config={"target_modules": r".*\.(qkv|fc2)"}),
    "all-linear": _target(config={"target_modules": "all-linear"}),
    "exclude_modules": _target(
        config={"target_modules": ["qkv", "fc1"], "exclude_modules": r"blocks\.1\..*"}
    ),
    "the projection": _target(config={"target_modules": ["head", "qkv"]}),
    "DoRA on the projection": _target(config={"target_modules": ["head"], "use_dora": True}),
    "the pooling": _target(config={"target_modules": POOL}),
    "modules_to_save: norms": _target(config={"modules_to_save": ["norm", "norm1"]}),
    "modules_to_save: a layer": _target(
        config={"target_modules": ["qkv"], "modules_to_save": ["fc1", "attn_pool.q"]}
    ),
    "modules_to_save: the projection": _target(
        config={"target_modules": ["qkv"], "modules_to_save": ["head"]}, change=k.keep_head
    ),
    "modules_to_save: a bias of the projection": _target(
        config={"target_modules": ["qkv"], "modules_to_save": ["head"]}, wanted=None
    ),
    "modules_to_save: a classifier": _target(
        base=k.Classifier, config={"target_modules": ["qkv"], "modules_to_save": ["classifier"]}, wanted=None
    ),
    "official names, vision alone": _tower(base=official_vision, config={"target_modules": OFFICIAL}),
    "official names, both encoders": _tower(base=official_both, config={"target_modules": OFFICIAL}),
    "text encoder alone": _tower(
        base=official_both, config={"target_modules": r"transformer\.resblocks\.\d+\.mlp\.c_(fc|proj)"}
    ),
    "text encoder, per block": _tower(
        base=official_both,
        config={
            "target_modules": r"transformer\.resblocks\.\d+\.mlp\.c_(fc|proj)",
            "alpha_pattern": {r"resblocks\.1\.mlp\.c_fc": 20},
            "rank_pattern": {"resblocks.0.mlp.c_proj": 2},
        },
    ),
    "both encoders, bias all": _tower(base=official_both, config={"target_modules": OFFICIAL, "bias": "all"}),
    "official pooling's attention": _tower(
        base=official_vision, config={"target_modules": ["attn_pool.attn"]}
    ),
    "official pooling's attention, patterns": _tower(
        base=official_both,
        config={
            "target_modules": ["attn_pool.attn"],
            "alpha_pattern": {"attn_pool.attn": 3},
            "use_rslora": True,
        },
    ),
    "text attention": _tower(
        base=official_both, config={"target_modules": r"transformer\.resblocks\.\d+\.attn"}
    ),
    "official attention, another PEFT": _tower(
        base=official_vision,
        config={"target_modules": ["attn_pool.attn"]},
        edit=k.settings(peft_version="0.99.0"),
        wanted=None,
    ),
    "official attention, lora_bias": _tower(
        base=official_vision, config={"target_modules": ["attn_pool.attn"], "lora_bias": True}, wanted=None
    ),
    "official names without a clue": _tower(
        base=official_vision,
        config={"target_modules": r"transformer\.resblocks\.[01]\.mlp\.c_fc"},
        edit=k.settings(auto_mapping=None),
        wanted=None,
    ),
    "official names, --tower=vision": _tower(
        base=official_vision,
        config={"target_modules": r"transformer\.resblocks\.[01]\.mlp\.c_fc"},
        edit=k.settings(auto_mapping=None),
        tower="vision",
    ),
    "an embedding": _tower(base=official_both, config={"target_modules": ["token_embedding"]}, wanted=None),
    "trainable tokens": _tower(
        base=official_both,
        config={"target_modules": OFFICIAL, "trainable_token_indices": {"token_embedding": [1, 5]}},
        wanted=None,
    ),
    "timm in transformers (timm_model.)": _name(base=k.inside("timm_model"), config=LIST),
    "in open_clip (visual.trunk.)": _name(base=k.inside("visual", "trunk"), config=LIST),
    "of a compiled model (_orig_mod.)": _name(
        base=k.compiled, config=LIST | {"alpha_pattern": {r"_orig_mod\.blocks\.0\..*": 40}}, wanted=MODEL
    ),
    "of a distributed model (module.)": _name(
        base=k.inside("module"),
        config={"target_modules": ["qkv"], "rank_pattern": {"module.blocks.1.attn.qkv": 2}},
    ),
    "without base_model.model.": _name(
        edit=k.renamed(lambda key: key.removeprefix("base_model.model.")), wanted=MODEL
    ),
    "the adapter's name in the keys": _name(
        edit=k.renamed(lambda key: key.replace(".weight", ".default.weight")), wanted=MODEL
    ),
    "module. before all keys": _name(edit=k.renamed(lambda key: f"module.{key}"), wanted=MODEL),
    ".bin": _name(edit=k.as_bin),
    "in two files with an index": _name(edit=k.sharded, wanted=MODEL),
    "in two files without an index": _name(edit=functools.partial(k.sharded, index=False), wanted=None),
    "one adapter with a name (a subfolder)": _name(
        change=k.weighted("linear"), save=k.only("joined"), wanted=MODEL
    ),
    "the default beside another": _name(change=k.second),
    "two adapters with names": _name(change=k.second, save=k.only_subfolders, wanted=None),
    "add_weighted_adapter, cat": _name(change=k.weighted("cat"), save=k.only("joined"), wanted=MODEL),
    "add_weighted_adapter, svd": _name(change=k.weighted("svd"), save=k.only("joined"), wanted=MODEL),
    "float16 tensors": _name(edit=k.typed(torch.float16)),
    "bfloat16 tensors": _name(edit=k.typed(torch.bfloat16)),
    "float64 tensors": _name(edit=k.typed(torch.float64)),
    "gaussian": _start(config={"init_lora_weights": "gaussian"}),
    "orthogonal": _start(config={"init_lora_weights": "orthogonal"}),
    "EVA": _start(
        config={"init_lora_weights": "eva", "eva_config": peft.EvaConfig(), "rank_pattern": {"fc1": 6}}
    ),
    "MiCA": _start(config={"init_lora_weights": "mica"}),
    "PiSSA": _start(config={"init_lora_weights": "pissa"}, wanted=None),
    "PiSSA, converted": _start(config={"init_lora_weights": "pissa"}, save=k.converted, wanted=MODEL),
    "OLoRA": _start(config={"init_lora_weights": "olora"}, wanted=None),
    "OLoRA, converted": _start(config={"init_lora_weights": "olora"}, save=k.converted, wanted=MODEL),
    "LoftQ": _start(edit=k.settings(init_lora_weights="loftq", loftq_config={"loftq_bits": 4}), wanted=None),
    "CorDA": _start(edit=k.settings(init_lora_weights="corda"), wanted=None),
    "LoRA-GA": _start(edit=k.settings(init_lora_weights="lora_ga"), wanted=None),
    "IA3": _other(config=peft.IA3Config(target_modules=["qkv", "fc2"], feedforward_modules=["fc2"])),
    "LoHa": _other(config=peft.LoHaConfig(target_modules=["qkv"])),
    "LoKr": _other(config=peft.LoKrConfig(target_modules=["qkv"])),
    "AdaLoRA": _other(config=peft.AdaLoraConfig(target_modules=["qkv"], total_step=10)),
    "VeRA": _other(config=peft.VeraConfig(target_modules=["qkv"], r=4)),
    "OFT": _other(config=peft.OFTConfig(target_modules=["qkv"], oft_block_size=8)),
    "BOFT": _other(config=peft.BOFTConfig(target_modules=["proj"], boft_block_size=8)),
    "HRA": _other(config=peft.HRAConfig(target_modules=["qkv"])),
    "FourierFT": _other(config=peft.FourierFTConfig(target_modules=["qkv"], n_frequency=16)),
    "LN tuning": _other(config=peft.LNTuningConfig(target_modules=["norm1"])),
    "prompt tuning": _other(edit=k.settings(peft_type="PROMPT_TUNING", num_virtual_tokens=8)),
    "aLoRA": _other(edit=k.settings(alora_invocation_tokens=[1, 2])),
    "a B is missing": _broken(edit=k.without("blocks.1.attn.qkv.lora_B")),
    "a magnitude is missing": _broken(
        config={"use_dora": True}, edit=k.without("blocks.1.attn.qkv.lora_magnitude")
    ),
    "every tensor is missing": _broken(edit=k.without("lora_")),
    "adapters that are not targets": _broken(edit=k.foreign),
    "an unknown tensor": _broken(edit=k.weights(lambda a: a | {"base_model.model.extra": torch.ones(3)})),
    "a matrix of another shape": _broken(edit=k.weights(lambda a: {n: v[..., :-1] for n, v in a.items()})),
    "r of another adapter": _broken(edit=k.settings(r=8)),
    "r 0": _broken(edit=k.settings(r=0)),
    "r negative": _broken(edit=k.settings(r=-4)),
    "alpha is NaN": _broken(edit=k.settings(lora_alpha=float("nan"))),
    "a pattern's alpha is NaN": _broken(edit=k.settings(alpha_pattern={"qkv": float("nan")})),
    "tensors are NaN": _broken(edit=k.nan),
    "tensors are float8": _broken(edit=k.typed(torch.float8_e4m3fn)),
    "tensors are int8": _broken(edit=k.typed(torch.int8)),
    "two tensors for one layer": _broken(edit=k.twice),
    "the file is cut": _broken(edit=k.cut),
    "no configuration": _broken(edit=lambda folder: (folder / k.CONFIG).unlink()),
}
