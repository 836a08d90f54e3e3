// Causal attention over the paged cache.
//
// The positions of a request are cut in spans of SPAN, counted from position 0. A query meets a span so:
// - It is multiplied with scale * log2 e. Its score with a key: lane l adds up the products of columns l, l + 8, l + 16,
//   ... in that order, fused; then the lanes, ((0+4)+(2+6)) + ((1+5)+(3+7)).
// - The weights of positions are the powers of two of their scores less the largest of those it sees. Their sum: lane l
//   adds up positions l, l + 8, ... of the span, and the lanes are added as `sum` does. Positions not seen count as
//   2^-125 where they share eight with one that is; beside the largest, 1, that is nothing.
// - Weighted values are added position after position, fused, to zeros.
// Over a cache in bfloat16 queries and weights are rounded to bfloat16 as well, columns and positions (from the span's
// start) meet in pairs, the second of a pair first, and numbers below 2^-126 count as zeros: a score's lane l adds up
// pairs l, l + 8, ... That is what AVX512_BF16 computes: at twice the rate of float32 on AMD's Zen 4, at half of it on
// Intel's Emerald Rapids. Where it is slower, or missing, the same is added up in float32.
//
// With more than one span, their results are scaled to the largest maximum and added in order (merge_row). At last the
// values are divided by the sum of weights.
//
// So the order depends on the query's position and the window only. Everything else, which queries meet a key at once,
// how many lanes are computed at once, blocks, threads, changes which elements are computed together, never this order.
//
// A thread takes a few neighbouring tokens of a request and the heads that share a kv head: all scores of a span, then
// all weights, then all values, tile by tile. With few rows, keys and values in 16 bits are converted in registers;
// with more, a tile is converted in memory once for all of them, where there are wide vectors with keys transposed.
#pragma once

#include "attention_tiles.h"
#include "attention_pairs.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace tgi {
namespace TGI_PATH {

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
    int64_t span_start() const { return item.span * SPAN; }
    int64_t end() const {  // of what the last token sees of the span
        int64_t end = group.position + group.count - span_start();
        return end < SPAN ? end : SPAN;
    }
    int64_t begin(int64_t token) const {  // of what a token sees
        int64_t begin = task.window > 0 ? group.position + token + 1 - task.window - span_start() : 0;
        return begin > 0 ? begin : 0;
    }
};

// The vectors of positions [begin, end) of a span: in `keys` and `values` from `begin` on.
static void find_vectors(
    const Work& work, int64_t begin, int64_t end, const uint8_t** keys, const uint8_t** values) {
    const AttentionTask& task = work.task;
    const int32_t* table = task.block_tables + work.group.request * task.table_stride;
    int64_t vector = task.head_dim * item_bytes(task.cache_type), first = work.span_start() + begin;
    int64_t block = first / task.block_size, offset = first % task.block_size;
    for (int64_t i = begin; i < end; block++, offset = 0) {
        int64_t slot = table[block] * task.block_size + offset, at = (slot * task.kv_heads + work.item.kv_head) * vector;
        int64_t stop = i + task.block_size - offset < end ? i + task.block_size - offset : end;
        for (; i < stop; i++, at += task.kv_heads * vector) {
            keys[i] = static_cast<const uint8_t*>(task.k_cache) + at;
            values[i] = static_cast<const uint8_t*>(task.v_cache) + at;
        }
    }
}

template <int TYPE>
static void begin_rows(const Work& work, AttentionBuffers& buffers) {
    const AttentionTask& task = work.task;
    float scale = task.scale * 1.44269504088896341f;  // log2 e
    for (int64_t row = 0; row < work.item.kv_heads * work.rows(); row++) {
        int64_t token = row % work.rows() / work.heads, head = work.head(row / work.rows()) + row % work.heads;
        const float* q = task.q + (work.group.first + token) * task.q_token_stride + head * task.q_head_stride;
        float *query = buffers.query + row * work.width, *sums = buffers.sums + row * work.width;
        for (int64_t i = 0; i < task.head_dim; i++) query[i] = q[i] * scale;
        for (int64_t i = task.head_dim; i < work.width; i++) query[i] = 0.0f;
#if defined(TGI_PAIRS)
        if (TYPE == PAIRED_BF16) keep_halves(query, work.width);
#endif
        if (TYPE == CACHE_BF16) {
            for (int64_t i = 0; i < work.width; i += 8) store(query + i, rounded(load(query + i)));
            for (int64_t i = 0; i < work.width; i += 16) part_pairs(query + i);
        }
        std::memset(sums, 0, static_cast<size_t>(work.width) * sizeof(float));
        int64_t end = work.group.position + token + 1 - work.span_start();
        buffers.from[row] = work.begin(token);
        buffers.to[row] = end < SPAN ? end : SPAN;
    }
}

// A row's scores -> weights relative to the largest score, which it returns with their sum.
template <int TYPE>
TGI_INLINE void soften(float* scores, int64_t from, int64_t to, float& largest_score, float& total) {
    const float lowest = -__builtin_inff();
    largest_score = lowest, total = 0.0f;
    if (from >= to) return;  // it sees nothing of the span
    int64_t begin = from / 8 * 8, end = (to + 7) / 8 * 8;
    for (int64_t i = begin; i < from; i++) scores[i] = lowest;
    for (int64_t i = to; i < end; i++) scores[i] = lowest;
#if defined(TGI_VNNI)
    float most = largest_wide(scores, begin, end);
    Float8 sums = weigh_wide<TYPE>(scores, begin, end, most);
#else
    Float8 highest = all(lowest), sums = {};
    for (int64_t i = begin; i < end; i += 8) highest = larger(load(scores + i), highest);
    float most = largest(highest);
    for (int64_t i = begin; i < end; i += 8) {
        Float8 weight = power(load(scores + i) - all(most));
        if (in_pairs(TYPE)) weight = rounded(weight);
        store(scores + i, weight);
        sums += weight;
    }
#endif
    largest_score = most, total = sum(sums);
}

// Where the result of a span of a group begins, for the slice of heads from `head` on.
TGI_INLINE float* partial_rows(const AttentionTask& task, const QueryGroup& group, int64_t span, int64_t head) {
    int64_t size = (task.head_dim + 7) / 8 * 8 + PARTIAL_EXTRA;
    return task.partials + (group.partial + (span * task.heads + head) * group.count) * size;
}

// The results: of the whole context, or of a span, for merge_spans_units.
static void finish_rows(const Work& work, const AttentionBuffers& buffers) {
    const AttentionTask& task = work.task;
    int64_t width = (task.head_dim + 7) / 8 * 8;
    for (int64_t row = 0; row < work.item.kv_heads * work.rows(); row++) {
        int64_t kv_head = row / work.rows(), within = row % work.rows(), head = work.head(kv_head);
        const float* sums = buffers.sums + row * work.width;
        if (work.group.spans > 1) {
            float* partial = partial_rows(task, work.group, work.item.span, head) + within * (width + PARTIAL_EXTRA);
            std::memcpy(partial, sums, static_cast<size_t>(width) * sizeof(float));
            partial[width] = buffers.most[row];
            partial[width + 1] = buffers.total[row];
        } else {
            int64_t token = work.group.first + within / work.heads;
            float* out = task.out + (token * task.heads + head + within % work.heads) * task.head_dim;
            for (int64_t i = 0; i < task.head_dim; i++) out[i] = sums[i] / buffers.total[row];
        }
    }
}

// Every tile of the span for every kv head.
template <int TYPE, bool SCORES>
static void attend_tiles(const Work& work, Vectors vectors, int64_t begin, int64_t end, AttentionBuffers& buffers) {
    int64_t rows = work.rows(), head_dim = work.task.head_dim;
    constexpr int CONVERTED = TYPE == CACHE_BF16 ? int{CONVERTED_BF16} : int{CACHE_F32};
    bool convert = head_dim != work.width || (TYPE != CACHE_F32 && rows >= CONVERTED_ROWS);
    bool few = rows < CONVERTED_ROWS && !convert;
    int64_t step = few ? few_keys(TYPE) : TILE_KEYS;
    for (int64_t start = begin; start < end; start += step) {
        int64_t stop = start + step < end ? start + step : end;
        for (int64_t kv_head = 0; kv_head < work.item.kv_heads; kv_head++) {
            Tile tile{vectors + start, kv_head * head_dim * item_bytes(TYPE), start, stop, work.width};
            int64_t row = kv_head * rows;
#if defined(TGI_PAIRS)
            if constexpr (TYPE == PAIRED_BF16) {
                attend_pairs<SCORES>(tile, head_dim, row, rows, buffers);
                continue;
            }
#endif
#if defined(TGI_VNNI)
            if (rows >= WIDE_ROWS) {
                if (SCORES)
                    transpose_keys<TYPE>(tile, head_dim * item_bytes(TYPE), buffers);
                else
                    converted<TYPE, SCORES>(tile, head_dim, buffers);
                Tile wide{buffers.tile_rows, 0, start, stop, work.width};
                attend_wide<CONVERTED, SCORES>(wide, row, rows, buffers);
                continue;
            }
#endif
            if (convert)
                attend_tile<CONVERTED, SCORES, 0>(
                    converted<TYPE, SCORES>(tile, head_dim, buffers), row, rows, buffers);
            else if (few)
                attend_tile<TYPE, SCORES, few_keys(TYPE)>(tile, row, rows, buffers);
            else
                attend_tile<TYPE, SCORES, AHEAD>(tile, row, rows, buffers);
        }
    }
}

template <int TYPE>
static void attend(const Work& work, const Work* next, AttentionBuffers& buffers) {
    int64_t begin = work.begin(0) / TOGETHER * TOGETHER, end = work.end();
    begin_rows<TYPE>(work, buffers);
    if (begin < end) {
        find_vectors(work, begin, end, buffers.keys, buffers.values);
        // After the keys the values are read, after those the next unit's keys.
        const uint8_t* unused[AHEAD];
        int64_t few = end - begin < AHEAD ? end - begin : AHEAD;
        for (int64_t i = 0; i < AHEAD; i++) {
            buffers.keys[end + i] = buffers.values[begin + (i < few ? i : 0)];
            buffers.values[end + i] = buffers.values[begin];
        }
        if (next) {
            int64_t skip = next->begin(0) / TOGETHER * TOGETHER, there = next->end() - skip < AHEAD ? next->end() : skip + AHEAD;
            if (skip < there) find_vectors(*next, skip, there, buffers.values + end - skip, unused - skip);
        }
        attend_tiles<TYPE, true>(work, buffers.keys, begin, end, buffers);
    }
    for (int64_t row = 0; row < work.item.kv_heads * work.rows(); row++)
        soften<TYPE>(buffers.scores + row * SPAN, buffers.from[row], buffers.to[row], buffers.most[row], buffers.total[row]);
    if (begin < end) attend_tiles<TYPE, false>(work, buffers.values, begin, end, buffers);
    finish_rows(work, buffers);
}

// Over a cache in bfloat16. Numbers below 2^-126 count as zeros, as they do where pairs are multiplied.
static void attend_brain(const Work& work, const Work* next, AttentionBuffers& buffers) {
#if defined(__SSE2__)
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);
#endif
#if defined(TGI_PAIRS)
    attend<PAIRED_BF16>(work, next, buffers);
#else
    attend<CACHE_BF16>(work, next, buffers);
#endif
#if defined(__SSE2__)
    _mm_setcsr(mode);
#endif
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
        Float8 factor = power(all(values[width] - most));
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

// Floats between rows: head_dim up to whole vectors, in bfloat16 of pairs.
TGI_INLINE int64_t row_width(const AttentionTask& task) {
    return task.cache_type == CACHE_BF16 ? (task.head_dim + 15) / 16 * 16 : (task.head_dim + 7) / 8 * 8;
}

TGI_INLINE Work work_of(const AttentionTask& task, int64_t unit) {
    int64_t share = task.heads / task.kv_heads, slices = (share + GROUP_ROWS - 1) / GROUP_ROWS;
    int64_t skipped = unit % slices * GROUP_ROWS;
    const SpanOfGroup& item = task.spans[unit / slices];
    return {task, task.groups[item.group], item, skipped, share - skipped < GROUP_ROWS ? share - skipped : GROUP_ROWS,
            row_width(task)};
}

// Unit: one span of a group of queries for some kv heads, and at most GROUP_ROWS of the heads that share each.
static void attention_units(const void* argument, int64_t begin, int64_t end) {
    const AttentionTask& task = *static_cast<const AttentionTask*>(argument);
    static thread_local AttentionBuffers own_buffers;  // too much for a caller's stack
    AttentionBuffers* known = &own_buffers;
    asm("" : "+r"(known));  // or the compiler asks for the thread's address again in every loop, by a call
    AttentionBuffers& buffers = *known;
    int64_t width = row_width(task);
    for (int64_t i = 0; i < TILE_KEYS + AHEAD; i++)
        buffers.tile_rows[i] = reinterpret_cast<const uint8_t*>(buffers.tile + i % TILE_KEYS * width);
    for (int64_t unit = begin; unit < end; unit++) {
        Work work = work_of(task, unit), next = work_of(task, unit + 1 < end ? unit + 1 : unit);
        const Work* after = unit + 1 < end ? &next : nullptr;
        switch (task.cache_type) {
            case CACHE_F32: attend<CACHE_F32>(work, after, buffers); break;
            case CACHE_F16: attend<CACHE_F16>(work, after, buffers); break;
            default: attend_brain(work, after, buffers); break;
        }
    }
}

}  // namespace TGI_PATH
}  // namespace tgi
