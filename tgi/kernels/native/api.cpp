// The C functions that cpu.py calls: they check indices, split the work and run it on the pool.
//
// Shapes and types are checked by the caller. Return: 0, or -1 for an index outside its table (nothing is written).

#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels.h"
#include "pack.h"
#include "thread_pool.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#define TGI_EXPORT extern "C" __attribute__((visibility("default")))

namespace tgi {
namespace {

struct Engine {
    const Kernels* kernels = &PORTABLE_KERNELS;
    ThreadPool* pool = nullptr;
};

// Never destroyed: its threads may sleep in the pool when the process exits.
Engine& engine() {
    static Engine* instance = new Engine;
    return *instance;
}

bool has_avx2() {
#if defined(TGI_HAVE_AVX2)
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
    return false;
#endif
}

bool has_bf16() {
#if defined(TGI_HAVE_AVX2)
    return __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

bool has_vnni() {
#if defined(TGI_HAVE_AVX2)
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

// About 10 us of work: less is not worth waking a thread for.
constexpr int64_t WORTH_SHARING = 40000;

// `cost`: elementary operations a unit takes, roughly.
void run(Units units, const void* task, int64_t count, int64_t cost) {
    if (count <= 0) return;
    ThreadPool* pool = engine().pool;
    if (!pool || count * (cost + 1) < WORTH_SHARING)
        units(task, 0, count);
    else
        pool->run(units, task, count);
}

}  // namespace
}  // namespace tgi

using namespace tgi;

// `most`: the largest instruction set to use, 0 portable, 1 AVX2, 2 AVX-512 with VNNI, 3 with BF16 too; -1 for what is
// fastest on this processor. Returns: the one that runs.
TGI_EXPORT int tgi_configure(int threads, int most) {
    Engine& state = engine();
    delete state.pool;
    state.pool = threads > 1 ? new ThreadPool(threads) : nullptr;
    state.kernels = &PORTABLE_KERNELS;
#if defined(TGI_HAVE_AVX2)
    // Intel's processors multiply pairs in BF16 at half the rate of float32, and as fast as they add.
    if (most < 0) most = __builtin_cpu_is("amd") ? 3 : 2;
    if (most >= 3 && has_vnni() && has_bf16()) {
        state.kernels = &AVX512_BF16_KERNELS;
        return 3;
    }
    if (most >= 2 && has_vnni()) {
        state.kernels = &AVX512_KERNELS;
        return 2;
    }
    if (most >= 1 && has_avx2()) {
        state.kernels = &AVX2_KERNELS;
        return 1;
    }
#endif
    return 0;
}

// `panel`: PanelKind; `out`: as large as PANEL_SIZES says.
TGI_EXPORT int tgi_pack(const Matrix* matrix, int64_t panel, uint8_t* out) {
    PackTask task{*matrix, panel, out};
    run(pack_units, &task, (matrix->rows + PANEL_ROWS - 1) / PANEL_ROWS, PANEL_ROWS * matrix->columns);
    return 0;
}

namespace tgi {
namespace {

// What these make is left to the calling thread's next matmul.
template <class Token>
const Token* quantize(
    MatmulTask& task, Units units, const int32_t* outliers = nullptr, int64_t outlier_count = 0) {
    static thread_local std::vector<Token> groups;
    size_t count = static_cast<size_t>(task.tokens * ((task.columns + GROUP - 1) / GROUP));
    if (groups.size() < count) groups.resize(count);
    QuantizeTask<Token> quantize{task.x, task.x_stride, task.columns, groups.data()};
    if (outlier_count) {
        static thread_local std::vector<float> apart;
        size_t size = static_cast<size_t>(task.tokens * outlier_count);
        if (apart.size() < size) apart.resize(size);
        quantize.outliers = outliers;
        quantize.outlier_count = outlier_count;
        task.apart = quantize.apart = apart.data();
    }
    run(units, &quantize, task.tokens, 2 * task.columns);
    return groups.data();
}

void scale(MatmulTask& task) {
    static thread_local std::vector<float> scaled;
    task.scaled_stride = (task.columns + task.columns / GROUP + 15) / 16 * 16;
    size_t count = static_cast<size_t>(task.tokens * task.scaled_stride);
    if (scaled.size() < count) scaled.resize(count);
    ScaleTask scale{task.x, task.x_stride, task.columns, scaled.data(), task.scaled_stride};
    run(engine().kernels->scale, &scale, task.tokens, task.columns / 2);
    task.scaled = scaled.data();
}

}  // namespace
}  // namespace tgi

TGI_EXPORT int tgi_matmul(
    const float* x, int64_t x_stride, int64_t tokens, int64_t columns, const Matrix* parts, int64_t part_count,
    const float* bias, float* out, int64_t out_stride, int accumulate) {
    MatmulTask task{x,   x_stride,   tokens,          columns, parts,   part_count, bias,
                    out, out_stride, accumulate != 0, nullptr, nullptr, nullptr,    0, nullptr};
    if (tokens <= 0) return 0;
    const Kernels& kernels = *engine().kernels;
    int64_t units = 0;
    for (int64_t i = 0; i < part_count; i++) {
        Arithmetic by = arithmetic_of(parts[i].layout);
        units += (parts[i].rows + unit_rows(parts[i]) - 1) / unit_rows(parts[i]);
        if (by == COARSE && !task.coarse)
            task.coarse = quantize<TokenGroup>(task, kernels.quantize, parts[i].outliers, parts[i].outlier_count);
        if (by == FINE && !task.fine) task.fine = quantize<FineTokenGroup>(task, kernels.quantize_fine);
        if (by == FLOATS && parts[i].layout - EXACT < PANEL_F32 && !task.scaled) scale(task);
    }
    run(kernels.matmul, &task, units, TILE_ROWS * columns * (1 + tokens / (task.coarse ? 16 : 8)));
    return 0;
}

TGI_EXPORT int tgi_embedding(const int32_t* ids, int64_t tokens, const Matrix* table, float* out) {
    for (int64_t i = 0; i < tokens; i++)
        if (ids[i] < 0 || ids[i] >= table->rows) return -1;
    EmbeddingTask task{ids, *table, out};
    run(engine().kernels->embedding, &task, tokens, table->columns);
    return 0;
}

// Rows of x [rows, columns].
TGI_EXPORT int tgi_take(
    const float* x, int64_t rows, int64_t columns, const int32_t* indices, int64_t count, float* out) {
    Matrix table{reinterpret_cast<const uint8_t*>(x), rows, columns, F32};
    return tgi_embedding(indices, count, &table, out);
}

TGI_EXPORT int tgi_norm(
    int layer, const float* x, int64_t outer, int64_t inner, int64_t stride_outer, int64_t stride_inner, int64_t width,
    const float* weight, const float* bias, float eps, float* out) {
    NormTask task{x, inner, stride_outer, stride_inner, width, weight, bias, eps, out};
    run(layer ? engine().kernels->layer_norm : engine().kernels->rms_norm, &task, outer * inner, width);
    return 0;
}

TGI_EXPORT int tgi_rotary(
    float* q, int64_t q_heads, int64_t q_token_stride, int64_t q_head_stride, float* k, int64_t k_heads,
    int64_t k_token_stride, int64_t k_head_stride, const float* cos, const float* sin, int64_t tokens, int64_t half,
    int interleaved) {
    RotaryTask task{{q, k}, {q_heads, k_heads}, {q_token_stride, k_token_stride}, {q_head_stride, k_head_stride},
                    cos,    sin,                half,                             interleaved != 0};
    run(engine().kernels->rotary, &task, tokens, (q_heads + k_heads) * half * 2);
    return 0;
}

TGI_EXPORT int tgi_write_kv(
    const float* k, int64_t k_token_stride, int64_t k_head_stride, const float* v, int64_t v_token_stride,
    int64_t v_head_stride, void* k_cache, void* v_cache, int cache_type, int64_t num_slots, int64_t kv_heads,
    int64_t head_dim, const int64_t* slots, int64_t tokens) {
    for (int64_t i = 0; i < tokens; i++)
        if (slots[i] < 0 || slots[i] >= num_slots) return -1;
    WriteTask task{{k, v},   {k_token_stride, v_token_stride}, {k_head_stride, v_head_stride}, {k_cache, v_cache},
                   cache_type, kv_heads,                       head_dim,                       slots};
    // One thread: two tokens of a plan may share the scratch block's slots.
    if (tokens > 0) engine().kernels->write_kv(&task, 0, tokens);
    return 0;
}

namespace tgi {
namespace {

// Spans of groups enough for every thread to have some, whatever their lengths.
constexpr int64_t MANY_SPANS = 8;

// How many spans are for one kv head each; the others are for as many as fit, because vectors of a position lie side by
// side in the cache, and memory is fastest when they are read together. Few of different lengths are all cut; of equal
// ones those that not every thread has one of.
int64_t cut_spans(const std::vector<QueryGroup>& groups) {
    int64_t all = 0, shortest = SPAN, longest = 0;
    for (const QueryGroup& group : groups) {
        int64_t last = group.position + group.count - (group.spans - 1) * SPAN, first = group.spans > 1 ? SPAN : last;
        all += group.spans;
        shortest = last < shortest ? last : shortest;
        longest = first > longest ? first : longest;
    }
    if (all < MANY_SPANS && 4 * longest > 5 * shortest) return all;
    return all % (engine().pool ? engine().pool->threads() : 1);
}

void share_out(
    const std::vector<QueryGroup>& groups, int64_t share, int64_t kv_heads, std::vector<SpanOfGroup>& spans) {
    int64_t cut = cut_spans(groups);
    for (size_t i = 0; i < groups.size(); i++) {
        int64_t fit = GROUP_ROWS / (groups[i].count * share);
        for (int32_t span = 0; span < groups[i].spans; span++, cut--) {
            int64_t together = cut > 0 || fit < 1 ? 1 : fit;
            for (int64_t head = 0; head < kv_heads; head += together)
                spans.push_back({static_cast<int32_t>(i), span, static_cast<int32_t>(head),
                                 static_cast<int32_t>(kv_heads - head < together ? kv_heads - head : together)});
        }
    }
}

}  // namespace
}  // namespace tgi

// query_starts [requests + 1]; every block that a context needs must exist. -1 otherwise.
TGI_EXPORT int tgi_attention(
    const float* q, int64_t q_token_stride, int64_t q_head_stride, int64_t tokens, int64_t heads, int64_t kv_heads,
    int64_t head_dim, const void* k_cache, const void* v_cache, int cache_type, int64_t num_blocks, int64_t block_size,
    const int32_t* query_starts, const int32_t* context_lens, const int32_t* block_tables, int64_t requests,
    int64_t table_stride, float scale, int64_t window, float* out) {
    int64_t share = heads / kv_heads, most = share < GROUP_ROWS ? GROUP_ROWS / share : 1;
    int64_t keys = 0;
    if (query_starts[0] != 0 || query_starts[requests] != tokens) return -1;
    static thread_local std::vector<QueryGroup> groups;
    static thread_local std::vector<SpanOfGroup> spans;
    static thread_local std::vector<float> partials;
    groups.clear();
    spans.clear();
    int64_t rows = 0;
    for (int64_t i = 0; i < requests; i++) {
        int64_t first = query_starts[i], count = query_starts[i + 1] - first, context = context_lens[i];
        if (count < 0 || count > context || context > table_stride * block_size) return -1;
        const int32_t* table = block_tables + i * table_stride;
        for (int64_t block = 0; block * block_size < context; block++)
            if (table[block] < 0 || table[block] >= num_blocks) return -1;
        for (int64_t done = 0; done < count; done += most) {
            int64_t together = count - done < most ? count - done : most, position = context - count + done;
            int64_t cut = (position + together + SPAN - 1) / SPAN;
            groups.push_back({static_cast<int32_t>(i), static_cast<int32_t>(first + done),
                              static_cast<int32_t>(together), static_cast<int32_t>(position),
                              static_cast<int32_t>(cut), rows});
            if (cut > 1) rows += cut * together * heads;
            keys += position + together;
        }
    }
    share_out(groups, share, kv_heads, spans);
    size_t partial_size = static_cast<size_t>(rows * ((head_dim + 7) / 8 * 8 + PARTIAL_EXTRA));
    if (partials.size() < partial_size) partials.resize(partial_size);
    AttentionTask task{q, q_token_stride, q_head_stride, heads, kv_heads, head_dim, k_cache, v_cache, cache_type,
                       block_size, block_tables, table_stride, groups.data(), spans.data(), partials.data(), scale,
                       window, out};
    int64_t count = static_cast<int64_t>(spans.size());
    int64_t slices = (share + GROUP_ROWS - 1) / GROUP_ROWS;
    if (count > 0) run(engine().kernels->attention, &task, count * slices, keys * kv_heads / count * head_dim * share);
    if (rows > 0) run(engine().kernels->merge_spans, &task, static_cast<int64_t>(groups.size()), heads * head_dim * 8);
    return 0;
}

namespace tgi {
namespace {

struct PopulateTask {
    const uint64_t* starts;
    uint64_t bytes;
};

// Unit: the pages of one stretch. A system that cannot hands them out when they are first written, as ever.
void populate_units(const void* argument, int64_t begin, int64_t end) {
    const auto& task = *static_cast<const PopulateTask*>(argument);
#if defined(__linux__)
    constexpr int POPULATE_WRITE = 23;  // MADV_POPULATE_WRITE, which older headers do not name
    constexpr uint64_t PAGE = 4096;
    for (int64_t i = begin; i < end; i++) {
        uint64_t first = task.starts[i] / PAGE * PAGE, last = (task.starts[i] + task.bytes + PAGE - 1) / PAGE * PAGE;
        madvise(reinterpret_cast<void*>(first), last - first, POPULATE_WRITE);
    }
#else
    (void)task, (void)begin, (void)end;
#endif
}

}  // namespace
}  // namespace tgi

TGI_EXPORT int tgi_populate(const uint64_t* starts, int64_t count, int64_t bytes) {
    PopulateTask task{starts, static_cast<uint64_t>(bytes)};
    run(populate_units, &task, count, bytes);
    return 0;
}

TGI_EXPORT int tgi_activate(const float* x, int64_t rows, int64_t width, int gated, int activation, float* out) {
    ActivationTask task{x, width, gated != 0, activation, out};
    run(engine().kernels->activate, &task, rows, width * 4);
    return 0;
}

TGI_EXPORT int tgi_greedy(
    const float* logits, int64_t rows, int64_t stride, int64_t width, int32_t* token_ids, float* logprobs) {
    static thread_local std::vector<GreedyPart> found;
    if (width <= 0) return -1;
    int64_t parts = (width + GREEDY_COLUMNS - 1) / GREEDY_COLUMNS;
    if (found.size() < static_cast<size_t>(rows * parts)) found.resize(static_cast<size_t>(rows * parts));
    GreedyTask task{logits, stride, width, parts, found.data(), token_ids, logprobs};
    run(engine().kernels->greedy, &task, rows * parts, GREEDY_COLUMNS * 4);
    if (rows > 0) engine().kernels->greedy_rows(&task, 0, rows);
    return 0;
}

namespace tgi {
namespace {

// An argument of a recorded call, from 64 bits: an address, an integer, or a float's bits in the low half.
template <class T>
T argument(int64_t word) {
    if constexpr (std::is_pointer_v<T>) {
        return reinterpret_cast<T>(static_cast<intptr_t>(word));
    } else if constexpr (std::is_same_v<T, float>) {
        float value;
        int32_t bits = static_cast<int32_t>(word);
        std::memcpy(&value, &bits, sizeof value);
        return value;
    } else {
        return static_cast<T>(word);
    }
}

template <class... Types, size_t... I>
int call(int (*function)(Types...), const int64_t* words, int64_t count, std::index_sequence<I...>) {
    return count == sizeof...(Types) ? function(argument<Types>(words[I])...) : -1;
}

template <class... Types>
int call(int (*function)(Types...), const int64_t* words, int64_t count) {
    return call(function, words, count, std::index_sequence_for<Types...>{});
}

}  // namespace
}  // namespace tgi

// Recorded calls, one after the other: function (REPLAYED in replay.py), number of arguments, arguments. Stops at the
// first that fails.
TGI_EXPORT int tgi_replay(const int64_t* program, int64_t words) {
    for (int64_t at = 0; at < words;) {
        int64_t function = program[at], count = program[at + 1], status = -1;
        const int64_t* given = program + at + 2;
        switch (function) {
            case 0: status = call(tgi_matmul, given, count); break;
            case 1: status = call(tgi_embedding, given, count); break;
            case 2: status = call(tgi_norm, given, count); break;
            case 3: status = call(tgi_rotary, given, count); break;
            case 4: status = call(tgi_write_kv, given, count); break;
            case 5: status = call(tgi_attention, given, count); break;
            case 6: status = call(tgi_activate, given, count); break;
            case 7: status = call(tgi_greedy, given, count); break;
            case 8: status = call(tgi_take, given, count); break;
            default: break;
        }
        if (status) return -1;
        at += 2 + count;
    }
    return 0;
}
