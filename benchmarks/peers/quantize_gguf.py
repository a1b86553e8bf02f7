"""Rewrite a GGUF file at another precision with llama.cpp's own quantizer: SOURCE TARGET F32|BF16|Q8_0."""

import sys

import llama_cpp

source, target, kind = sys.argv[1:]
params = llama_cpp.llama_model_quantize_default_params()
params.allow_requantize = True
params.ftype = {
    "F32": llama_cpp.LLAMA_FTYPE_ALL_F32,
    "BF16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}[kind]
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), params))
