// Tiles of attention over a cache in bfloat16 where the processor adds up products of pairs (AVX512_BF16) faster than
// products: for few queries nothing is converted either. The order is attention.h's.
#pragma once

#include "attention_wide.h"

#if defined(TGI_PAIRS)

namespace tgi {
namespace TGI_PATH {

// Floats -> bfloat16, where they lie.
TGI_INLINE void keep_halves(float* values, int64_t count) {
    __m256i* out = reinterpret_cast<__m256i*>(values);
    for (int64_t i = 0; i < count; i += WIDE) _mm256_storeu_si256(out + i / WIDE, halves(load_wide(values + i)));
}

// Two positions of sixteen or 32 columns (V) -> pairs.
template <int V>
TGI_INLINE void load_pairs(const uint8_t* first, const uint8_t* second, __m512i* out) {
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37,
                                         5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    if (V == 1) {
        __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first));
        __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second));
        out[0] = _mm512_permutex2var_epi16(_mm512_castsi256_si512(a), low, _mm512_castsi256_si512(b));
    } else {
        const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
        __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(second);
        out[0] = _mm512_permutex2var_epi16(a, low, b);
        out[1] = _mm512_permutex2var_epi16(a, high, b);
    }
}

// Scores of M queries against eight keys.
template <int M, int64_t ASK>
TGI_INLINE void score_eight_pairs(const float* query, int64_t width, Vectors keys, int64_t offset, float* scores) {
    const int order[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    const uint8_t* key[8];
#pragma GCC unroll 8
    for (int n = 0; n < 8; n++) key[n] = keys[order[n]] + offset;
    Float8 sums[M * 8] = {};
    for (int64_t k = 0; k < width; k += 16) {
        if (ASK && k % 32 == 0)
            for (int n = 0; n < 8; n++) __builtin_prefetch(keys[ASK + n] + offset + 2 * k, 0, 2);
        Float8 rows[M];
#pragma GCC unroll 3
        for (int m = 0; m < M; m++) rows[m] = load(query + m * width + k / 2);
#pragma GCC unroll 8
        for (int n = 0; n < 8; n++) {
            Float8 column = load_as<CACHE_F32>(key[n] + 2 * k);
#pragma GCC unroll 3
            for (int m = 0; m < M; m++) sums[m * 8 + n] = pairs_added(rows[m], column, sums[m * 8 + n]);
        }
    }
#pragma GCC unroll 3
    for (int m = 0; m < M; m++)
        store(scores + m * SPAN, fold_last(fold_four(sums + m * 8), fold_four(sums + m * 8 + 4)));
}

template <int M, int64_t ASK>
TGI_APART void score_pairs(const Tile& tile, int64_t row, AttentionBuffers& buffers) {
    Seen seen = seen_by(buffers, row, M, tile.start, tile.end);
    for (int64_t i = seen.from / 8 * 8; i < seen.to; i += 8)
        score_eight_pairs<M, ASK>(
            buffers.query + row * tile.width, tile.width, tile.vectors + (i - tile.start), tile.offset,
            buffers.scores + row * SPAN + i);
}

// sums += weights . values of positions [from, to), for M queries and 16 V columns from `column` on.
template <int M, int V, int64_t ASK>
TGI_INLINE void add_pairs(
    const Tile& tile, int64_t column, int64_t from, int64_t to, const float* weights, float* sums) {
    alignas(64) static const uint8_t zeros[64] = {};
    Float16 result[M * V];
    int64_t offset = tile.offset + 2 * column;
    Vectors vectors = tile.vectors - tile.start;
#pragma GCC unroll 3
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) result[m * V + v] = load_wide(sums + m * tile.width + column + WIDE * v);
    for (int64_t i = from / 2 * 2; i < to; i += 2) {
        const uint8_t *first = vectors[i] + offset, *second = vectors[i + 1] + offset;
        if (ASK) {
            ask_for(vectors[i + ASK] + offset, 32 * V);
            ask_for(vectors[i + 1 + ASK] + offset, 32 * V);
        }
        __m512i value[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; v += 2)
            load_pairs<V == 1 ? 1 : 2>(
                i < from ? zeros : first + 32 * v, i + 1 < to ? second + 32 * v : zeros, value + v);
#pragma GCC unroll 3
        for (int m = 0; m < M; m++) {
            Float16 weight = all_wide(weights[m * SPAN + i / 2]);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) result[m * V + v] = pairs_added((Float16)value[v], weight, result[m * V + v]);
        }
    }
#pragma GCC unroll 3
    for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) store(sums + m * tile.width + column + WIDE * v, result[m * V + v]);
}

template <int M, int64_t ASK>
TGI_APART void add_all_pairs(const Tile& tile, int64_t from, int64_t to, int64_t row, AttentionBuffers& buffers) {
    if (from >= to) return;
    const float* weights = buffers.scores + row * SPAN;
    float* sums = buffers.sums + row * tile.width;
    int64_t column = 0;
    for (; column + 64 <= tile.width; column += 64) add_pairs<M, 4, ASK>(tile, column, from, to, weights, sums);
    for (; column < tile.width; column += 16) add_pairs<M, 1, ASK>(tile, column, from, to, weights, sums);
}

template <int M, int64_t ASK>
TGI_INLINE void add_pair_rows(const Tile& tile, int64_t row, AttentionBuffers& buffers) {
    Seen seen = seen_by(buffers, row, M, tile.start, tile.end);
    if (seen.from == seen.all_from && seen.to == seen.all_to)
        return add_all_pairs<M, ASK>(tile, seen.from, seen.to, row, buffers);
    for (int64_t i = row; i < row + M; i++) {
        Seen own = seen_by(buffers, i, 1, tile.start, tile.end);
        add_all_pairs<1, 0>(tile, own.from, own.to, i, buffers);
    }
}

// The tile's values in pairs of positions, with zeros up to whole vectors.
static void pair_values(const Tile& tile, int64_t head_dim, AttentionBuffers& buffers) {
    for (int64_t i = 0; i < tile.end - tile.start; i += 2) {
        const uint8_t* vectors[2] = {tile.vectors[i] + tile.offset, tile.vectors[i + 1] + tile.offset};
        __m512i* out = reinterpret_cast<__m512i*>(buffers.tile + i / 2 * tile.width);
        for (int n = 0; n < 2; n++) ask_for(tile.vectors[i + n + AHEAD] + tile.offset, 2 * head_dim);
        int64_t k = 0;
        for (; k + 32 <= head_dim; k += 32) load_pairs<2>(vectors[0] + 2 * k, vectors[1] + 2 * k, out + k / 16);
        for (; k < head_dim; k += 16) {
            uint8_t rest[2][32] = {};
            size_t bytes = static_cast<size_t>(head_dim - k < 16 ? 2 * (head_dim - k) : 32);
            for (int n = 0; n < 2; n++) std::memcpy(rest[n], vectors[n] + 2 * k, bytes);
            load_pairs<1>(rest[0], rest[1], out + k / 16);
        }
    }
}

// The tile's vectors as they are, with zeros up to whole vectors.
static Tile padded(const Tile& tile, int64_t head_dim, AttentionBuffers& buffers) {
    size_t bytes = static_cast<size_t>(2 * head_dim);
    for (int64_t i = 0; i < tile.end - tile.start; i++) {
        uint8_t* out = reinterpret_cast<uint8_t*>(buffers.tile + i * tile.width);
        std::memset(out, 0, static_cast<size_t>(2 * tile.width));
        std::memcpy(out, tile.vectors[i] + tile.offset, bytes);
    }
    return {buffers.tile_rows, 0, tile.start, tile.end, tile.width};
}

template <int M, bool SCORES, int64_t ASK>
TGI_INLINE void attend_rows(const Tile& tile, int64_t row, AttentionBuffers& buffers) {
    if (SCORES)
        score_pairs<M, ASK>(tile, row, buffers);
    else
        add_pair_rows<M, ASK>(tile, row, buffers);
}

// All rows of a kv head against a tile of the cache.
template <bool SCORES>
static void attend_pairs(const Tile& tile, int64_t head_dim, int64_t row, int64_t rows, AttentionBuffers& buffers) {
    if (rows >= WIDE_ROWS) {
        if (SCORES)
            transpose_keys<CACHE_F32>(
                {tile.vectors, tile.offset, tile.start, tile.end, tile.width / 2}, 2 * head_dim, buffers);
        else
            pair_values(tile, head_dim, buffers);
        return attend_wide<PAIRED_BF16, SCORES>(tile, row, rows, buffers);
    }
    constexpr int64_t ASK = few_keys(PAIRED_BF16);
    Tile whole = head_dim == tile.width ? tile : padded(tile, head_dim, buffers);
    int64_t end = row + rows;
    for (; end - row >= 3 && end - row != 4; row += 3) attend_rows<3, SCORES, ASK>(whole, row, buffers);
    for (; end - row >= 2; row += 2) attend_rows<2, SCORES, ASK>(whole, row, buffers);
    if (row < end) attend_rows<1, SCORES, ASK>(whole, row, buffers);
}

}  // namespace TGI_PATH
}  // namespace tgi

#endif
