"""Shapes of models, and the work that training them on given samples takes (without recomputation)."""

QWEN2 = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "max_position_embeddings": 32768, "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-06, "hidden_act": "silu", "attention_dropout": 0.0, "initializer_range": 0.02, "use_sliding_window": False,
    "tie_word_embeddings": True, "torch_dtype": "float32", "vocab_size": 151936,
}


def qwen2(hidden, intermediate, layers, heads, kv_heads):
    return QWEN2 | {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
                    "num_key_value_heads": kv_heads}


QWEN2_HALF_BILLION = qwen2(896, 4864, 24, 14, 2)


def step_flops(config, lengths, labelled, rank=0):
    """Forward and backward of one step: 6 FLOPs for each weight of a product and token, the head's only for labelled
    tokens; causal attention over the visible half. Decoders with gated MLPs (llama, qwen2, mistral, qwen3). With LoRA of `rank` on
    every linear module a frozen weight takes 4, for it has no gradient, and an adapter's 6."""
    d, ff, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    head_dim = config.get("head_dim") or d // config["num_attention_heads"]
    q = config["num_attention_heads"] * head_dim
    kv = config.get("num_key_value_heads", config["num_attention_heads"]) * head_dim
    weights = layers * (2 * d * q + 2 * d * kv + 3 * d * ff)
    adapters = rank * layers * (2 * (d + q) + 2 * (d + kv) + 3 * (d + ff))
    each = 4 if rank else 6
    return (each * (weights * sum(lengths) + config["vocab_size"] * d * labelled) +
            6 * (adapters * sum(lengths) + layers * q * sum(n * n for n in lengths)))
