// Runs the kernels of PAGECLI_ISA on fixed numbers and writes each result to standard output: a line with its name and size in bytes,
// and the bytes (test_aarch64.py).
#include <stdint.h>
#include <stdio.h>

#include <string>
#include <vector>

#include "pagecli/kernel_table.h"
#include "pagecli/linear/quantized_bounds.h"
#include "pagecli/linear/quantized_weight.h"

namespace pagecli::PAGECLI_ISA {
#define CPU_KERNEL(name, arguments, source) void name(const arguments&);
#include "pagecli/operations.def"
}  // namespace pagecli::PAGECLI_ISA

using namespace pagecli;
namespace kernels = pagecli::PAGECLI_ISA;
using Floats = std::vector<float>;

// Numbers in [-1, 1), each a float exactly; `seed` tells one array from another.
static Floats numbers(uint32_t seed, int64_t count) {
    Floats found(static_cast<size_t>(count));
    for (uint32_t i = 0; i < found.size(); ++i) {
        uint32_t bits = i * 2654435761u + seed * 2246822519u;
        bits = (bits ^ (bits >> 15)) * 3266489917u;
        bits ^= bits >> 13;
        found[i] = static_cast<float>(bits >> 8) / 8388608.0f - 1.0f;
    }
    return found;
}

template <typename T>
static void write(const std::string& name, const std::vector<T>& values) {
    printf("%s %zu\n", name.c_str(), values.size() * sizeof(T));
    fwrite(values.data(), sizeof(T), values.size(), stdout);
}

// For some heights of tiles, with a k that is no whole pair, group or vector.
static void write_products(const std::string& name, const PackedWeightView& weight, int64_t cols) {
    for (int64_t tokens : {1, 2, 5, 13}) {
        const Floats x = numbers(1, tokens * cols), bias = numbers(3, weight.rows);
        Floats out(static_cast<size_t>(tokens * weight.rows));
        LinearArgs a = {};
        a.out = out.data(), a.x = x.data(), a.bias = bias.data();
        a.out_stride = weight.rows, a.x_stride = cols, a.tokens = tokens;
        a.weight = weight;
        a.activation = Activation::silu;
        kernels::linear(a);
        write(name + "-" + std::to_string(tokens), out);
    }
}

static void write_linear(const char* name, WeightType type, int64_t cols) {
    const int64_t rows = 137, panels = 9, groups = 4;
    const Floats weight = numbers(2, rows * cols);
    std::vector<char> packed(static_cast<size_t>(panels * groups * 64 * 16 * 4 + panels * groups * 1088), 0);
    PackWeightArgs pack = {packed.data(), weight.data(), cols, rows, cols, SourceType::float32, type};
    kernels::pack_weight(pack);
    const PackedWeightView view = {packed.data(), rows, cols, type};
    write_products("linear-" + std::string(name), view, cols);
    std::vector<int64_t> best(3);
    const Floats x = numbers(9, 3 * cols);
    LinearArgmaxArgs a = {best.data(), x.data(), cols, 3, view};
    kernels::linear_argmax(a);
    write("argmax-" + std::string(name), best);
    Floats row(static_cast<size_t>(2 * cols));
    const int32_t ids[] = {3, 131};
    EmbeddingArgs e = {};
    e.out = row.data(), e.token_ids = ids, e.out_stride = cols, e.tokens = 2, e.weight = view;
    kernels::embedding(e);
    write("embedding-" + std::string(name), row);
}

// An LM head with bounds, of which one row is far the largest: few panels are computed.
static void write_pruned() {
    const int64_t rows = 2000, cols = 200, panels = rows / 16;
    Floats weight = numbers(11, rows * cols);
    for (int64_t k = 0; k < cols; ++k) weight[static_cast<size_t>(1234 * cols + k)] *= 3.0f;
    Floats packed(static_cast<size_t>(panels * cols * 16));
    PackWeightArgs pack = {packed.data(), weight.data(), cols, rows, cols, SourceType::float32, WeightType::float32};
    kernels::pack_weight(pack);
    const PackedWeightView view = {packed.data(), rows, cols, WeightType::float32};
    std::vector<int32_t> bounds(static_cast<size_t>(bounds_words(rows, cols)));
    bool usable = false;
    kernels::pack_bounds({bounds.data(), view, &usable});
    write("bounds", bounds);
    Floats x(weight.begin() + 1234 * cols, weight.begin() + 1235 * cols);
    x.insert(x.end(), weight.begin(), weight.begin() + cols);
    std::vector<int64_t> best(2), computed(1);
    PrunedArgmaxArgs a = {best.data(), x.data(), cols, 2, view, bounds.data(), computed.data()};
    kernels::pruned_argmax(a);
    write("pruned", best);
    write("pruned-panels", computed);
}

static void write_quantized(const char* name, WeightType type, int32_t bits, QuantizedOffset offset, int32_t part = 0) {
    const int64_t rows = 37, cols = 192, group = 64, panels = 3;
    QuantizedHeader header = {};
    header.type = type, header.bits = bits, header.offset = offset, header.group = group, header.part = part;
    if (bits != 4 && bits != 8) header.center = 1 << (bits - 1);
    for (int i = 0; i < 16; ++i) header.table[i] = static_cast<float>(i - 8);
    std::vector<uint8_t> q(static_cast<size_t>(rows * cols));
    for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<uint8_t>((i * 37 + i / 11) & ((1u << bits) - 1));
    std::vector<uint16_t> scale(static_cast<size_t>(rows * cols / group)), low(scale.size());
    for (size_t i = 0; i < scale.size(); ++i) scale[i] = static_cast<uint16_t>(0x2000 + i * 13), low[i] = static_cast<uint16_t>(0xb400 + i);
    std::vector<uint8_t> factor(static_cast<size_t>(part == 0 ? 0 : rows * cols / part));
    for (size_t i = 0; i < factor.size(); ++i) factor[i] = static_cast<uint8_t>(i * 29 + 3);
    std::vector<uint8_t> packed(static_cast<size_t>(panels * (cols / group) * header.group_bytes()));
    bool finite = false;
    PackQuantizedArgs pack = {};
    pack.header = &header, pack.packed = packed.data(), pack.q = {q.data(), cols}, pack.scale = {scale.data(), cols / group};
    if (offset != QuantizedOffset::none) pack.offset = {low.data(), cols / group};
    if (part != 0) pack.factor = {factor.data(), cols / part};
    pack.rows = rows, pack.cols = cols, pack.finite = &finite;
    kernels::pack_quantized(pack);
    write_products("quantized-" + std::string(name), {packed.data(), rows, cols, type, &header}, cols);
}

static void write_attention(const char* name, KVType type, int64_t bytes) {
    const int64_t heads = 4, kv_heads = 2, dim = 40, block = 16, tokens = 40, blocks = 4;
    const Floats q = numbers(4, tokens * heads * dim), k = numbers(5, tokens * kv_heads * dim), v = numbers(6, tokens * kv_heads * dim);
    std::vector<char> k_cache(static_cast<size_t>(blocks * kv_heads * (dim + kKVScaleBytes) * block * bytes)), v_cache(k_cache.size());
    Floats out(q.size());
    std::vector<int64_t> slots;
    const int32_t table[] = {2, 0, 3};
    for (int64_t i = 0; i < tokens; ++i) slots.push_back(table[i / block] * block + i % block);
    StoreKVArgs s = {};
    s.k_cache = k_cache.data(), s.v_cache = v_cache.data(), s.k = k.data(), s.v = v.data(), s.slot_ids = slots.data();
    s.k_stride[0] = s.v_stride[0] = kv_heads * dim, s.k_stride[1] = s.v_stride[1] = dim;
    s.tokens = tokens, s.kv_heads = kv_heads, s.block_size = block, s.head_dim = dim, s.type = type;
    kernels::store_kv(s);
    for (int32_t rows : {1, 3, 40}) {  // a decode, a few rows, a whole prompt
        const int32_t context[] = {40}, start[] = {0, rows};
        PagedAttentionArgs a = {};
        a.out = out.data(), a.q = q.data(), a.k_cache = k_cache.data(), a.v_cache = v_cache.data();
        a.block_tables = table, a.context_lens = context, a.query_start = start;
        a.out_stride[0] = a.q_stride[0] = heads * dim, a.out_stride[1] = a.q_stride[1] = dim, a.block_tables_stride = 3;
        a.sequences = 1, a.heads = heads, a.kv_heads = kv_heads, a.block_size = block, a.head_dim = dim;
        a.scale = 0.25f, a.type = type;
        kernels::paged_attention(a);
        write("attention-" + std::string(name) + "-" + std::to_string(rows), Floats(out.begin(), out.begin() + rows * heads * dim));
    }
}

static void write_elementwise() {
    const Floats x = numbers(7, 3 * 100), weight = numbers(8, 100), bias = numbers(10, 100);
    Floats out(x.size());
    RmsNormArgs norm = {out.data(), x.data(), weight.data(), {100, 100}, {100, 100}, 3, 1, 100, 1e-5f, false};
    kernels::rms_norm(norm);
    write("rms_norm", out);
    LayerNormArgs layer = {out.data(), x.data(), weight.data(), bias.data(), 100, 100, 3, 100, 1e-5f};
    kernels::layer_norm(layer);
    write("layer_norm", out);
    for (Activation kind : {Activation::gelu, Activation::gelu_tanh, Activation::silu, Activation::relu2}) {
        ActivationArgs a = {out.data(), x.data(), 100, 100, 3, 100, kind};
        kernels::activation(a);
        write("activation-" + std::to_string(static_cast<int>(kind)), out);
    }
    std::vector<int64_t> best(3);
    ArgmaxArgs a = {best.data(), x.data(), 100, 3, 100};
    kernels::argmax(a);
    write("argmax", best);
    const float temperature[] = {0.0f, 0.7f, 1.3f}, top_p[] = {1.0f, 0.9f, 0.5f}, min_p[] = {0.0f, 0.0f, 0.05f};
    const int64_t top_k[] = {0, 20, 0}, draws[] = {1, int64_t{1} << 50, int64_t{1} << 52};
    SampleArgs sample = {best.data(), x.data(), temperature, top_k, top_p, min_p, draws, 100, 3, 100};
    kernels::sample(sample);
    write("sample", best);
}

int main() {
    for (int64_t cols : {200, 201}) {
        write_linear(cols % 2 ? "odd-float32" : "float32", WeightType::float32, cols);
        write_linear(cols % 2 ? "odd-bfloat16" : "bfloat16", WeightType::bfloat16, cols);
        write_linear(cols % 2 ? "odd-int8" : "int8", WeightType::int8, cols);
        write_linear(cols % 2 ? "odd-int8_a16" : "int8_a16", WeightType::int8_a16, cols);
    }
    write_pruned();
    write_quantized("4-float32", WeightType::float32, 4, QuantizedOffset::zero);
    write_quantized("4-bfloat16", WeightType::bfloat16, 4, QuantizedOffset::low);
    write_quantized("8-float32", WeightType::float32, 8, QuantizedOffset::none);
    write_quantized("8-bfloat16", WeightType::bfloat16, 8, QuantizedOffset::none);
    write_quantized("6-float32", WeightType::float32, 6, QuantizedOffset::none, 16);
    write_quantized("3-bfloat16", WeightType::bfloat16, 3, QuantizedOffset::none, 32);
    write_attention("float32", KVType::float32, 4);
    write_attention("bfloat16", KVType::bfloat16, 2);
    write_attention("int8", KVType::int8, 1);
    write_elementwise();
    return 0;
}
