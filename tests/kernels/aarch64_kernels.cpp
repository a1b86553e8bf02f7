// Runs kernels on numbers that test_aarch64.py makes again, and writes their results to standard output, one after the other.
#include <stdint.h>
#include <stdio.h>

#include <vector>

#include "pagecli/kernel_table.h"

namespace pagecli::generic {
#define CPU_KERNEL(name, arguments, source) void name(const arguments&);
#include "pagecli/operations.def"
}  // namespace pagecli::generic

using namespace pagecli;
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
static void write(const std::vector<T>& values) {
    fwrite(values.data(), sizeof(T), values.size(), stdout);
}

static void write_linear(WeightType type) {
    const int64_t rows = 37, cols = 200, panels = 3, groups = 4;
    const Floats x = numbers(1, 5 * cols), weight = numbers(2, rows * cols), bias = numbers(3, rows);
    std::vector<char> packed(static_cast<size_t>(panels * groups * 64 * 16 * 4 + panels * groups * 1088), 0);
    PackWeightArgs pack = {packed.data(), weight.data(), cols, rows, cols, SourceType::float32, type};
    generic::pack_weight(pack);
    Floats out(static_cast<size_t>(5 * rows));
    LinearArgs a = {};
    a.out = out.data(), a.x = x.data(), a.bias = bias.data();
    a.out_stride = rows, a.x_stride = cols, a.tokens = 5;
    a.weight = {packed.data(), rows, cols, type};
    a.activation = Activation::silu;
    generic::linear(a);
    write(out);
}

static void write_attention() {
    const int64_t heads = 4, kv_heads = 2, dim = 24, block = 16, tokens = 20;
    const Floats q = numbers(4, tokens * heads * dim), k = numbers(5, tokens * kv_heads * dim), v = numbers(6, tokens * kv_heads * dim);
    Floats k_cache(static_cast<size_t>(3 * kv_heads * dim * block)), v_cache(k_cache.size()), out(q.size());
    std::vector<int64_t> slots;
    for (int64_t i = 0; i < tokens; ++i) slots.push_back(i < block ? 2 * block + i : i - block);
    StoreKVArgs s = {};
    s.k_cache = k_cache.data(), s.v_cache = v_cache.data(), s.k = k.data(), s.v = v.data(), s.slot_ids = slots.data();
    s.k_stride[0] = s.v_stride[0] = kv_heads * dim, s.k_stride[1] = s.v_stride[1] = dim;
    s.tokens = tokens, s.kv_heads = kv_heads, s.block_size = block, s.head_dim = dim;
    generic::store_kv(s);
    const int32_t table[] = {2, 0}, context[] = {20}, start[] = {0, 20};
    PagedAttentionArgs a = {};
    a.out = out.data(), a.q = q.data(), a.k_cache = k_cache.data(), a.v_cache = v_cache.data();
    a.block_tables = table, a.context_lens = context, a.query_start = start;
    a.out_stride[0] = a.q_stride[0] = heads * dim, a.out_stride[1] = a.q_stride[1] = dim, a.block_tables_stride = 2;
    a.sequences = 1, a.heads = heads, a.kv_heads = kv_heads, a.block_size = block, a.head_dim = dim;
    a.scale = 0.25f;
    generic::paged_attention(a);
    write(out);
}

int main() {
    for (WeightType type : {WeightType::float32, WeightType::bfloat16, WeightType::int8, WeightType::int8_a16}) write_linear(type);
    write_attention();
    const Floats x = numbers(7, 3 * 100), weight = numbers(8, 100);
    Floats out(x.size());
    RmsNormArgs norm = {out.data(), x.data(), weight.data(), {100, 100}, {100, 100}, 3, 1, 100, 1e-5f, false};
    generic::rms_norm(norm);
    write(out);
    for (Activation kind : {Activation::gelu, Activation::gelu_tanh, Activation::silu}) {
        ActivationArgs a = {out.data(), x.data(), 100, 100, 3, 100, kind};
        generic::activation(a);
        write(out);
    }
    std::vector<int64_t> best(3);
    ArgmaxArgs a = {best.data(), x.data(), 100, 3, 100};
    generic::argmax(a);
    write(best);
    return 0;
}
