"""EXAONE 4: norms of outputs and of each head; where some layers slide, the others rotate nothing."""

from pagecli.model.decoder import Attention, Decoder, Gguf, Key, Norm, Rotary, Window

EXAONE4 = Decoder(
    architectures=("Exaone4ForCausalLM",),
    model_type="exaone4",
    gguf=Gguf(name="exaone4"),
    attention=Attention(
        qk_norm=("self_attn.q_norm", "self_attn.k_norm"),
        rotary=Rotary(layers="sliding"),
        window=Window(pattern=Key("sliding_window_pattern", 4)),
    ),
    norm=Norm(eps=Key("rms_norm_eps", 1e-5)),
    order="output",
)
