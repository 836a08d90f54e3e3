// Causal attention over the paged cache.
//
// A query vector meets its keys in tiles of TILE_KEYS positions, counted from position 0 of its request, whatever
// block they lie in. Within a tile: scores (as matmul's sums), their maximum, exponentials and their sum (lane by lane,
// then as `sum` does; places the query must not see count as -inf), then the weighted values, added position after
// position to what earlier tiles left, scaled to the new maximum. Contexts longer than SPAN are cut in spans of that
// many positions, computed each on its own by any thread; their results are scaled to the largest maximum and added in
// order. So the order depends on the query's position and the window only. Queries of neighbouring tokens share the converted tile, and nothing else.
#pragma once

#include "matmul.h"

namespace tgi {
namespace TGI_PATH {

constexpr int64_t TILE_KEYS = 48;  // whole vectors, and whole TILE_ROWS
static_assert(SPAN % TILE_KEYS == 0, "a span is whole tiles");
constexpr int64_t AHEAD = TILE_KEYS;  // positions between asking for a key and reading it: the next tile's turn

struct AttentionBuffers {
    alignas(64) float query[GROUP_ROWS * MAX_HEAD_DIM];
    alignas(64) float sums[GROUP_ROWS * MAX_HEAD_DIM];
    alignas(64) float keys[TILE_KEYS * MAX_HEAD_DIM];
    alignas(64) float values[TILE_KEYS * MAX_HEAD_DIM];
    alignas(64) float weights[GROUP_ROWS * TILE_KEYS];
    float most[GROUP_ROWS];
    float total[GROUP_ROWS];
};

TGI_INLINE void convert(const void* cache, int32_t type, int64_t at, int64_t count, float* out) {
    if (type == CACHE_F32) {
        const float* source = static_cast<const float*>(cache) + at;
        int64_t i = 0;
        for (; i + 8 <= count; i += 8) store(out + i, load(source + i));
        for (; i < count; i++) out[i] = source[i];
    } else {
        const uint8_t* source = static_cast<const uint8_t*>(cache) + 2 * at;
        if (type == CACHE_F16)
            dequantize_f16(source, count, out);
        else
            dequantize_bf16(source, count, out);
    }
}

// A place in a request's context: which of its blocks, and where in it.
struct Place {
    int64_t block;
    int64_t offset;
};

TGI_INLINE Place place_of(const AttentionTask& task, int64_t position) {
    return {position / task.block_size, position % task.block_size};
}

TGI_INLINE void step(const AttentionTask& task, Place& place) {
    if (++place.offset == task.block_size) place.offset = 0, place.block++;
}

// Which vector of the cache lies there for a kv head.
TGI_INLINE int64_t vector_at(const AttentionTask& task, const int32_t* table, const Place& place, int64_t kv_head) {
    return (table[place.block] * task.block_size + place.offset) * task.kv_heads + kv_head;
}

// Ask for a key and a value before their turn: blocks lie anywhere. Into the second-level cache: a tile is too much
// for the first.
TGI_INLINE void prefetch_vector(const AttentionTask& task, int64_t vector) {
    int64_t bytes = task.head_dim * (task.cache_type == CACHE_F32 ? 4 : 2);
    for (int64_t i = 0; i < bytes; i += 64) {
        __builtin_prefetch(static_cast<const uint8_t*>(task.k_cache) + vector * bytes + i, 0, 2);
        __builtin_prefetch(static_cast<const uint8_t*>(task.v_cache) + vector * bytes + i, 0, 2);
    }
}

// Keys and values of positions [start, start + count); zeros up to whole TILE_ROWS of keys, and up to `width`, which is
// head_dim up to whole vectors.
static void gather_tile(
    const AttentionTask& task, const QueryGroup& group, int64_t kv_head, int64_t start, int64_t count, int64_t width,
    AttentionBuffers& buffers) {
    const int32_t* table = task.block_tables + group.request * task.table_stride;
    int64_t ahead = group.position + group.count - start - AHEAD;  // positions left to ask for
    Place place = place_of(task, start), next = place_of(task, start + AHEAD);
    for (int64_t i = 0; i < count; i++, step(task, place), step(task, next)) {
        if (i < ahead) prefetch_vector(task, vector_at(task, table, next, kv_head));
        int64_t at = vector_at(task, table, place, kv_head) * task.head_dim;
        float *key = buffers.keys + i * width, *value = buffers.values + i * width;
        convert(task.k_cache, task.cache_type, at, task.head_dim, key);
        convert(task.v_cache, task.cache_type, at, task.head_dim, value);
        for (int64_t j = task.head_dim; j < width; j++) key[j] = value[j] = 0.0f;
    }
    int64_t rest = (TILE_ROWS - count % TILE_ROWS) % TILE_ROWS;
    std::memset(buffers.keys + count * width, 0, static_cast<size_t>(rest * width) * sizeof(float));
}

// Scores -> scaled ones, -inf in the places of the outer vectors that are not seen; returns the largest, or `most`.
TGI_INLINE float scale_scores(float* scores, int64_t from, int64_t to, float scale, float most) {
    const float lowest = -__builtin_inff();
    int64_t begin = from / 8 * 8, end = (to + 7) / 8 * 8;
    for (int64_t i = begin; i < from; i++) scores[i] = lowest;
    for (int64_t i = to; i < end; i++) scores[i] = lowest;
    Float8 highest = all(most);
    for (int64_t i = begin; i < end; i += 8) {
        Float8 scaled = load(scores + i) * all(scale);
        store(scores + i, scaled);
        highest = larger(scaled, highest);
    }
    return largest(highest);
}

// Scaled scores -> weights relative to the largest score; returns their sum.
TGI_INLINE float soften(float* scores, int64_t from, int64_t to, float most) {
    Float8 total = {};
    for (int64_t i = from / 8 * 8; i < to; i += 8) {
        Float8 weight = exponential(load(scores + i) - all(most));
        store(scores + i, weight);
        total += weight;
    }
    return sum(total);
}

// sums = sums * factor + weights . values, for M queries and V vectors of the head; positions [from, to).
template <int M, int V>
TGI_INLINE void add_values(
    const float* weights, const float* values, int64_t width, int64_t from, int64_t to, const float* factors, float* sums) {
    Float8 result[M * V];
    for (int m = 0; m < M; m++)
        for (int v = 0; v < V; v++) result[m * V + v] = load(sums + m * width + 8 * v) * all(factors[m]);
    for (int64_t i = from; i < to; i++) {
        Float8 value[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) value[v] = load(values + i * width + 8 * v);
#pragma GCC unroll 4
        for (int m = 0; m < M; m++) {
            Float8 weight = all(weights[m * TILE_KEYS + i]);
#pragma GCC unroll 8
            for (int v = 0; v < V; v++) result[m * V + v] = fused(weight, value[v], result[m * V + v]);
        }
    }
    for (int m = 0; m < M; m++)
        for (int v = 0; v < V; v++) store(sums + m * width + 8 * v, result[m * V + v]);
}

template <int M>
TGI_INLINE void add_all_values(
    const float* weights, const float* values, int64_t width, int64_t from, int64_t to, const float* factors, float* sums) {
    int64_t column = 0;
    for (; column + 32 <= width; column += 32)
        add_values<M, 4>(weights, values + column, width, from, to, factors, sums + column);
    for (; column < width; column += 8)
        add_values<M, 1>(weights, values + column, width, from, to, factors, sums + column);
}

// One tile for the queries of one token: `rows` heads that share the kv head.
static void attend_tile(
    const AttentionTask& task, int64_t start, int64_t position, int64_t row, int64_t rows, int64_t width,
    AttentionBuffers& buffers) {
    int64_t first = task.window > 0 && position + 1 > task.window ? position + 1 - task.window : 0;
    int64_t from = first > start ? first - start : 0;
    int64_t to = position + 1 - start < TILE_KEYS ? position + 1 - start : TILE_KEYS;
    if (from >= to) return;  // the tile lies outside what this token sees
    alignas(32) float factors[GROUP_ROWS] = {};  // what scales the sums of earlier tiles to the new maximum
    for (int64_t i = 0; i < rows; i++) {
        float before = buffers.most[row + i];
        float most = scale_scores(buffers.weights + (row + i) * TILE_KEYS, from, to, task.scale, before);
        factors[i] = before - most;
        buffers.most[row + i] = most;
    }
    for (int64_t i = 0; i < rows; i += 8) store(factors + i, exponential(load(factors + i)));
    for (int64_t i = row; i < row + rows; i++) {
        float total = soften(buffers.weights + i * TILE_KEYS, from, to, buffers.most[i]);
        buffers.total[i] = buffers.total[i] * factors[i - row] + total;
    }
    for (int64_t i = 0; i < rows;) {
        const float* weights = buffers.weights + (row + i) * TILE_KEYS;
        float* sums = buffers.sums + (row + i) * width;
        if (rows - i >= 3) {
            add_all_values<3>(weights, buffers.values, width, from, to, factors + i, sums);
            i += 3;
        } else if (rows - i == 2) {
            add_all_values<2>(weights, buffers.values, width, from, to, factors + i, sums);
            i += 2;
        } else {
            add_all_values<1>(weights, buffers.values, width, from, to, factors + i, sums);
            i += 1;
        }
    }
}

// Where the result of a span of a group begins, for the slice of heads from `head` on.
TGI_INLINE float* partial_rows(const AttentionTask& task, const QueryGroup& group, int64_t span, int64_t head) {
    int64_t size = (task.head_dim + 7) / 8 * 8 + PARTIAL_EXTRA;
    return task.partials + (group.partial + (span * task.heads + head) * group.count) * size;
}

// What one thread computes: `heads` query heads of each kv head, from the `skipped`th of those that share it on.
struct Work {
    const AttentionTask& task;
    const QueryGroup& group;
    const SpanOfGroup& item;
    int64_t skipped;
    int64_t heads;
    int64_t width;  // head_dim up to whole vectors

    int64_t rows() const { return group.count * heads; }  // of a kv head, tokens first
    int64_t head(int64_t kv_head) const { return (item.kv_head + kv_head) * (task.heads / task.kv_heads) + skipped; }
};

static void begin_rows(const Work& work, AttentionBuffers& buffers) {
    const AttentionTask& task = work.task;
    for (int64_t row = 0; row < work.item.kv_heads * work.rows(); row++) {
        int64_t token = row % work.rows() / work.heads, head = work.head(row / work.rows()) + row % work.heads;
        const float* q = task.q + (work.group.first + token) * task.q_token_stride + head * task.q_head_stride;
        float *query = buffers.query + row * work.width, *sums = buffers.sums + row * work.width;
        std::memcpy(query, q, static_cast<size_t>(task.head_dim) * sizeof(float));
        for (int64_t i = task.head_dim; i < work.width; i++) query[i] = 0.0f;
        std::memset(sums, 0, static_cast<size_t>(work.width) * sizeof(float));
        buffers.most[row] = -__builtin_inff();
        buffers.total[row] = 0.0f;
    }
}

// The results: of the whole context, or of a span, for merge_spans_units.
static void finish_rows(const Work& work, const AttentionBuffers& buffers) {
    const AttentionTask& task = work.task;
    for (int64_t row = 0; row < work.item.kv_heads * work.rows(); row++) {
        int64_t kv_head = row / work.rows(), within = row % work.rows(), head = work.head(kv_head);
        const float* sums = buffers.sums + row * work.width;
        if (work.group.spans > 1) {
            float* partial = partial_rows(task, work.group, work.item.span, head) + within * (work.width + PARTIAL_EXTRA);
            std::memcpy(partial, sums, static_cast<size_t>(work.width) * sizeof(float));
            partial[work.width] = buffers.most[row];
            partial[work.width + 1] = buffers.total[row];
        } else {
            int64_t token = work.group.first + within / work.heads;
            float* out = task.out + (token * task.heads + head + within % work.heads) * task.head_dim;
            for (int64_t i = 0; i < task.head_dim; i++) out[i] = sums[i] / buffers.total[row];
        }
    }
}

static void attend(const Work& work, AttentionBuffers& buffers) {
    const AttentionTask& task = work.task;
    const QueryGroup& group = work.group;
    int64_t rows = work.rows(), width = work.width, end = group.position + group.count;
    int64_t span_start = work.item.span * SPAN, stop = end < span_start + SPAN ? end : span_start + SPAN;
    int64_t first = task.window > 0 && group.position + 1 > task.window ? group.position + 1 - task.window : 0;
    if (first < span_start) first = span_start;
    begin_rows(work, buffers);
    for (int64_t start = first / TILE_KEYS * TILE_KEYS; start < stop; start += TILE_KEYS) {
        int64_t count = stop - start < TILE_KEYS ? stop - start : TILE_KEYS;
        for (int64_t kv_head = 0; kv_head < work.item.kv_heads; kv_head++) {
            int64_t row = kv_head * rows;
            gather_tile(task, group, work.item.kv_head + kv_head, start, count, width, buffers);
            float sums[GROUP_ROWS * TILE_ROWS];
            for (int64_t n = 0; n < count; n += TILE_ROWS) {
                dot_rows(buffers.query + row * width, width, rows, buffers.keys + n * width, width, width, sums, true);
                for (int64_t i = 0; i < rows; i++)
                    std::memcpy(buffers.weights + (row + i) * TILE_KEYS + n, sums + i * TILE_ROWS, TILE_ROWS * sizeof(float));
            }
            for (int64_t token = 0; token < group.count; token++)
                attend_tile(task, start, group.position + token, row + token * work.heads, work.heads, width, buffers);
        }
    }
    finish_rows(work, buffers);
}

// One row of a group's result, from its spans: `partial` is the first's, the others follow at `stride`.
static void merge_row(const float* partial, int64_t stride, int64_t spans, int64_t hd, int64_t width, float* out) {
    const float lowest = -__builtin_inff();
    float most = lowest, total = 0.0f;
    for (int64_t span = 0; span < spans; span++) {
        float here = partial[span * stride + width];
        most = here > most ? here : most;
    }
    alignas(32) float sums[MAX_HEAD_DIM] = {};
    for (int64_t span = 0; span < spans; span++) {
        const float* values = partial + span * stride;
        if (values[width + 1] == 0.0f) continue;  // the row sees nothing there
        Float8 factor = exponential(all(values[width] - most));
        total += values[width + 1] * factor[0];
        for (int64_t i = 0; i < width; i += 8) store(sums + i, load(sums + i) + load(values + i) * factor);
    }
    for (int64_t i = 0; i < hd; i++) out[i] = sums[i] / total;
}

// Unit: one group of queries.
static void merge_spans_units(const void* argument, int64_t begin, int64_t end) {
    const AttentionTask& task = *static_cast<const AttentionTask*>(argument);
    int64_t hd = task.head_dim, width = (hd + 7) / 8 * 8, size = width + PARTIAL_EXTRA;
    int64_t share = task.heads / task.kv_heads;
    for (int64_t unit = begin; unit < end; unit++) {
        const QueryGroup& group = task.groups[unit];
        if (group.spans == 1) continue;
        for (int64_t head = 0; head < task.heads;) {
            int64_t left = share - head % share, heads = left < GROUP_ROWS ? left : GROUP_ROWS;
            for (int64_t row = 0; row < group.count * heads; row++) {
                float* out = task.out + ((group.first + row / heads) * task.heads + head + row % heads) * hd;
                const float* partial = partial_rows(task, group, 0, head) + row * size;
                merge_row(partial, task.heads * group.count * size, group.spans, hd, width, out);
            }
            head += heads;
        }
    }
}

// Unit: one span of a group of queries for some kv heads, and at most GROUP_ROWS of the heads that share each.
static void attention_units(const void* argument, int64_t begin, int64_t end) {
    const AttentionTask& task = *static_cast<const AttentionTask*>(argument);
    static thread_local AttentionBuffers buffers;  // 0.3 MiB: too much for a caller's stack
    int64_t share = task.heads / task.kv_heads, slices = (share + GROUP_ROWS - 1) / GROUP_ROWS;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t skipped = unit % slices * GROUP_ROWS;
        int64_t heads = share - skipped < GROUP_ROWS ? share - skipped : GROUP_ROWS;
        const SpanOfGroup& item = task.spans[unit / slices];
        attend({task, task.groups[item.group], item, skipped, heads, (task.head_dim + 7) / 8 * 8}, buffers);
    }
}

}  // namespace TGI_PATH
}  // namespace tgi
